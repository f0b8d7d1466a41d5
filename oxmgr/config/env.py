"""Environment variables: expansion of `~`, `$VAR`, `${VAR}`, `$$`, and dotenv files."""

from oxmgr.config.errors import ConfigError, Problem


def expand(text: str, environ: dict[str, str]) -> str:
    """ValueError, as a sentence, for a variable that is not set or a `${` without its end."""
    out: list[str] = []
    at = 0
    if text == "~" or text.startswith("~/"):
        out.append(_variable("HOME", environ))
        at = 1
    while at < len(text):
        char = text[at]
        at += 1
        if char != "$":
            out.append(char)
        elif text.startswith("$", at):
            out.append("$")
            at += 1
        elif text.startswith("{", at):
            end = text.find("}", at)
            name = text[at + 1 : end]
            if end < 0 or not _is_name(name):
                raise ValueError(f"${{{name if end >= 0 else '…'} is not a variable: write ${{NAME}}, or $$ for a $")
            out.append(_variable(name, environ))
            at = end + 1
        else:
            end = at
            while end < len(text) and _is_name(text[at : end + 1]):
                end += 1
            out.append(_variable(text[at:end], environ) if end > at else "$")
            at = end
    return "".join(out)


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier()


def _variable(name: str, environ: dict[str, str]) -> str:
    if name not in environ:
        raise ValueError(f"${name} is not set in your environment: set it, or write $$ for a $")
    return environ[name]


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a dotenv file; values are taken as they stand, nothing is expanded in them.

    `export ` may stand before a name. A value in single quotes is taken literally and one in double quotes
    with `\\n \\r \\t \\" \\\\ \\$`; both may span lines. In others, ` #` begins a comment. ConfigError with the line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=None) as file:
            text = file.read()
    except OSError as error:
        raise ConfigError([Problem(path, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(path, "", "is not UTF-8 text")]) from None
    found: dict[str, str] = {}
    problems: list[Problem] = []
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip()
        place = f"{path}:{text.count(chr(10), 0, at) + 1}"
        name, equals, _ = line.partition("=")
        name = name.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            at = end + 1
            continue
        if not equals or not _is_name(name):
            problems.append(Problem(place, "", f"{line[:40]!r} is not NAME=value"))
            at = end + 1
            continue
        at = text.index("=", at) + 1
        while at < end and text[at] in " \t":
            at += 1
        try:
            found[name], at = _env_value(text, at, end)
        except ValueError as error:
            problems.append(Problem(place, name, str(error)))
            break
    if problems:
        raise ConfigError(problems)
    return found


def _env_value(text: str, at: int, end: int) -> tuple[str, int]:
    """The value that starts at `at` on a line that ends at `end`, and where the next line starts."""
    quote = text[at : at + 1] if at < end else ""
    if quote not in ("'", '"') or not quote:
        value = text[at:end]
        for blank in (" #", "\t#"):
            value = value.partition(blank)[0]
        value = "" if value.startswith("#") else value.strip()
        if "\0" in value:
            raise ValueError("a value cannot hold a NUL")
        return value, end + 1
    out: list[str] = []
    at += 1
    while at < len(text) and text[at] != quote:
        char = text[at]
        if quote == '"' and char == "\\" and at + 1 < len(text):
            at += 1
            char = _ESCAPES.get(text[at], "\\" + text[at])
        out.append(char)
        at += 1
    if at >= len(text):
        raise ValueError(f"the value's {quote} is never closed")
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    rest = text[at + 1 : end].strip()
    if rest and not rest.startswith("#"):
        raise ValueError(f"{rest[:20]!r} stands behind the closing quote")
    if "\0" in out:
        raise ValueError("a value cannot hold a NUL")
    return "".join(out), end + 1

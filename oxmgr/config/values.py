"""A value as a user writes it → what it means, by the kind of its key."""

import json
import os

from oxmgr.config.command import parse_command
from oxmgr.config.cpus import count_usable, host_cpus, read_cpus
from oxmgr.config.env import expand
from oxmgr.config.errors import nearest
from oxmgr.config.keys import Key
from oxmgr.config.listen import read_listen
from oxmgr.config.ready import read_ready
from oxmgr.model.capabilities import capability_name, capability_names
from oxmgr.model.check import LINE_LIMIT, headers_error, url_error
from oxmgr.model.logpaths import log_name_error
from oxmgr.model.signals import signal_names, signal_number
from oxmgr.model.spec import NAME_LIMIT, STARTED, name_error
from oxmgr.model.urls import address, endpoint


class Reader:
    """Paths start from `folder`; `environ` is for `$VAR`."""

    def __init__(self, folder: str, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ

    def read(self, key: Key, value: object) -> object:
        """ValueError, as a sentence, is what is wrong with it."""
        return getattr(self, f"_{key.kind}")(key, value)

    # --- numbers and words ---

    def _int(self, key: Key, value: object, what: str = "a whole number") -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(expected(what, value))
        return _in_range(key, value)

    def _number(self, key: Key, value: object) -> object:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(expected("a number", value))
        return float(_in_range(key, value))

    def _bool(self, key: Key, value: object) -> object:
        if not isinstance(value, bool):
            raise ValueError(expected("true or false", value))
        return value

    def _choice(self, key: Key, value: object) -> object:
        if value not in key.choices:
            words = ", ".join(f'"{choice}"' for choice in key.choices)
            raise ValueError(f"expected one of {words}, got {show(value)}{nearest(str(value), list(key.choices))}")
        return value

    def _instances(self, key: Key, value: object) -> object:
        return count_usable() if value == "max" else self._int(key, value, 'a number or "max"')

    def _codes(self, key: Key, value: object) -> object:
        if not isinstance(value, list):
            raise ValueError(expected("an array of exit codes", value))
        return [self._int(key, code, "an exit code") for code in value]

    def _signal(self, key: Key, value: object) -> object:
        number = signal_number(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
        if number is None:
            raise ValueError(f"there is no signal {show(value)}{nearest(str(value).upper(), signal_names())}")
        return number

    # --- what runs, and with what ---

    def _command(self, key: Key, value: object) -> object:
        if isinstance(value, str) or _is_words(value):
            return parse_command(value)  # type: ignore[arg-type]
        raise ValueError(expected("a string or an array of strings", value))

    def _path(self, key: Key, value: object) -> object:
        if not isinstance(value, str) or not value:
            raise ValueError(expected("a path", value))
        if "\0" in value:
            raise ValueError("a path cannot hold a NUL")
        return os.path.normpath(os.path.join(self.folder, expand(value, self.environ)))

    def _log(self, key: Key, value: object) -> object:
        path = str(self._path(key, value))
        wrong = log_name_error(path)
        if wrong:
            raise ValueError(wrong)
        return path

    def _paths(self, key: Key, value: object) -> object:
        if not isinstance(value, list):
            raise ValueError(expected("an array of paths", value))
        paths = list(dict.fromkeys(str(self._path(key, one)) for one in value))
        for path in paths:
            if not os.path.exists(path):
                raise ValueError(f"{path} does not exist")
        return paths

    def _variable(self, key: Key, value: object) -> object:
        if not key.name or "=" in key.name or "\0" in key.name:
            raise ValueError(f"{key.name!r} cannot be a variable's name")
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        if not isinstance(value, str):
            raise ValueError(expected("a string, number or boolean", value))
        if "\0" in value:
            raise ValueError("a variable cannot hold a NUL")
        return expand(value, self.environ)

    def _namespace(self, key: Key, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(expected("a string", value))
        wrong = name_error(value)
        if wrong:
            raise ValueError(f"the namespace {cut(value)!r} {wrong}")
        return value

    def _depends(self, key: Key, value: object) -> object:
        if _is_words(value):
            return dict.fromkeys(value, STARTED)  # type: ignore[call-overload]
        if not isinstance(value, dict):
            raise ValueError(expected('names, or a table of them like { db = "started" }', value))
        for name, condition in value.items():
            if condition not in key.choices:
                raise ValueError(f'{name}: expected "started", "ready" or "exited", got {show(condition)}')
        return value

    def _ready(self, key: Key, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(expected("a string", value))
        return read_ready(value)

    def _listen(self, key: Key, value: object) -> object:
        return read_listen(value, self.folder, self.environ)

    def _endpoint(self, key: Key, value: object) -> object:
        if not isinstance(value, str) or not value.startswith("http://"):
            hint = (
                "; https is not asked: use the app's http port, or command" if str(value).startswith("https:") else ""
            )
            raise ValueError(expected("a URL that begins with http://", value) + hint)
        endpoint(value)
        return value

    def _tcp(self, key: Key, value: object) -> object:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError(expected("a port, or address:port", value))
        address(str(value))
        return str(value)

    def _words(self, key: Key, value: object) -> object:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError(expected("a command", value))
        return value

    # --- alerts: nothing shows what may be a secret ---

    def _kinds(self, key: Key, value: object) -> object:
        if not _is_words(value):
            raise ValueError(expected("an array of words", value))
        return tuple(dict.fromkeys(str(self._choice(key, one)) for one in value))  # type: ignore[attr-defined]

    def _url(self, key: Key, value: object) -> object:
        wrong = "expected a URL as a string"
        if isinstance(value, str):
            value = expand(value, self.environ)
            wrong = url_error(value) or ""
        if wrong:
            raise ValueError(wrong)
        return value

    def _headers(self, key: Key, value: object) -> object:
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ValueError('expected a table of strings, as { Authorization = "Bearer $TOKEN" }')
        found = {name: expand(one, self.environ) for name, one in value.items()}
        wrong = headers_error(found)
        if wrong:
            raise ValueError(wrong)
        return found

    # --- when ---

    def _schedule(self, key: Key, value: object) -> object:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(expected('a cron line as "30 2 * * *"', value))
        # Loaded only now: most files have none.
        from oxmgr.model.cron import line_error

        wrong = "has too many characters" if len(value) > LINE_LIMIT else line_error(value)
        if wrong:
            raise ValueError(f"{show(value)} {wrong}")
        return " ".join(value.split())

    def _zone(self, key: Key, value: object) -> object:
        if not isinstance(value, str) or not value:
            raise ValueError(expected('the name of a time zone as "Europe/Vienna"', value))
        from zoneinfo import ZoneInfo, available_timezones

        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):
            known = available_timezones()
            hint = nearest(value, list(known)) if known else ": this host has no time zones, install tzdata"
            raise ValueError(f"there is no time zone {show(value)}{hint}") from None
        return value

    # --- what is watched ---

    def _watch(self, key: Key, value: object) -> object:
        """True stands for the app's folder, which is not known yet."""
        if isinstance(value, bool):
            return value
        if not _is_words(value):
            raise ValueError(expected("true, false or an array of files and folders", value))
        return self._paths(key, value)

    def _extensions(self, key: Key, value: object) -> object:
        if not _is_words(value):
            raise ValueError(expected('an array of endings as ["js", "json"]', value))
        found = [word.removeprefix("*").removeprefix(".") for word in value]  # type: ignore[attr-defined]
        if not all(word and "/" not in word and "*" not in word and "\0" not in word for word in found):
            raise ValueError(expected('endings as "js" or ".js"', value))
        return list(dict.fromkeys(found))

    def _globs(self, key: Key, value: object) -> object:
        if not _is_words(value):
            raise ValueError(expected("an array of names and patterns", value))
        for word in value:  # type: ignore[attr-defined]
            if not word.strip("/") or "\0" in word or word.startswith(("/", "../", "./")):
                raise ValueError(f"expected a name, or a path from the watched folder on, got {show(word)}")
        return [word.removesuffix("/**").rstrip("/") for word in value]  # type: ignore[attr-defined]

    # --- limits and rights ---

    def _cpus(self, key: Key, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(expected('CPUs as "0-3,8"', value))
        return read_cpus(value, host_cpus())

    def _account(self, key: Key, value: object) -> object:
        """As it stands: what it means depends on other keys."""
        named = isinstance(value, str) and value and "\0" not in value
        if not named and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(expected(f"the name or number of a {key.name}", value))
        return value

    def _umask(self, key: Key, value: object) -> object:
        """From octal text, which oxmgr.config.oxfile makes of a `0o27` too.

        Of other numbers only those of one digit, which come to the same: 27 is meant as 0o27 and would be 0o33.
        """
        text = value.removeprefix("0o") if isinstance(value, str) else str(value)
        is_octal = text.isascii() and text.isdecimal() and not set(text) & set("89")
        if isinstance(value, int) and text.isdecimal() and len(text) > 1:
            hint = f': write "{text:0>3}" or 0o{text:0>3}' if is_octal and int(text, 8) <= key.high else ""
            raise ValueError(f"expected an octal number, got {value}, which TOML takes for a decimal one{hint}")
        if not is_octal or len(text) > 4 or int(text, 8) > key.high:
            raise ValueError(expected('an octal number from 000 to 777, as "027" or 0o027', value))
        return int(text, 8)

    def _capabilities(self, key: Key, value: object) -> object:
        if not _is_words(value):
            raise ValueError(expected("an array of names", value))
        found: dict[str, None] = {}
        for word in value:  # type: ignore[attr-defined]
            name = capability_name(word)
            if name is None:
                full = word.strip().upper()
                full = full if full.startswith("CAP_") else f"CAP_{full}"
                raise ValueError(f"there is no capability {show(word)}{nearest(full, capability_names())}")
            found[name] = None
        return list(found)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _in_range(key: Key, value: float) -> float:
    if not key.low <= value <= key.high:
        raise ValueError(f"expected {key.low:g} to {key.high:.15g}, got {value}")
    return value


# --- how values are told ---


def cut(name: str) -> str:
    return name if len(name) <= NAME_LIMIT + 8 else f"{name[:NAME_LIMIT]}…"


def expected(what: str, value: object) -> str:
    return f"expected {what}, got {show(value)}"


def show(value: object) -> str:
    """On one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        text = cut(value)
        return f'"{text}"' if text.isprintable() else json.dumps(text, ensure_ascii=False)
    return str(value)

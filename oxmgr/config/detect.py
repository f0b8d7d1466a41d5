"""Zero config: the words of `oxmgr start server.js` → an app."""

import json
import os

from oxmgr.config.command import SHELL, parse_command, program_error, which
from oxmgr.config.errors import error
from oxmgr.config.oxfile import DEFAULT_PATH
from oxmgr.model.spec import NAME_LIMIT, Spec, name_error

INTERPRETERS: dict[str, tuple[tuple[str, ...], ...]] = {
    ".js": (("node",), ("bun",)),
    ".cjs": (("node",), ("bun",)),
    ".mjs": (("node",), ("bun",)),
    ".ts": (("tsx",), ("bun",), ("deno", "run", "-A")),
    ".mts": (("tsx",), ("bun",), ("deno", "run", "-A")),
    ".py": (("python3",), ("python",)),
    ".sh": (("bash",), ("sh",)),
    ".rb": (("ruby",),),
    ".php": (("php",),),
    ".pl": (("perl",),),
    ".lua": (("lua",),),
    ".jar": (("java", "-jar"),),
}
"""By a file's ending: the programs that run it, the first that is there."""

VENVS = (".venv/bin/python", "venv/bin/python")


def app_from_words(
    words: list[str], *, cwd: str, environ: dict[str, str], name: str | None = None, **keys: object
) -> Spec:
    """The app that these words mean: a file with its arguments, or a command line (one word with blanks, or several).

    `keys` are further fields of Spec. ConfigError when there is no such file or program.
    """
    path = environ.get("PATH") or DEFAULT_PATH
    env: dict[str, str] = dict(keys.pop("env", None) or {})  # type: ignore[call-overload]
    file = os.path.join(cwd, os.path.expanduser(words[0]).removeprefix("./"))
    if os.path.isfile(file) and ("/" in words[0] or os.path.splitext(words[0])[1] or not which(words[0], path)):
        argv, unknown = [*_how_to_run(file, words[0], cwd, path), *words[1:]], ""
        command = " ".join(words)
        if os.path.splitext(file)[1] == ".py":
            # Or its lines would sit in Python's buffer until it has 8 KB of them.
            env.setdefault("PYTHONUNBUFFERED", "1")
    else:
        try:
            argv, command = parse_command(words[0] if len(words) == 1 else words)
        except ValueError as wrong:
            raise error(f"the command {wrong}") from None
        there = os.path.exists(os.path.join(cwd, argv[0])) if "/" in argv[0] else which(argv[0], path)
        unknown = "" if there else f"{words[0]}: there is no such app, file or command: "
    wrong_program = program_error(argv, cwd, env.get("PATH") or path) if argv[0] != SHELL else None
    if wrong_program:
        raise error(f"{unknown}{wrong_program}")
    if name is None:
        name = default_name(argv if argv[0] != SHELL else words[0].split(), cwd)
    wrong_name = name_error(name)
    if wrong_name:
        raise error(f"the name {name[: NAME_LIMIT + 8]!r} {wrong_name}")
    return Spec(name, command, argv, cwd, env=env, **keys)  # type: ignore[arg-type]


def _how_to_run(file: str, shown: str, cwd: str, path: str) -> list[str]:
    with open(file, "rb") as opened:
        start = opened.read(2)
    runnable = os.access(file, os.X_OK)
    if runnable and start in (b"#!", b"\x7fE"):
        return [file]
    ending = os.path.splitext(file)[1].lower()
    if ending == ".py":
        for venv in VENVS:
            for folder in (os.path.dirname(file), cwd):
                if os.access(f"{folder}/{venv}", os.X_OK):
                    return [f"{folder}/{venv}", file]
    ways = INTERPRETERS.get(ending)
    if ways is None:
        if runnable:
            return [file]
        raise error(f"{shown} is not executable and its ending names no interpreter: chmod +x it, or start it with one")
    for way in ways:
        if which(way[0], path):
            return [*way, file]
    raise error(f"{shown} needs {' or '.join(way[0] for way in ways)}, which is not in your PATH: install it")


def default_name(words: list[str], cwd: str) -> str:
    """A telling name: the script's, a package's script, a module; made of what a name may hold."""
    program, rest = os.path.basename(words[0]), words[1:]
    chosen = program
    if program in ("npm", "yarn", "pnpm", "bun") and rest and os.path.isfile(f"{cwd}/package.json"):
        chosen = str(package(cwd).get("name") or os.path.basename(cwd))
    elif "-m" in rest[:-1]:
        chosen = rest[rest.index("-m") + 1]
    else:
        files = [word for word in rest if os.path.splitext(word)[1].lower() in INTERPRETERS]
        if files:
            chosen = os.path.splitext(os.path.basename(files[0]))[0]
        elif os.path.splitext(program)[1].lower() in INTERPRETERS:
            chosen = os.path.splitext(program)[0]
    return clean_name(chosen) or "app"


def clean_name(text: str) -> str:
    """The text as an app's name may be; '' when nothing is left."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text)
    return kept.strip("-._")[:NAME_LIMIT]


def package(folder: str) -> dict[str, object]:
    """The package.json of a folder; {} when it has none that can be read."""
    try:
        with open(f"{folder}/package.json", encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""An oxfile → specs. Nothing is returned from a file that has an error; all its errors are told at once."""

import json
import os
import tomllib
from typing import Any

from oxmgr.config.command import SHELL, parse_command, program_error
from oxmgr.config.cpus import count_cpus
from oxmgr.config.env import expand, read_env_file
from oxmgr.config.errors import ConfigError, Problem, error, nearest
from oxmgr.config.keys import ALIASES, KEYS, LATER, LATER_TOP, ONLY_APP, Key
from oxmgr.config.lines import Path, find_lines
from oxmgr.model.graph import find_cycle, start_order
from oxmgr.model.signals import signal_names, signal_number
from oxmgr.model.spec import ALWAYS, NAME_LIMIT, NEVER, ON_FAILURE, STARTED, Spec, name_error

FILE = "oxfile.toml"
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

Table = dict[str, object]


def find_oxfile(explicit: str | None, cwd: str, environ: dict[str, str]) -> str:
    """The absolute path of the file to read. ConfigError, saying where it looked, when there is none."""
    if explicit is not None:
        path = os.path.join(cwd, os.path.expanduser(explicit))
        if not os.path.exists(path):
            raise error("there is no such file", explicit)
        return os.path.abspath(path)
    config = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '/')}/.config"
    places = [f"{cwd}/{FILE}", f"{config}/oxmgr/{FILE}", f"/etc/oxmgr/{FILE}"]
    for path in places:
        if os.path.exists(path):
            return path
    raise error(f"there is no {FILE} here, nor at {places[1]}, nor at {places[2]}: oxmgr init makes one")


def load_oxfile(
    path: str,
    *,
    environ: dict[str, str],
    profile: str | None = None,
    only: list[str] | None = None,
) -> list[Spec]:
    """The apps of a file, dependencies first. `environ` is the caller's, for `$VAR` and for PATH."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        data = tomllib.loads(text)
    except OSError as failed:
        raise error(f"cannot be read: {failed.strerror}", path) from None
    except UnicodeDecodeError as failed:
        line = failed.object.count(b"\n", 0, failed.start) + 1
        raise error("is not UTF-8 text", f"{path}:{line}") from None
    except tomllib.TOMLDecodeError as failed:
        raise _syntax_error(path, text, failed) from None
    return _Oxfile(path, find_lines(text), environ, profile).load(data, only)


def _syntax_error(path: str, text: str, failed: tomllib.TOMLDecodeError) -> ConfigError:
    message, _, where = str(failed).rpartition(" (at ")
    words = where.rstrip(")").split()
    if "line" in words:
        line, column = words[1].rstrip(","), words[3]
    else:
        line, column = str(text.count("\n") + 1), str(len(text.rpartition("\n")[2]) + 1)
        message = message or str(failed)
    return error(f"not TOML: {message[:1].lower()}{message[1:]}", f"{path}:{line}:{column}")


class _Oxfile:
    """One reading of one file; collects the problems."""

    def __init__(self, path: str, lines: dict[Path, int], environ: dict[str, str], profile: str | None) -> None:
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.lines = lines
        self.environ = environ
        self.profile = profile
        self.problems: list[Problem] = []

    # --- the file ---

    def load(self, data: Table, only: list[str] | None) -> list[Spec]:
        for key in data:
            if key in LATER_TOP:
                self.fail((key,), "is not in this version of oxmgr: take it out")
            elif key not in ("processes", "defaults"):
                self.fail((key,), f"unknown key{nearest(key, ['processes', 'defaults'])}")
        tables = self.table(data.get("processes", {}), ("processes",))
        defaults = self.table(data.get("defaults", {}), ("defaults",))
        self.check_keys(defaults, ("defaults",), ONLY_APP)
        if not tables and not self.problems:
            self.fail(("processes",), "no app: write a [processes.NAME] table with a command")
        specs: dict[str, Spec] = {}
        disabled: set[str] = set()
        self.check_profile(tables)
        for name, value in tables.items():
            path = ("processes", name)
            wrong = name_error(name)
            if wrong:
                self.fail(path, f"the name {_cut(name)!r} {wrong}")
                continue
            table = self.table(value, path)
            merged = self.merge(defaults, table, path)
            if merged.get("disabled", (False, path))[0] is True:
                disabled.add(name)
                continue
            spec = self.app(name, merged)
            if spec is not None:
                specs[name] = spec
        self.check_dependencies(specs, set(tables), disabled)
        for name in only or ():
            if name not in tables:
                self.problems.append(
                    Problem(self.path, "", f"--only {name}: there is no such app{nearest(name, list(tables))}")
                )
        if self.problems:
            # What is wrong in [defaults] is found with each app.
            raise ConfigError(list(dict.fromkeys(self.problems)))
        order = start_order({name: list(spec.depends_on) for name, spec in specs.items()})
        return [specs[name] for name in order if not only or name in only]

    def check_profile(self, tables: Table) -> None:
        if self.profile is None:
            return
        known: dict[str, None] = {}
        for table in tables.values():
            profiles = table.get("profiles") if isinstance(table, dict) else None
            known.update(dict.fromkeys(profiles if isinstance(profiles, dict) else ()))
        if self.profile not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            self.problems.append(Problem(self.path, "", f"--env {self.profile}: no app has that profile; {has}"))

    def check_dependencies(self, specs: dict[str, Spec], names: set[str], disabled: set[str]) -> None:
        for name, spec in specs.items():
            for other in spec.depends_on:
                path = ("processes", name, "depends_on")
                if other in disabled:
                    self.fail(path, f"{other} is disabled")
                elif other not in names:
                    self.fail(path, f"there is no app {other}{nearest(other, list(names))}")
        cycle = find_cycle({name: list(spec.depends_on) for name, spec in specs.items()})
        if cycle:
            self.fail(("processes", cycle[0], "depends_on"), f"goes in a circle: {' → '.join(cycle)}")

    def merge(self, defaults: Table, table: Table, path: Path) -> dict[str, tuple[object, Path]]:
        """key → (value, where it stands): defaults, then the app, then its profile; `env` key by key."""
        layers = [(defaults, ("defaults",)), (table, path)]
        self.check_keys(table, path, frozenset())
        profiles = self.table(table.get("profiles", {}), (*path, "profiles"))
        for name, value in profiles.items():
            where = (*path, "profiles", name)
            self.check_keys(self.table(value, where), where, frozenset(("profiles",)))
        if self.profile in profiles and isinstance(profiles[self.profile], dict):
            layers.append((profiles[self.profile], (*path, "profiles", str(self.profile))))  # type: ignore[arg-type]
        merged: dict[str, tuple[object, Path]] = {}
        env: dict[str, tuple[object, Path]] = {}
        for layer, where in layers:
            if "restart" in layer or "restart_on_exit" in layer:
                merged.pop("restart", None)
                merged.pop("restart_on_exit", None)
            for key, value in layer.items():
                key = ALIASES.get(key, key)
                if key == "env" and isinstance(value, dict):
                    env.update((name, (one, (*where, "env", name))) for name, one in value.items())
                else:
                    merged[key] = value, (*where, key)
        if "env" not in merged:
            merged["env"] = env, (*path, "env")
        return merged

    def check_keys(self, table: Table, path: Path, not_here: frozenset[str]) -> None:
        for key in table:
            if key in not_here:
                self.fail((*path, key), "makes no sense here: put it in the app's own table")
            elif key in LATER:
                self.fail((*path, key), "is not in this version of oxmgr: take it out")
            elif key not in KEYS and key not in ALIASES:
                self.fail((*path, key), f"unknown key{nearest(key, [*KEYS, *ALIASES])}")
        for alias, name in ALIASES.items():
            if alias in table and name in table:
                self.fail((*path, alias), f"is the same as {name}: write one of them")

    # --- an app ---

    def app(self, name: str, values: dict[str, tuple[object, Path]]) -> Spec | None:
        before = len(self.problems)
        if "command" not in values:
            self.fail(("processes", name), "has no command: write what to run")
            return None
        read: dict[str, object] = {}
        for key, (value, path) in values.items():
            if key in KEYS and key not in ("disabled", "profiles"):
                try:
                    read[key] = self.value(KEYS[key], value, path)
                except ValueError as wrong:
                    self.fail(path, str(wrong))
        if len(self.problems) > before:
            return None
        env = dict(read.pop("env"))  # type: ignore[call-overload]
        env_file = read.pop("env_file", None)
        if isinstance(env_file, str):
            try:
                env = read_env_file(env_file) | env
            except ConfigError as wrong:
                self.fail(values["env_file"][1], str(wrong))
        folder = str(read.pop("working_dir", self.folder))
        if not os.path.isdir(folder):
            self.fail(values.get("working_dir", (0, ("processes", name)))[1], f"the folder {folder} does not exist")
        parsed: Any = read.pop("command")
        argv, command = parsed
        self.check_program(argv, folder, env, values["command"][1])
        read["restart"] = self.restart(read, values)
        read.pop("restart_on_exit", None)
        if len(self.problems) > before:
            return None
        return Spec(name, command, argv, folder, env=env, **read)  # type: ignore[arg-type]

    def restart(self, read: Table, values: dict[str, tuple[object, Path]]) -> object:
        """The policy that both spellings ask for."""
        on_exit = read.get("restart_on_exit")
        meant = {True: ALWAYS, False: NEVER}.get(on_exit) if isinstance(on_exit, bool) else None
        if "restart" in read and meant is not None and meant != read["restart"]:
            self.fail(
                values["restart_on_exit"][1], f"says {meant!r}, but restart says {read['restart']!r}: write one of them"
            )
        return read.get("restart") or meant or ON_FAILURE

    def check_program(self, argv: list[str], folder: str, env: dict[str, str], path: Path) -> None:
        if argv[0] == SHELL or not os.path.isdir(folder):
            return
        wrong = program_error(argv, folder, env.get("PATH") or self.environ.get("PATH") or DEFAULT_PATH)
        if wrong:
            self.fail(path, wrong)

    # --- a value, by the kind of its key; ValueError is what is wrong with it ---

    def value(self, key: Key, value: object, path: Path) -> object:
        return getattr(self, f"_{key.kind}")(key, value)

    def _command(self, key: Key, value: object) -> object:
        if isinstance(value, str) or _is_words(value):
            return parse_command(value)  # type: ignore[arg-type]
        raise ValueError(_expected("a string or an array of strings", value))

    def _path(self, key: Key, value: object) -> object:
        if not isinstance(value, str) or not value:
            raise ValueError(_expected("a path", value))
        if "\0" in value:
            raise ValueError("a path cannot hold a NUL")
        return os.path.normpath(os.path.join(self.folder, expand(value, self.environ)))

    def _instances(self, key: Key, value: object) -> object:
        return count_cpus() if value == "max" else self._int(key, value, 'a number or "max"')

    def _int(self, key: Key, value: object, what: str = "a whole number") -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(_expected(what, value))
        return _in_range(key, value)

    def _number(self, key: Key, value: object) -> object:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(_expected("a number", value))
        return float(_in_range(key, value))

    def _bool(self, key: Key, value: object) -> object:
        if not isinstance(value, bool):
            raise ValueError(_expected("true or false", value))
        return value

    def _choice(self, key: Key, value: object) -> object:
        if value not in key.choices:
            words = ", ".join(f'"{choice}"' for choice in key.choices)
            raise ValueError(f"expected one of {words}, got {_show(value)}{nearest(str(value), list(key.choices))}")
        return value

    def _codes(self, key: Key, value: object) -> object:
        if not isinstance(value, list):
            raise ValueError(_expected("an array of exit codes", value))
        return [self._int(key, code, "an exit code") for code in value]

    def _signal(self, key: Key, value: object) -> object:
        number = signal_number(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
        if number is None:
            raise ValueError(f"there is no signal {_show(value)}{nearest(str(value).upper(), signal_names())}")
        return number

    def _namespace(self, key: Key, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(_expected("a string", value))
        wrong = name_error(value)
        if wrong:
            raise ValueError(f"the namespace {_cut(value)!r} {wrong}")
        return value

    def _depends(self, key: Key, value: object) -> object:
        if _is_words(value):
            return dict.fromkeys(value, STARTED)  # type: ignore[call-overload]
        if not isinstance(value, dict):
            raise ValueError(_expected('names, or a table of them like { db = "started" }', value))
        for name, condition in value.items():
            if condition == "ready":
                raise ValueError(f'{name} = "ready" is not in this version of oxmgr: "started" and "exited" are')
            if condition not in key.choices:
                raise ValueError(f'{name}: expected "started" or "exited", got {_show(condition)}')
        return value

    def _env(self, key: Key, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(_expected("a table of variables", value))
        env: dict[str, str] = {}
        for name, (one, path) in value.items():
            if not name or "=" in name or "\0" in name:
                self.fail(path, f"{name!r} cannot be a variable's name")
            elif isinstance(one, bool):
                env[name] = "true" if one else "false"
            elif isinstance(one, int | float):
                env[name] = str(one)
            elif not isinstance(one, str):
                self.fail(path, _expected("a string, number or boolean", one))
            elif "\0" in one:
                self.fail(path, "a variable cannot hold a NUL")
            else:
                try:
                    env[name] = expand(one, self.environ)
                except ValueError as wrong:
                    self.fail(path, str(wrong))
        return env

    # --- problems ---

    def table(self, value: object, path: Path) -> Table:
        if isinstance(value, dict):
            return value
        self.fail(path, _expected("a table", value))
        return {}

    def fail(self, path: Path, message: str) -> None:
        line = next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), 1)
        self.problems.append(Problem(f"{self.path}:{line}", ".".join(map(_quoted, path)), message))


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _in_range(key: Key, value: float) -> float:
    if not key.low <= value <= key.high:
        raise ValueError(f"expected {key.low:g} to {key.high:.15g}, got {value}")
    return value


def _quoted(key: str) -> str:
    """As it stands in the file, and on one line."""
    key = _cut(key)
    bare = key and all(char.isascii() and (char.isalnum() or char in "_-") for char in key)
    return key if bare else json.dumps(key, ensure_ascii=False)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LIMIT + 8 else f"{name[:NAME_LIMIT]}…"


def _expected(what: str, value: object) -> str:
    return f"expected {what}, got {_show(value)}"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    return f'"{value}"' if isinstance(value, str) else str(value)

"""An oxfile → specs. Nothing is returned from a file that has an error; all its errors are told at once."""

import json
import os
import tomllib
from typing import Any, NamedTuple

from oxmgr.config import keys
from oxmgr.config.alerts import make_alerts
from oxmgr.config.command import SHELL, program_error
from oxmgr.config.env import read_env_file
from oxmgr.config.errors import ConfigError, Problem, error, nearest
from oxmgr.config.health import ASKS_NOTHING, make_health_check
from oxmgr.config.hooks import make_hooks
from oxmgr.config.limits import make_limits
from oxmgr.config.lines import Path, find_lines, find_octals
from oxmgr.config.logs import make_logs
from oxmgr.config.ready import ready_error
from oxmgr.config.sandbox import PRIVATE_TMP, Caller, Tell, make_sandbox, this_caller
from oxmgr.config.schedules import check_schedule
from oxmgr.config.sockets import check_sockets
from oxmgr.config.values import Reader, cut, expected
from oxmgr.model.codec import replace
from oxmgr.model.graph import find_cycle, start_order
from oxmgr.model.listen import shared_socket
from oxmgr.model.logpaths import shared_logs
from oxmgr.model.places import find_places
from oxmgr.model.spec import ALL, ALWAYS, ANY, NEVER, ON_FAILURE, Alerts, Spec, name_error

FILE = "oxfile.toml"
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

MAKERS = {
    "hooks": make_hooks,
    "health_check": make_health_check,
    "limits": make_limits,
    "sandbox": make_sandbox,
    "logs": make_logs,
    "alerts": make_alerts,
}
"""What makes a field of Spec of each sub-table in keys.TABLES."""

WHICH_PROGRAM = (("working_dir",), ("env_file",), (keys.VARIABLES, "PATH"))
"""The keys that decide which file a command's first word is."""


WHERE_IT_PRINTS = (("log_file",), ("error_log_file",), ("logs", "sink"), ("logs", "format"))
"""The last is for files alone."""

Table = dict[str, object]


class Placed(NamedTuple):
    value: object
    where: Path
    """Where it stands in the file, by the names that the user wrote."""


Layer = dict[Path, Placed]
"""By key, `("instances",)` or `("limits", "memory_mb")`, under its proper name."""


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
    caller: Caller | None = None,
) -> list[Spec]:
    """The apps of a file, dependencies first.

    `environ` is the caller's, for `$VAR` and for PATH. `caller`: by whose rights it is judged what an app may ask for;
    None: those of this process.
    """
    read, data = _open(path, environ, profile, caller or this_caller())
    return read.load(data, only)


def _open(path: str, environ: dict[str, str], profile: str | None, caller: Caller) -> "tuple[_Oxfile, Table]":
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
    return _Oxfile(path, text, environ, profile, caller), data


def load_for_container(
    path: str, *, environ: dict[str, str], profile: str | None = None, only: list[str] | None = None
) -> tuple[list[Spec], str]:
    """The apps, whose lines go to standard output where the file does not say where they go; and exit_when."""
    read, data = _open(path, environ, profile, this_caller())
    read.sink = "stdout"
    specs = read.load(data, only)
    return specs, read.exit_when


def _syntax_error(path: str, text: str, failed: tomllib.TOMLDecodeError) -> ConfigError:
    message, _, where = str(failed).rpartition(" (at ")
    words = where.rstrip(")").split()
    if "line" in words:
        line, column = words[1].rstrip(","), words[3]
    else:
        line, column = str(text.count("\n") + 1), str(len(text.rpartition("\n")[2]) + 1)
        message = message or str(failed)
    return error(f"not TOML: {message[:1].lower()}{message[1:]}", f"{path}:{line}:{column}")


def merged_layers(layers: list[Layer]) -> Layer:
    """Key by key, the last one wins."""
    merged: Layer = {}
    for layer in layers:
        if ("restart",) in layer or ("restart_on_exit",) in layer:
            merged.pop(("restart",), None)
            merged.pop(("restart_on_exit",), None)
        if ("alerts", "webhook") in layer:
            # Another host is not to get what is meant for the first.
            merged.pop(("alerts", "headers"), None)
        merged.update(layer)
    return merged


def under(path: str, folders: tuple[str, ...]) -> str:
    """The one of the folders that the path is or lies in, or ""."""
    real = os.path.realpath(path)
    return next((folder for folder in folders if real == folder or real.startswith(f"{folder}/")), "")


class _Oxfile:
    """One reading of one file; collects the problems."""

    def __init__(self, path: str, text: str, environ: dict[str, str], profile: str | None, caller: Caller) -> None:
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.lines = find_lines(text)
        self.octals = find_octals(text) if "0o" in text else set()
        self.environ = environ
        self.reader = Reader(self.folder, environ)
        self.profile = profile
        self.caller = caller
        self.problems: list[Problem] = []
        self.depends: dict[str, list[str]] = {}
        self.sink: str | None = None
        self.exit_when = ALL
        self.jobs: set[str] = set()

    # --- the file ---

    def load(self, data: Table, only: list[str] | None) -> list[Spec]:
        for key in data:
            if key in keys.LATER_TOP:
                self.fail((key,), "is not in this version of oxmgr: take it out")
            elif key not in keys.TOP:
                self.fail((key,), f"unknown key{nearest(key, list(keys.TOP))}")
        tables = self.table(data.get("processes", {}), ("processes",))
        if "exit_when" in data:
            self.read_exit_when(data["exit_when"], list(tables))
        # What stands at the top level is for every app, as what stands in [defaults] is.
        defaults = merged_layers(
            [
                self.layer({key: data[key] for key in keys.TABLES if key in data and key in keys.TOP}, (), frozenset()),
                self.layer(data.get("defaults", {}), ("defaults",), keys.ONLY_APP),
            ]
        )
        if not tables and not self.problems:
            self.fail(("processes",), "no app: write a [processes.NAME] table with a command")
        specs: dict[str, Spec] = {}
        layers: dict[str, Layer] = {}
        disabled: set[str] = set()
        self.check_profile(tables)
        for name, value in tables.items():
            path = ("processes", name)
            wrong = name_error(name)
            if wrong:
                self.fail(path, f"the name {cut(name)!r} {wrong}")
                continue
            merged = self.merge(defaults, value, path)
            if ("disabled",) in merged and merged["disabled",].value is True:
                disabled.add(name)
                continue
            spec = self.app(name, merged)
            if spec is not None:
                specs[name], layers[name] = spec, merged
        self.check_dependencies(set(tables), disabled)
        taken = shared_socket({name: spec.listen for name, spec in specs.items() if spec.listen})
        if taken is not None:
            place, owner, name = taken
            self.fail(("processes", name, "listen"), f"{owner} listens at {place} already")
        self.check_logs(list(specs.values()), layers)
        for name in only or ():
            if name not in tables:
                self.problems.append(
                    Problem(self.path, "", f"--only {name}: there is no such app{nearest(name, list(tables))}")
                )
        if self.problems:
            # What is wrong in [defaults] is found with each app.
            raise ConfigError(list(dict.fromkeys(self.problems)))
        order = start_order(self.depends)
        return [specs[name] for name in order if not only or name in only]

    def read_exit_when(self, value: object, names: list[str]) -> None:
        if not isinstance(value, str):
            self.fail(("exit_when",), expected(f"{ANY!r}, {ALL!r} or the name of an app", value))
        elif value not in (ANY, ALL, *names):
            self.fail(("exit_when",), f"there is no app {value}{nearest(value, [ANY, ALL, *names])}")
        else:
            self.exit_when = value

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

    def check_dependencies(self, names: set[str], disabled: set[str]) -> None:
        """Of the apps with another mistake too."""
        for name, others in self.depends.items():
            for other in others:
                path = ("processes", name, "depends_on")
                if other in disabled:
                    self.fail(path, f"{other} is disabled")
                elif other in self.jobs:
                    self.fail(path, f"{other} has a schedule: it is run at its times, and nothing can wait for it")
                elif other not in names:
                    self.fail(path, f"there is no app {other}{nearest(other, list(names))}")
        cycle = find_cycle(self.depends)
        if cycle:
            self.fail(("processes", cycle[0], "depends_on"), f"goes in a circle: {' → '.join(cycle)}")

    def check_logs(self, specs: list[Spec], layers: dict[str, Layer]) -> None:
        try:
            logs = find_places(self.environ, self.caller.uid).logs
        except ValueError:
            logs = ""
        told: set[tuple[str, str]] = set()
        for path, one, other in shared_logs(specs, logs, os.path.realpath):
            if (one[0], other[0]) in told:
                continue
            told.add((one[0], other[0]))
            where = next(layers[name][key,].where for name, key in (other, one) if key)
            self.fail(where, f"{one[0]} and {other[0]} would both write to {path}: set another log_file")

    # --- its layers: defaults, then an app, then a profile ---

    def merge(self, defaults: Layer, value: object, place: Path) -> Layer:
        """What an app is to be, key by key; of a profile that was not chosen, only the keys are looked at."""
        layers = [defaults, self.layer(value, place, frozenset())]
        profiles = self.table(value.get("profiles", {}), (*place, "profiles")) if isinstance(value, dict) else {}
        for name, table in profiles.items():
            profile = self.layer(table, (*place, "profiles", name), frozenset(("profiles",)))
            if name == self.profile:
                layers.append(profile)
        merged = merged_layers(layers)
        if self.sink is not None and merged.keys().isdisjoint(WHERE_IT_PRINTS):
            merged["logs", "sink"] = Placed(self.sink, place)
        return merged

    def layer(self, value: object, place: Path, not_here: frozenset[str]) -> Layer:
        """The keys of one table and its sub-tables. `not_here`: those that this one cannot have."""
        written: dict[Path, object] = {}
        for key, one in self.table(value, place).items():
            if key in not_here:
                self.fail((*place, key), "makes no sense here: put it in the app's own table")
            elif key in keys.LATER:
                self.fail((*place, key), "is not in this version of oxmgr: take it out")
            elif key == "health_check" and one == {}:
                self.fail((*place, key), ASKS_NOTHING)
            elif keys.is_table(key):
                what = "a table of variables" if key == keys.VARIABLES else "a table"
                written.update(((key, name), each) for name, each in self.table(one, (*place, key), what).items())
            else:
                written[key,] = one
        layer: Layer = {}
        for path, one in written.items():
            meant = keys.ALIASES.get(path, path)
            if keys.find_key(meant) is None:
                self.fail((*place, *path), f"unknown key{_suggestion(path)}")
            elif meant != path and meant in written:
                self.fail((*place, *path), f"is the same as {'.'.join(meant)}: write one of them")
            else:
                layer[meant] = Placed(one, (*place, *path))
        return layer

    # --- an app ---

    def app(self, name: str, merged: Layer) -> Spec | None:
        """None when something is wrong with it. Each check looks at what could be read, whatever else is wrong."""
        before = len(self.problems)
        if ("command",) not in merged:
            self.fail(("processes", name), "has no command: write what to run")
        read, tables, wrong = self.read(merged)
        depends_on: Any = read.get("depends_on", ())
        self.depends[name] = list(depends_on)
        for table, make in MAKERS.items():
            if table in tables:
                read[table] = make(tables[table], self.caller, self.teller(table, merged))
        if "alerts" in read:
            read["alerts"] = self.alerts(read["alerts"], merged)
        env = self.variables(tables, read.pop("env_file", None), merged)
        folder = str(read.pop("working_dir", self.folder))
        if not os.path.isdir(folder):
            where = merged["working_dir",].where if ("working_dir",) in merged else ("processes", name)
            self.fail(where, f"the folder {folder} does not exist")
        hidden = getattr(read.get("sandbox"), "private_tmp", False) and under(folder, PRIVATE_TMP)
        if hidden and self.caller.uid == 0:
            where = merged["sandbox", "private_tmp"].where
            self.fail(where, f"hides {folder}, where the app is to run: set working_dir to a folder not below {hidden}")
        command: Any = read.pop("command", None)
        if command and wrong.isdisjoint(WHICH_PROGRAM):
            self.check_program(command[0], folder, env, merged["command",].where)
        self.check_reachable(read, merged)
        if ("listen",) not in wrong:
            check_sockets(read, command, self.caller, lambda message, key: self.fail(merged[key,].where, message))
        if command and "ready" in read:
            wrong_ready = ready_error(str(read["ready"]), command[0], command[1])
            if wrong_ready:
                self.fail(merged["ready",].where, wrong_ready)
        read["restart"] = self.restart(read, merged)
        read.pop("restart_on_exit", None)
        self.schedule(name, read, merged)
        if isinstance(read.get("watch"), bool):
            read["watch"] = [folder] if read["watch"] else []
        if len(self.problems) > before:
            return None
        return Spec(name, command[1], command[0], folder, env=env, **read)  # type: ignore[arg-type]

    def check_reachable(self, read: Table, merged: Layer) -> None:
        """Who asks from outside, and what it prints where we can read it."""
        ready, health = str(read.get("ready", "")), read.get("health_check")
        if getattr(read.get("sandbox"), "private_network", False):
            asked: list[Path] = [("ready",)] if ready.startswith(("tcp:", "http://")) else []
            asked += [("health_check", key) for key in ("endpoint", "tcp") if getattr(health, key, "")]
            for path in asked:
                self.fail(merged[path].where, "nobody can ask it from outside of its private_network: use a command")
        sink = getattr(read.get("logs"), "sink", "file")
        if ready.startswith("log:") and sink != "file":
            self.fail(
                merged["ready",].where,
                f'what it prints is in no file with logs.sink = "{sink}": nobody can look for it',
            )

    def variables(self, tables: dict[str, Table], env_file: object, merged: Layer) -> dict[str, Any]:
        env: dict[str, Any] = tables.get(keys.VARIABLES, {})
        if isinstance(env_file, str):
            try:
                return read_env_file(env_file) | env
            except ConfigError as wrong:
                self.fail(merged["env_file",].where, str(wrong))
        return env

    def alerts(self, alerts: Any, merged: Layer) -> Alerts:
        if alerts.command:
            self.check_program(alerts.command, self.folder, {}, merged["alerts", "command"].where)
        where = merged["alerts", "on"].where if ("alerts", "on") in merged else ()
        if alerts.on and not alerts.webhook and not alerts.command and where[:1] == ("processes",):
            self.fail(where, "nobody is told: write a webhook or a command")
        one: Alerts = replace(alerts, working_dir=self.folder if alerts.command else "/")
        return one

    def read(self, merged: Layer) -> tuple[Table, dict[str, Table], set[Path]]:
        """The values of an app's own keys, those of each of its sub-tables, and the keys whose value is none."""
        own: Table = {}
        tables: dict[str, Table] = {}
        failed: set[Path] = set()
        for path, (value, where) in merged.items():
            key = keys.find_key(path)
            if key is None or path == ("profiles",):
                continue
            if key.kind == "umask" and isinstance(value, int) and where in self.octals:
                value = f"0o{value:o}"
            try:
                found = self.reader.read(key, value)
            except ValueError as wrong:
                self.fail(where, str(wrong))
                failed.add(path)
                continue
            if len(path) == 1:
                own[path[0]] = found
            else:
                tables.setdefault(path[0], {})[path[1]] = found
        own.pop("disabled", None)
        return own, tables, failed

    def teller(self, table: str, merged: Layer) -> Tell:
        """Of several keys, the line is that of one outside of [defaults]: what is there may be right for others."""

        def tell(message: str, *names: str) -> None:
            places = [merged[table, name].where for name in names]
            self.fail(next((place for place in places if place[0] != "defaults"), places[0]), message)

        return tell

    def restart(self, read: Table, merged: Layer) -> object:
        """The policy that both spellings ask for."""
        on_exit = read.get("restart_on_exit")
        meant = {True: ALWAYS, False: NEVER}.get(on_exit) if isinstance(on_exit, bool) else None
        if "restart" in read and meant is not None and meant != read["restart"]:
            self.fail(
                merged["restart_on_exit",].where,
                f"says {meant!r}, but restart says {read['restart']!r}: write one of them",
            )
        return read.get("restart") or meant or (NEVER if read.get("schedule") else ON_FAILURE)

    def schedule(self, name: str, read: Table, merged: Layer) -> None:
        def own(key: str) -> bool:
            return (key,) in merged and merged[key,].where[0] != "defaults"

        if read.get("schedule"):
            self.jobs.add(name)
        check_schedule(read, own, lambda key, message: self.fail(merged[key,].where, message))

    def check_program(self, argv: list[str], folder: str, env: dict[str, str], place: Path) -> None:
        if argv[0] == SHELL or not os.path.isdir(folder):
            return
        wrong = program_error(argv, folder, env.get("PATH") or self.environ.get("PATH") or DEFAULT_PATH)
        if wrong:
            self.fail(place, wrong)

    # --- problems ---

    def table(self, value: object, path: Path, what: str = "a table") -> Table:
        if isinstance(value, dict):
            return value
        self.fail(path, expected(what, value))
        return {}

    def fail(self, path: Path, message: str) -> None:
        line = next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), 1)
        self.problems.append(Problem(f"{self.path}:{line}", ".".join(map(_quoted, path)), message))


def _suggestion(path: Path) -> str:
    """For a key that is not known where it stands: where it is, or the nearest one that is."""
    name = path[-1]
    if len(path) > 1 and name in keys.KEYS:
        return "; it belongs in the app's own table, above this one"
    for table, inner in keys.TABLES.items():
        if name in inner:
            return f"; it belongs in {table}: {table}.{name}"
    return nearest(name, keys.known_beside(path))


def _quoted(key: str) -> str:
    """As it stands in the file, and on one line."""
    key = cut(key)
    bare = key and all(char.isascii() and (char.isalnum() or char in "_-") for char in key)
    return key if bare else json.dumps(key, ensure_ascii=False)

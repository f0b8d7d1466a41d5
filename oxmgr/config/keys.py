"""The keys of a `[processes.NAME]` table and its sub-tables: the one place that says what they are called, take and mean."""

from typing import NamedTuple

from oxmgr.config.lines import Path
from oxmgr.model.spec import ALERT_KINDS, CONDITIONS, LOG_FORMATS, LOG_SINKS, ON_FULL, RESTARTS, STOP_MODES

HOUR_MS = 3600 * 1000
YEAR_MS = 365 * 24 * 3600 * 1000
PETABYTE_MB = 1_000_000_000
PERCENT = 1_000_000
"""Of one CPU: more than any host has."""


class Key(NamedTuple):
    """`kind` says how the value is read (oxmgr.config.values), `low` and `high` bound a number, `choices` a word."""

    name: str
    kind: str
    default: str
    doc: str
    low: float = 0
    high: float = YEAR_MS
    choices: tuple[str, ...] = ()


KEYS = {
    key.name: key
    for key in (
        Key("command", "command", "required", "a string: run directly when it holds no shell syntax, else by `/bin/sh -c`; an array: run directly"),
        Key("working_dir", "path", "the file's folder", "where it runs; `cwd` is the same"),
        Key("instances", "instances", "1", 'how many copies, or `"max"`: the CPUs that the daemon may use (affinity and cgroup quota)', 1, 10_000),
        Key("env", "variables", "", "variables: strings, numbers or booleans; they win over `env_file`"),
        Key("env_file", "path", "", "a dotenv file"),
        Key("restart_on_exit", "bool", "absent", "true: restart on any exit; false: never; absent: when it failed"),
        Key("restart", "choice", "on-failure", "the long spelling of `restart_on_exit`", choices=RESTARTS),
        Key("stop_exit_codes", "codes", "[]", "exit codes that count as finished: no restart after them", 0, 255),
        Key("restart_delay_ms", "int", "absent", "absent: the first crash restarts at once, then 100 ms, doubling; N: the first crash waits N as well"),
        Key("restart_delay_max_ms", "int", "30000", "where the doubling ends; 0: no delay ever"),
        Key("restart_window_secs", "number", "60", "up this long, and the counters go back to zero", 0, YEAR_MS / 1000),
        Key("max_restarts", "int", "0", "crashes in a row until it is given up (`errored`); 0: never", 0, 1_000_000),
        Key("start_delay_ms", "int", "0", "wait before a start, not before a restart"),
        Key("ready", "ready", "started", "how it says that it is ready: `started` (at once), `notify` (sd_notify), `fd:N` (a newline on that fd), `node` (`process.send('ready')`), `listen` (it listens), `tcp:PORT`, `http://…`, `log:REGEX` (a line that it prints), `command:…` (that ends with 0)"),
        Key("ready_timeout_ms", "int", "30000", "who is not ready by then is stopped, and that counts as a crash; 0: it may take for ever"),
        Key("health_check", "table", "", "a table: how it is found out whether it does its work; who does not is restarted"),
        Key("watchdog_secs", "number", "absent", "so often it has to say that it does its work (`WATCHDOG=1` to NOTIFY_SOCKET, sd_notify); who does not is restarted", 0.1, 86_400),
        Key("listen", "listen", "", 'sockets that oxmgr opens, holds over restarts and gives to the app: `["3000", "127.0.0.1:3001", "[::1]:3002", "unix:/run/api.sock", "udp:0.0.0.0:53"]`, each with a name in front if it is to have one, as `"admin=127.0.0.1:9000"`; see [sockets](sockets.md)'),
        Key("reuse_port", "bool", "false", "each instance gets sockets of its own at the ports of `listen` (SO_REUSEPORT), instead of one for all"),
        Key("backlog", "int", "4096", "connections that may wait at a socket of `listen`; the kernel's own limit is net.core.somaxconn", 1, 65_535),
        Key("bind_shim", "bool", "false", "a program that binds by itself, and is neither Node nor statically linked, gets the sockets of `listen` when it asks for their addresses (LD_PRELOAD)"),
        Key("socket_mode", "umask", "660", 'who may connect to a unix socket of `listen`: octal, as `"666"` or `0o666`', 0, 0o777),
        Key("socket_user", "account", "the app's", "whose the unix sockets of `listen` are"),
        Key("socket_group", "account", "the app's", "their group"),
        Key("hooks", "table", "", "a table: commands that are run before and after it starts and stops"),
        Key("depends_on", "depends", "", '`["db"]`, or `{ db = "ready", cache = "started", migrate = "exited" }`: start waits, stop goes in reverse', choices=CONDITIONS),
        Key("max_unavailable", "int", "1", "how many instances a reload replaces at a time", 1, 10_000),
        Key("stop_signal", "signal", "SIGTERM", "what a stop sends first"),
        Key("stop_timeout_ms", "int", "10000", "how long a stop waits before the whole tree is killed"),
        Key("stop_mode", "choice", "group", "who gets the stop signal: the process group, the main process, or the whole tree", choices=STOP_MODES),
        Key("schedule", "schedule", "", "a cron line of 5 fields, or of 6 with the second first, or `@daily` and the like: the app is a job, run at these times"),
        Key("restart_schedule", "schedule", "", "the same: a service that is running is restarted at these times"),
        Key("timezone", "zone", "the machine's", "of both, as `Europe/Vienna`"),
        Key("catch_up", "bool", "false", "a time that was missed (no daemon was there, the machine slept): true: it counts once, late; false: not at all"),
        Key("overlap", "bool", "false", "of a job: false: a run that is due while the last one still runs is left out; true: it goes to the next of its `instances`"),
        Key("watch", "watch", "false", "restart when a file changes: true: in the app's folder and below; or an array of files and folders"),
        Key("watch_extensions", "extensions", "all", 'files with other endings do not count: `["js", "json"]`'),
        Key("watch_ignore", "globs", "", "what does not count either: names, or paths from the watched folder on; `*` and `?` may stand in them"),
        Key("watch_delay_ms", "int", "200", "how long nothing more has to change before it is restarted", 0, HOUR_MS),
        Key("shutdown_with_message", "bool", "false", "of a Node app: a stop sends `\"shutdown\"` (`process.on('message')`) instead of the signal"),
        Key("namespace", "namespace", "default", "a label to act on: `oxmgr stop @NAME`"),
        Key("disabled", "bool", "false", "leave the app out"),
        Key("profiles", "profiles", "", "tables of other values, chosen by `--env NAME`"),
        Key("log_file", "log", "in the log folder", "where stdout goes, and stderr too if `error_log_file` is absent; further instances add their number, `api:1.log`; `/dev/null` and `/dev/stdout` are what they say"),
        Key("error_log_file", "log", "in the log folder", "where stderr goes"),
        Key("logs", "table", "", "a table: how much is kept of what it prints, in which form, and where"),
        Key("alerts", "table", "", "a table: who is told when something is wrong with it"),
        Key("limits", "table", "", "a table: what each instance may use, with all of its processes"),
        Key("sandbox", "table", "", "a table: with which rights it runs; `user` beside it is the same as `sandbox.user`"),
    )
}  # fmt: skip

_LIMITS = (
    Key("memory_mb", "number", "", "soft: whoever uses more is restarted gracefully; `resource_limits.max_memory_mb` is the same", 1, PETABYTE_MB),
    Key("cpu_percent", "number", "", "soft: the same for CPU time over `cpu_window_secs`; 100 is one CPU", 1, PERCENT),
    Key("cpu_window_secs", "number", "60", "over how long `cpu_percent` is measured", 1, 86_400),
    Key("memory_max_mb", "number", "", "above this the kernel kills the whole tree", 1, PETABYTE_MB),
    Key("memory_high_mb", "number", "", "above this the kernel slows the tree down and takes memory back", 1, PETABYTE_MB),
    Key("swap_max_mb", "number", "", "how much of it may be swapped out; 0: nothing", 0, PETABYTE_MB),
    Key("cpu_quota_percent", "number", "", "CPU time that it gets at most; 100 is one CPU", 1, PERCENT),
    Key("cpu_weight", "int", "100", "its share of the CPU where there is not enough for all", 1, 10_000),
    # PID_MAX_LIMIT of the kernel.
    Key("tasks_max", "int", "", "processes and threads at a time", 1, 4_194_304),
    Key("io_weight", "int", "100", "its share of the disk where there is not enough for all", 1, 10_000),
    Key("cpus", "cpus", "", 'the CPUs that it may run on, as `"0-3,8"`'),
    # stdin, stdout, stderr, what a dynamic loader and an interpreter open, an event loop's own: below 16 programs end
    # before they can say why.
    Key("open_files", "int", "the daemon's", "file descriptors that each process may have", 16, 1_000_000_000),
    Key("core_mb", "number", "the daemon's", "the size of a core dump; 0: none", 0, PETABYTE_MB),
    Key("nice", "int", "the daemon's", "-20: first in the queue for a CPU; 19: last", -20, 19),
    Key("oom_score_adj", "int", "the daemon's", "when the host runs out of memory: 1000: killed first; -1000: never", -1000, 1000),
    Key("required", "bool", "false", "true: not started on a host that cannot hold all of these; false: a warning"),
)  # fmt: skip

_SANDBOX = (
    Key("user", "account", "the daemon's", "a name or a number; brings its groups, and HOME, USER, LOGNAME and SHELL"),
    Key("group", "account", "the user's", "a name or a number: instead of the user's first group"),
    Key("umask", "umask", "022", 'octal: `"027"` or `0o027`', 0, 0o777),
    Key("no_new_privileges", "bool", "false", "no program that it runs gets more rights than it has (setuid, file capabilities)"),
    Key("capabilities", "capabilities", "", 'it has these and no others, as `["NET_BIND_SERVICE"]`; `[]`: none'),
    Key("private_tmp", "bool", "false", "a fresh, empty /tmp and /var/tmp in memory, gone with its last process"),
    Key("private_network", "bool", "false", "a network of its own that has a loopback and nothing else"),
    Key("read_only_paths", "paths", "[]", "files and folders that it cannot change; each must be there"),
    Key("deny_gpu", "bool", "false", "the host's graphics cards are hidden from it, and libraries are told that there are none"),
)  # fmt: skip

_LOGS = (
    Key("max_size_mb", "number", "20", "a file is rotated at the end of a line when it has so much; 0: never", 0, PETABYTE_MB),
    Key("max_files", "int", "5", "how many rotated files are kept", 0, 100_000),
    Key("max_days", "number", "14", "a file is rotated when its first line is so old, and rotated ones are kept no longer; 0: for ever", 0, 36_500),
    Key("compress", "bool", "true", "rotated files are compressed (gzip)"),
    Key("format", "choice", "raw", "of files: the very bytes of the app, Kubernetes' lines with times, or one JSON object a line (which is text: what is not UTF-8 becomes U+FFFD)", choices=LOG_FORMATS),
    Key("sink", "choice", "file", "a file, systemd's journal, the daemon's own stdout with a name before each line, or without (`inherit`), or nothing at all", choices=LOG_SINKS),
    Key("on_full", "choice", "block", "when the disk is full: the app waits, or what it prints is dropped and counted", choices=ON_FULL),
    Key("rate_limit", "int", "", "lines a second; what is above is dropped and counted", 1, 1_000_000_000),
)  # fmt: skip

_HEALTH_CHECK = (
    Key("endpoint", "endpoint", "", "an http URL that answers with 2xx or 3xx, as `http://127.0.0.1:3000/health`; where several instances share the socket, see [sockets](sockets.md#one-for-all-or-one-each)"),
    Key("tcp", "tcp", "", "a port, or `address:port`, at which it listens; at a socket of `listen`: at which it accepts"),
    Key("command", "words", "", "a shell command that ends with 0"),
    Key("interval_secs", "number", "30", "from one check to the next", 0.1, 86_400),
    Key("timeout_secs", "number", "5", "no answer by then is a failure", 0.1, 3600),
    Key("healthy_threshold", "int", "1", "successes in a row that make it healthy", 1, 1000),
    Key("unhealthy_threshold", "int", "3", "failures in a row that make it unhealthy: it is restarted", 1, 1000),
    Key("initial_delay_secs", "number", "10", "from when it is ready to the first check", 0, 86_400),
)  # fmt: skip

_HOOKS = (
    Key("pre_start", "words", "", "a shell command before each start; that it fails is a failed start"),
    Key("post_start", "words", "", "once it is ready"),
    Key("pre_reload", "words", "", "before a reload, once for the app; that it fails ends the reload"),
    Key("pre_stop", "words", "", "before the stop signal; `stop_timeout_ms` counts already"),
    Key("post_stop", "words", "", "when all of it has ended, and it is not started again"),
    Key("timeout_secs", "number", "30", "for each of them; who takes longer is killed, with all that it started", 0.1, 86_400),
)  # fmt: skip

_ALERTS = (
    Key("on", "kinds", "all of them", f"what is told: {', '.join(f'`{kind}`' for kind in ALERT_KINDS)}; `[]`: nothing", choices=ALERT_KINDS),
    Key("webhook", "url", "", "an `http://` or `https://` URL that gets a POST with JSON; `$VAR` expands"),
    Key("headers", "headers", "", "a table of headers for it; `$VAR` expands in their values"),
    Key("command", "command", "", "what is run, in the file's folder, with the JSON on its standard input; a string or an array as above"),
)  # fmt: skip

TABLES = {
    "hooks": {key.name: key for key in _HOOKS},
    "health_check": {key.name: key for key in _HEALTH_CHECK},
    "limits": {key.name: key for key in _LIMITS},
    "sandbox": {key.name: key for key in _SANDBOX},
    "logs": {key.name: key for key in _LOGS},
    "alerts": {key.name: key for key in _ALERTS},
}
"""The keys of each sub-table. The values of one are merged key by key over defaults, app and profile."""

VARIABLES = "env"
"""A sub-table too, whose keys are whatever an app wants."""

ALIASES: dict[Path, Path] = {
    ("cwd",): ("working_dir",),
    ("user",): ("sandbox", "user"),
    ("resource_limits", "max_memory_mb"): ("limits", "memory_mb"),
}
"""Other spellings, and what they mean."""

_ALIAS_TABLES = frozenset(path[0] for path in ALIASES if len(path) > 1)

LATER = frozenset(
    [
        "log_date_format",
        "webhook",
    ]
)
"""Keys that a later version of oxmgr has."""

LATER_TOP = frozenset(("version", "apps", "logging", "deploy"))

TOP = ("processes", "defaults", "alerts", "exit_when")

ONLY_APP = frozenset(("command", "profiles", "disabled"))
"""Keys that make no sense in [defaults]."""


def is_table(name: str) -> bool:
    return name in TABLES or name in _ALIAS_TABLES or name == VARIABLES


def find_key(path: Path) -> Key | None:
    """The key at this place in an app's table, by its proper name."""
    if len(path) == 1:
        return KEYS.get(path[0])
    if path[0] == VARIABLES:
        return Key(path[1], "variable", "", "")
    return TABLES.get(path[0], {}).get(path[1])


def known_beside(path: Path) -> list[str]:
    """Every name that may stand where this path's last does."""
    if len(path) == 1:
        return [*KEYS, *(alias[0] for alias in ALIASES)]
    return [*TABLES.get(path[0], ()), *(alias[1] for alias in ALIASES if len(alias) > 1 and alias[0] == path[0])]


def markdown() -> str:
    """The tables of docs/config.md: of an app's own keys, then of each sub-table under a heading."""
    parts = [_markdown_table(KEYS)]
    for name, keys in TABLES.items():
        parts.append(f"### `[processes.NAME.{name}]`\n\n{_markdown_table(keys)}")
    return "\n".join(parts)


def _markdown_table(keys: dict[str, Key]) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{key.name}` | {key.default} | {key.doc.replace('|', chr(92) + '|')} |" for key in keys.values()]
    return "\n".join(rows) + "\n"

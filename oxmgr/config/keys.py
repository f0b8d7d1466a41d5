"""The keys of a `[processes.NAME]` table: the one place that says what they are called, take and mean."""

from typing import NamedTuple

from oxmgr.model.spec import CONDITIONS, RESTARTS, STOP_MODES

YEAR_MS = 365 * 24 * 3600 * 1000


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
        Key("instances", "instances", "1", 'how many copies, or `"max"`: the CPUs that may be used (affinity and cgroup quota)', 1, 10_000),
        Key("env", "env", "", "variables: strings, numbers or booleans; they win over `env_file`"),
        Key("env_file", "path", "", "a dotenv file"),
        Key("restart_on_exit", "bool", "absent", "true: restart on any exit; false: never; absent: when it failed"),
        Key("restart", "choice", "on-failure", "the long spelling of `restart_on_exit`", choices=RESTARTS),
        Key("stop_exit_codes", "codes", "[]", "exit codes that count as finished: no restart after them", 0, 255),
        Key("restart_delay_ms", "int", "absent", "absent: the first crash restarts at once, then 100 ms, doubling; N: the first crash waits N as well"),
        Key("restart_delay_max_ms", "int", "30000", "where the doubling ends; 0: no delay ever"),
        Key("restart_window_secs", "number", "60", "up this long, and the counters go back to zero", 0, YEAR_MS / 1000),
        Key("max_restarts", "int", "0", "crashes in a row until it is given up (`errored`); 0: never", 0, 1_000_000),
        Key("start_delay_ms", "int", "0", "wait before a start, not before a restart"),
        Key("depends_on", "depends", "", '`["db"]`, or `{ db = "started", migrate = "exited" }`: start waits, stop goes in reverse', choices=CONDITIONS),
        Key("stop_signal", "signal", "SIGTERM", "what a stop sends first"),
        Key("stop_timeout_ms", "int", "10000", "how long a stop waits before the whole tree is killed"),
        Key("stop_mode", "choice", "group", "who gets the stop signal: the process group, the main process, or the whole tree", choices=STOP_MODES),
        Key("namespace", "namespace", "default", "a label to act on: `oxmgr stop @NAME`"),
        Key("disabled", "bool", "false", "leave the app out"),
        Key("profiles", "profiles", "", "tables of other values, chosen by `--env NAME`"),
        Key("log_file", "path", "in the log folder", "where stdout goes, and stderr too if `error_log_file` is absent"),
        Key("error_log_file", "path", "in the log folder", "where stderr goes"),
    )
}  # fmt: skip

ALIASES = {"cwd": "working_dir"}

LATER = frozenset(
    [
        "ready",
        "ready_timeout_ms",
        "health_check",
        "listen",
        "reuse_port",
        "watch",
        "watch_extensions",
        "watch_ignore",
        "watch_delay_ms",
        "schedule",
        "restart_schedule",
        "timezone",
        "catch_up",
        "limits",
        "resource_limits",
        "sandbox",
        "user",
        "hooks",
        "logs",
        "log_date_format",
        "alerts",
        "webhook",
        "max_unavailable",
        "rate_limit",
        "on_full",
    ]
)
"""Keys that a later version of oxmgr has."""

LATER_TOP = frozenset(("version", "apps", "alerts", "logging", "deploy"))

ONLY_APP = frozenset(("command", "profiles", "disabled"))
"""Keys that make no sense in [defaults]."""


def markdown() -> str:
    """The table of docs/config.md."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{key.name}` | {key.default} | {key.doc.replace('|', chr(92) + '|')} |" for key in KEYS.values()]
    return "\n".join(rows) + "\n"

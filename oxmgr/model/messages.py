"""What the daemon and its clients say to each other, and what oxmgr writes to its files.

A conversation: the client connects and sends Hello; the daemon answers Hello (or Failed, when it does not speak
that protocol). Then a request, and the daemon's replies to it: any number of Progress or EventReply, then one
final reply. A client may send further requests on the same connection, one at a time.
"""

import os

from oxmgr.model.codec import Struct
from oxmgr.model.spec import ALL, Spec

# --- exit codes of the command line, and so the `code` of Failed ---

DONE = 0
FAILED = 1
WRONG = 2
NO_DAEMON = 3
NO_SUCH_APP = 4


class Hello(Struct, tag="hello"):
    """The first frame of either side. `protocol` counts incompatible changes, `version` is oxmgr's."""

    protocol: int
    version: str
    pid: int = 0


# --- requests ---


class Apply(Struct, tag="apply"):
    """Make these apps be what runs.

    `environ` is the caller's environment as NUL-terminated `KEY=value`; an app takes it when this request
    starts or restarts it. `prune` deletes the apps that are not named. `plan_only` changes nothing. `reload`: those
    that run are replaced also where nothing has changed. `keep_stopped`: instances that were stopped stay so.
    """

    specs: list[Spec]
    environ: bytes = b""
    prune: bool = False
    plan_only: bool = False
    reload: bool = False
    keep_stopped: bool = False


VERBS = ("start", "stop", "restart", "reload", "delete", "reset")


class Act(Struct, tag="act"):
    """One of VERBS on every instance that a target selects. `environ` as in Apply, for `start`."""

    verb: str
    targets: list[str]
    environ: bytes | None = None


class Scale(Struct, tag="scale"):
    """Set the number of an app's instances; `relative` adds `instances` to it."""

    app: str
    instances: int
    relative: bool = False


class SendSignal(Struct, tag="signal"):
    targets: list[str]
    signal: int


class SendInput(Struct, tag="input"):
    """Bytes for the standard input of one instance."""

    target: str
    data: bytes


class FlushLogs(Struct, tag="flush-logs"):
    """Empty the current log files of these; rotated ones stay."""

    targets: list[str]


class ReopenLogs(Struct, tag="reopen-logs"):
    """Somebody has renamed log files of these, or mended what kept them from being written to: begin anew with the
    paths that were asked for."""

    targets: list[str]


class GetInstances(Struct, tag="instances"):
    """No target: all of them."""

    targets: list[str] = []


class GetEnv(Struct, tag="env"):
    """The environment that the target's next start gets; of the first instance selected."""

    target: str


class GetEvents(Struct, tag="events"):
    """The last `limit` of the events that are kept and have a number over `after`; then, with `follow`, each as it
    happens, or as soon as the client takes it."""

    after: int = 0
    limit: int = 100
    follow: bool = False


class GetDaemon(Struct, tag="daemon"):
    pass


class ReplaceDaemon(Struct, tag="replace"):
    """Have another daemon go on with all that runs: this interpreter, file and folders, as client.launch makes them.
    The reply comes before the daemon goes; Failed when the other one could not go on."""

    argv: list[str]


class StopDaemon(Struct, tag="shutdown"):
    """Stop the apps in order, leave what is desired as it is, and end. The last reply comes before the end."""


Request = (
    Apply
    | Act
    | Scale
    | SendSignal
    | SendInput
    | FlushLogs
    | ReopenLogs
    | GetInstances
    | GetEnv
    | GetEvents
    | GetDaemon
    | ReplaceDaemon
    | StopDaemon
)


# --- what is not said at the socket ---


class Runtime(Struct, tag="runtime"):
    """What `oxmgr runtime` has the daemon do that it starts, in a file in memory.

    All ends when ANY instance has ended for good, or ALL of them have, or those of the app that `exit_when` names.
    `rewrites` maps a signal to the one that it is treated as, 0: nothing is done. `grace` is how many seconds a stop
    takes at most. `alone`: the one app is a command that takes our place, and not one of a file.
    """

    apply: Apply
    exit_when: str = ALL
    rewrites: dict[int, int] = {}
    grace: float = 8.0
    alone: bool = False


# --- replies ---


class Failed(Struct, tag="failed"):
    """The request was refused or failed as a whole. `code` is the exit code; the message says what to do."""

    message: str
    code: int = FAILED


class Progress(Struct, tag="progress"):
    """An instance that the request waits for has changed."""

    instance: str
    status: str
    reason: str = ""


class Change(Struct):
    """What Apply does or would do to an app: `add`, `change`, `start`, `reload`, `keep` or `delete`; `keys` are those
    that differ."""

    app: str
    action: str
    keys: list[str] = []


class InstanceView(Struct):
    """An instance as `oxmgr list --json` shows it, in this order of keys.

    `pid` null: no process. `started_at` is Unix time in seconds. `cpu_percent` (of one core), `memory_bytes`
    and `tasks` are the tree's, read by whoever shows them, null where they are unknown. `signal` is the name
    of the one that ended the last main process, else null. `cgroup` is its folder in cgroup v2, null without one;
    `oom_kills` how often the kernel killed of it because memory had run out, since the last reset; `limits` those that
    are set; `warnings` what of its spec this host does not hold, and what is wrong with its logs; `log_file` and
    `error_log_file` are the files in use, which need not be those that were asked for. `next_run`, Unix time in
    seconds, is when its schedule is due next, null without one. `sockets` are the addresses that are held for it;
    `status_text` what it says itself of how it is (STATUS of sd_notify).
    """

    name: str
    app: str
    instance: int
    namespace: str
    status: str
    desired: str
    pid: int | None
    restarts: int
    exit_code: int | None
    signal: str | None
    reason: str
    ready: bool
    health: str | None
    started_at: float | None
    uptime_ms: int | None
    cpu_percent: float | None
    memory_bytes: int | None
    tasks: int | None
    command: str
    working_dir: str
    log_file: str
    error_log_file: str
    cgroup: str | None = None
    oom_kills: int = 0
    limits: dict[str, float | str] = {}
    warnings: list[str] = []
    next_run: int | None = None
    sockets: list[str] = []
    status_text: str = ""


class Instances(Struct, tag="instances"):
    instances: list[InstanceView]
    warnings: list[str] = []


class Done(Struct, tag="done"):
    """A changing request has run its course. `failed` maps an instance's name to why it is not as was asked."""

    changes: list[Change] = []
    instances: list[InstanceView] = []
    failed: dict[str, str] = {}
    warnings: list[str] = []


class Env(Struct, tag="env"):
    """`environ` as in Apply, for what an environment holds need not be text; a dict is packed."""

    environ: bytes | dict[str, str]

    def __post_init__(self) -> None:
        if isinstance(self.environ, dict):
            self.environ = os.fsencode("".join(f"{key}={value}\0" for key, value in self.environ.items()))

    @property
    def env(self) -> dict[str, str]:
        """Bytes that are no text are as os.environ has them."""
        if isinstance(self.environ, dict):
            return self.environ
        words = os.fsdecode(self.environ).split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)


class DaemonView(Struct, tag="daemon"):
    """`started_at` is Unix time in seconds, `warnings` what a user ought to know (a state file put aside, …).

    `ladders` says in words on which step of each this host stands: `spawn`, how children are made; `trees`, how trees
    are kept; `kill`, how they are ended; `limits`, which can be held and which cannot; `sockets`, how it is found out
    whose a socket is.
    """

    pid: int
    version: str
    started_at: float
    apps: int
    instances: int
    state: str
    run: str
    logs: str
    warnings: list[str] = []
    ladders: dict[str, str] = {}
    guard: int | None = None


APP_EVENTS = ("added", "changed", "deleted", "alert-failed")
INSTANCE_EVENTS = (
    *("waiting", "started", "ready", "unhealthy", "crashed", "exited", "oom", "limit", "scheduled"),
    *("skipped", "missed", "watch", "backoff", "stopping"),
    *("killed", "stopped", "errored", "adopted", "signalled", "reset", "hook-failed"),
)
DAEMON_EVENTS = ("daemon-started", "daemon-replaced", "daemon-stopping")
EVENT_KINDS = APP_EVENTS + INSTANCE_EVENTS + DAEMON_EVENTS


class Event(Struct, tag="event", omit_defaults=True, gc=False):
    """Something that happened. `seq` rises by one, from daemon to daemon; `at` is Unix time in seconds, `kind` one of
    EVENT_KINDS."""

    seq: int
    at: float
    kind: str
    app: str = ""
    instance: str = ""
    pid: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""


class EventsLost(Struct, tag="events-lost"):
    """So many events before the next one are not kept any more: the client was too slow, or came too late."""

    count: int


class EventsEnd(Struct, tag="events-end"):
    """All past events were sent. With `follow`, those behind this frame are live."""


Reply = Hello | Failed | Progress | Instances | Done | Env | DaemonView | Event | EventsLost | EventsEnd


# --- to the helper that sends alerts ---


class Alert(Struct):
    """What a webhook or command gets, as JSON, in this order of keys.

    `text` says it in a line. `kind` is one of ALERT_KINDS; `seq`, `exit_code`, `signal` and `reason` are the last
    event's, `time` is when that was (RFC 3339). `count` is how often it has happened since the last message of that
    kind, `instances` how often to each (the last so many). `stdout` and `stderr` are the last lines that `instance` had
    printed by then. `version` is oxmgr's.
    """

    text: str
    kind: str
    app: str
    instance: str
    namespace: str
    host: str
    time: str
    seq: int
    reason: str
    exit_code: int | None
    signal: str | None
    restarts: int
    count: int
    instances: dict[str, int]
    stdout: list[str]
    stderr: list[str]
    version: str


class SendAlert(Struct):
    """To whom: `webhook` with `headers`, or else `command` in `working_dir`. `at` is Unix time in seconds; `logs` are
    the files of stdout and stderr, of which there may be none. The helper fills in what `alert` lacks."""

    alert: Alert
    at: float
    logs: list[str] = []
    webhook: str = ""
    headers: dict[str, str] = {}
    command: list[str] = []
    working_dir: str = "/"


class Match(Struct):
    """What a helper is to wait for: a line that matches `pattern` and comes to one of `files` behind the offset there;
    behind -1, at `since` or later, a Unix time in ns. Without files it is to be waited for no more."""

    number: int
    pattern: str = ""
    files: dict[str, int] = {}
    since: int = 0


class Letter(Struct):
    """A message that waits to be sent, and how often that was tried."""

    app: str
    order: SendAlert
    tries: int = 0


# --- files ---


class SavedApp(Struct, tag="app", omit_defaults=True):
    """Desired state of an app. `environ` names a SavedEnviron; `stopped` are the instances not to be run."""

    spec: Spec
    environ: str
    stopped: list[int] = []


class SavedEnviron(Struct, tag="environ"):
    """An environment that apps were started from, kept once however many apps share it."""

    id: str
    data: bytes


class SavedCount(Struct, tag="count"):
    """Head of the file: how many records are behind it."""

    records: int


Saved = SavedApp | SavedEnviron | SavedCount


class Boot(Struct, tag="boot"):
    """Head of the journal: which boot the pids behind it belong to (boot_id() in oxmgr/supervisor/files.py)."""

    id: str


class Observed(Struct, tag="seen", omit_defaults=True, gc=False):
    """What was last true of an instance; the latest record of a journal counts.

    `ticks` is the main process's start time (proc(5), stat field 22), which with the boot and the pid names a
    process for good. `started_at` is Unix time in seconds. `gone`: the instance was deleted. `session` and `cgroup` are
    where the rest of its tree is, while there may be one. `due` is the Unix time at which something happens to it by
    itself (a restart, a kill); 0 of one that is stopping: it may not have been told so yet. `then` is as in
    oxmgr.lifecycle.machine.State, `ooms` what its cgroup had counted. `run` tells those apart that replace each other;
    `extra` are those that were replaced, and those that are to replace one and do not yet.
    `done_until` is the Unix time up to which the times of its schedule are done (0: it has none). `made` is the
    fingerprint of the spec that it was started by (0: its app's). `status_text` is as in InstanceView. `marks` are its
    log files and where in each this run begins, while a line of it is waited for. `failures` counts the health checks
    in a row that have failed.
    """

    app: str
    index: int
    status: str
    pid: int = 0
    ticks: int = 0
    started_at: float = 0.0
    restarts: int = 0
    crashes: int = 0
    streak: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    gone: bool = False
    session: int = 0
    cgroup: str = ""
    oom_kills: int = 0
    due: float = 0.0
    then: str = ""
    ooms: tuple[int, int] = (0, 0)
    run: int = 0
    extra: bool = False
    done_until: float = 0.0
    marks: dict[str, int] = {}
    failures: int = 0
    made: int = 0
    status_text: str = ""


Journaled = Boot | Observed

"""What a user wants of an app, complete and validated. oxmgr.config makes these; the daemon only reads them."""

from oxmgr.model.codec import Struct

NAME_LIMIT = 64

ALWAYS = "always"
ON_FAILURE = "on-failure"
NEVER = "never"
RESTARTS = (ALWAYS, ON_FAILURE, NEVER)

STOP_MODES = ("group", "main", "tree")

STARTED = "started"
READY = "ready"
EXITED = "exited"
CONDITIONS = (STARTED, READY, EXITED)

READY_WORDS = (STARTED, "notify", "node", "listen")
READY_FORMS = ("fd:", "tcp:", "http://", "log:", "command:")
"""How an app says that it is ready: one of the words, or what follows one of the forms."""

ANY, ALL = "any", "all"
"""What `exit_when` may say beside an app's name."""

FIFO = "fifo"
INHERIT = "inherit"
TERMINAL = "terminal"
STDINS = (FIFO, INHERIT, TERMINAL)

DEFAULT_NAMESPACE = "default"


class Limits(Struct, frozen=True, omit_defaults=True, gc=False):
    """What an instance's tree may use; None: as much as it likes. Sizes are MiB, percents are of one CPU.

    `memory_mb` and `cpu_percent` (over `cpu_window_secs`) are soft: who is above them is restarted gracefully. The
    kernel holds the others (cgroup-v2.rst, getrlimit(2), nice(2), proc(5) oom_score_adj): at once, for all of the
    tree. `cpus` is a list as `0-3,8`. `required`: an app whose limits this host cannot hold is not started.
    """

    memory_mb: float | None = None
    cpu_percent: float | None = None
    cpu_window_secs: float = 60.0
    memory_max_mb: float | None = None
    memory_high_mb: float | None = None
    swap_max_mb: float | None = None
    cpu_quota_percent: float | None = None
    cpu_weight: int | None = None
    tasks_max: int | None = None
    io_weight: int | None = None
    cpus: str | None = None
    open_files: int | None = None
    core_mb: float | None = None
    nice: int | None = None
    oom_score_adj: int | None = None
    required: bool = False


class Sandbox(Struct, frozen=True, omit_defaults=True, gc=False):
    """With which rights an instance runs; the defaults take none away.

    `user` is the name as it was written; the numbers and folders are what it meant to whoever read the file, so that
    the daemon asks no name service. `uid` -1: stays as it is; the same for `gid`. `umask` -1: 0022. `capabilities`
    are names as in capabilities(7): the app has these and no others; None leaves them alone. Paths are absolute.
    """

    user: str = ""
    uid: int = -1
    gid: int = -1
    groups: list[int] = []
    home: str = ""
    shell: str = ""
    umask: int = -1
    no_new_privileges: bool = False
    capabilities: list[str] | None = None
    private_tmp: bool = False
    private_network: bool = False
    read_only_paths: list[str] = []
    deny_gpu: bool = False


class Logs(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where what an instance prints goes, and how much of it is kept.

    A file is rotated at a line's end when it has `max_size_mb` MiB (0: never) or its first line is `max_days` old;
    `max_files` rotated ones are kept, none for longer than `max_days` (0: for ever). `format` and `sink` are of
    LOG_FORMATS and LOG_SINKS. `on_full` "block": when the disk is full the app waits; "drop": what does not fit is
    counted. `rate_limit` is lines a second; what is above it is counted and dropped.
    """

    max_size_mb: float = 20.0
    max_files: int = 5
    max_days: float = 14.0
    compress: bool = True
    format: str = "raw"
    sink: str = "file"
    on_full: str = "block"
    rate_limit: int | None = None


class Hooks(Struct, frozen=True, omit_defaults=True, gc=False):
    """Shell commands that are run beside an app, as it is run itself: "" for none. Who does not end within
    `timeout_secs` is killed and has failed. A `pre_start` that fails is a start that fails, a `pre_reload` that fails a
    reload that does; of the others it is told."""

    pre_start: str = ""
    post_start: str = ""
    pre_reload: str = ""
    pre_stop: str = ""
    post_stop: str = ""
    timeout_secs: float = 30.0


class HealthCheck(Struct, frozen=True, omit_defaults=True, gc=False):
    """How it is found out whether an app that runs does its work: one of `endpoint` (http), `tcp` and `command`, asked
    every `interval_secs`, first `initial_delay_secs` after it is ready. Without any of them there is no check.

    So many failures in a row make it unhealthy, so many successes healthy. No answer within `timeout_secs` is a
    failure.
    """

    endpoint: str = ""
    tcp: str = ""
    command: str = ""
    interval_secs: float = 30.0
    timeout_secs: float = 5.0
    healthy_threshold: int = 1
    unhealthy_threshold: int = 3
    initial_delay_secs: float = 10.0

    @property
    def probe(self) -> str:
        """As `ready` has it; "" for none."""
        return self.endpoint or (f"tcp:{self.tcp}" if self.tcp else f"command:{self.command}" if self.command else "")


LOG_FORMATS = ("raw", "cri", "json")
LOG_SINKS = ("file", "journald", "stdout", "inherit", "none")
ON_FULL = ("block", "drop")

ALERT_KINDS = ("crash", "crash_loop", "oom", "unhealthy", "limit", "errored")


class Alerts(Struct, frozen=True, omit_defaults=True, gc=False):
    """Who is told when something is wrong with an instance; nobody when there is neither `webhook` nor `command`.

    `on` are of ALERT_KINDS. A POST to `webhook` has `headers` besides those that HTTP needs; URL and headers may be
    secrets, so nothing shows them. `command` is executed as argv in `working_dir`, absolute.
    """

    on: tuple[str, ...] = ALERT_KINDS
    webhook: str = ""
    headers: dict[str, str] = {}
    command: list[str] = []
    working_dir: str = "/"


NO_LIMITS = Limits()
NO_ALERTS = Alerts()
NO_SANDBOX = Sandbox()
DEFAULT_LOGS = Logs()
NO_HEALTH_CHECK = HealthCheck()
NO_HOOKS = Hooks()


class Spec(Struct, frozen=True, omit_defaults=True, gc=False):
    """One app.

    `argv` is what is executed: `argv[0]` with a slash is a path, without one it is looked up in the app's own
    PATH at each start. `command` is the user's own spelling, for people to read. Times are milliseconds but for
    `restart_window_secs`. Paths are absolute. `depends_on` maps an app's name to one of CONDITIONS.

    `ready` is one of READY_WORDS or READY_FORMS with what belongs to it; `ready_timeout_ms` 0: it may take for ever.
    `max_unavailable` is how many instances a reload replaces at a time.
    `restart_delay_ms` None: the first crash restarts at once and 100 ms is the base of the following ones.
    `watchdog_secs`: so often it has to say that it does its work (sd_notify(3), WATCHDOG=1); None: it need not.
    `listen` are addresses as oxmgr.model.listen spells them; `socket_mode`, `socket_uid` and `socket_gid` (-1: the
    app's own) are those of its unix sockets. `bind_shim`: what it binds itself is taken from them.
    `shutdown_with_message`: a stop sends "shutdown" over Node's IPC channel.
    `log_file` None: the file in the daemon's log folder that is named after the instance.
    `stdin` FIFO: what oxmgr's users send it; INHERIT: the daemon's own; TERMINAL: that too, and it is in the foreground
    of that terminal. Nothing but `oxmgr runtime` sets it.

    `schedule` and `restart_schedule` are cron lines, or ""; an app has one of them at the most. With `schedule` it is a
    job: run at those times, by all instances, or with `overlap` by one that has nothing to do. With
    `restart_schedule` it is restarted then. `timezone` "": the machine's. `catch_up`: what was missed counts once.

    `watch` are files and folders: when something in them changes, it is restarted. With `watch_extensions` (without
    the dot) only files of these count. `watch_ignore` are as oxmgr.lifecycle.watching has them.
    """

    name: str
    command: str
    argv: list[str]
    working_dir: str
    instances: int = 1
    env: dict[str, str] = {}
    restart: str = ON_FAILURE
    stop_exit_codes: list[int] = []
    restart_delay_ms: int | None = None
    restart_delay_max_ms: int = 30_000
    restart_window_secs: float = 60.0
    max_restarts: int = 0
    start_delay_ms: int = 0
    ready: str = STARTED
    ready_timeout_ms: int = 30_000
    watchdog_secs: float | None = None
    listen: list[str] = []
    reuse_port: bool = False
    backlog: int = 4096
    bind_shim: bool = False
    socket_mode: int = 0o660
    socket_uid: int = -1
    socket_gid: int = -1
    depends_on: dict[str, str] = {}
    max_unavailable: int = 1
    stop_signal: int = 15
    stop_timeout_ms: int = 10_000
    stop_mode: str = "group"
    shutdown_with_message: bool = False
    namespace: str = DEFAULT_NAMESPACE
    log_file: str | None = None
    error_log_file: str | None = None
    limits: Limits = NO_LIMITS
    sandbox: Sandbox = NO_SANDBOX
    logs: Logs = DEFAULT_LOGS
    health_check: HealthCheck = NO_HEALTH_CHECK
    hooks: Hooks = NO_HOOKS
    stdin: str = FIFO
    alerts: Alerts = NO_ALERTS
    schedule: str = ""
    restart_schedule: str = ""
    timezone: str = ""
    catch_up: bool = False
    overlap: bool = False
    watch: list[str] = []
    watch_extensions: list[str] = []
    watch_ignore: list[str] = []
    watch_delay_ms: int = 200


def name_error(name: str) -> str | None:
    """Why `name` cannot name an app, as the end of a sentence ("… has a slash"), or None if it can.

    Letters, digits, `.`, `_` and `-`, at most NAME_LIMIT of them, the first a letter or digit. `:` would be
    read as an instance's number, `@` as a namespace, `*` as a glob, `/` as a folder.
    """
    if not name:
        return "is empty"
    if len(name) > NAME_LIMIT:
        return f"has {len(name)} characters, {NAME_LIMIT} are the most"
    for char in name:
        if not (char.isascii() and (char.isalnum() or char in "._-")):
            what = {"/": "a slash", "\n": "a newline", " ": "a space", ":": "a colon"}.get(char, repr(char))
            return f"has {what}; letters, digits, '.', '_' and '-' may be used"
    if not name[0].isalnum():
        return f"starts with {name[0]!r}; the first character must be a letter or a digit"
    if name == "all":
        return "is the word for every app"
    return None


def instance_name(app: str, index: int, instances: int) -> str:
    """`api` when there is one instance, `api:0`, `api:1` when there are more."""
    return app if instances == 1 and index == 0 else f"{app}:{index}"

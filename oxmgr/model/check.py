"""What a spec may hold. The one place that knows: a spec comes from whoever speaks at the socket, or from a file.

What passes cannot make the daemon fail, only the app: no number that a clock or a C int does not take, no name that
leads out of a folder, no text that ends early. Whether this host can do what is asked is another matter. Pure.
"""

from oxmgr.model import listen
from oxmgr.model.capabilities import capability_mask
from oxmgr.model.logpaths import log_name_error
from oxmgr.model.spec import (
    ALERT_KINDS,
    ALWAYS,
    CONDITIONS,
    LOG_FORMATS,
    LOG_SINKS,
    NAME_LIMIT,
    ON_FULL,
    READY_FORMS,
    READY_WORDS,
    RESTARTS,
    STDINS,
    STOP_MODES,
    Alerts,
    HealthCheck,
    Hooks,
    Limits,
    Logs,
    Sandbox,
    Spec,
    name_error,
)
from oxmgr.model.urls import address, endpoint

HOUR_MS = 3600 * 1000
YEAR_MS = 365 * 24 * 3600 * 1000
PETABYTE_MB = 1_000_000_000
PERCENT = 1_000_000
ID_LIMIT = 2**31 - 1
LAST_SIGNAL = 64

WORD_LIMIT = 128 * 1024 - 1
"""Of an argument, or of a variable with its name: MAX_ARG_STRLEN of the kernel (execve(2)), without the NUL."""

TEXT_LIMIT = 4 * 1024 * 1024
"""Of all texts of a spec together: more than execve(2) takes, and a quarter of a frame."""

PATH_LIMIT = 4095
"""PATH_MAX of the kernel, without the NUL."""

LINE_LIMIT = 256
"""Of a cron line, and of the name of a time zone."""

LIST_LIMIT = 65_536
"""Of the entries in a list: as many groups as a process can have (NGROUPS_MAX)."""

NUMBERS: dict[str, tuple[float, float]] = {
    "instances": (1, 10_000),
    "restart_delay_ms": (0, YEAR_MS),
    "restart_delay_max_ms": (0, YEAR_MS),
    "restart_window_secs": (0, YEAR_MS / 1000),
    "max_restarts": (0, 1_000_000),
    "start_delay_ms": (0, YEAR_MS),
    "ready_timeout_ms": (0, YEAR_MS),
    "max_unavailable": (1, 10_000),
    "watchdog_secs": (0.1, 86_400),
    "backlog": (1, 65_535),
    "stop_signal": (1, LAST_SIGNAL),
    "stop_timeout_ms": (0, YEAR_MS),
    "watch_delay_ms": (0, HOUR_MS),
}
WORDS: dict[str, tuple[str, ...]] = {"restart": RESTARTS, "stop_mode": STOP_MODES, "stdin": STDINS}
SOCKETS: dict[str, tuple[float, float]] = {
    "socket_mode": (0, 0o777),
    "socket_uid": (-1, ID_LIMIT),
    "socket_gid": (-1, ID_LIMIT),
}
HEALTH: dict[str, tuple[float, float]] = {
    "interval_secs": (0.1, 86_400),
    "timeout_secs": (0.1, 3600),
    "healthy_threshold": (1, 1000),
    "unhealthy_threshold": (1, 1000),
    "initial_delay_secs": (0, 86_400),
}
HOOKS: dict[str, tuple[float, float]] = {"timeout_secs": (0.1, 86_400)}
HOOK_WORDS = ("pre_start", "post_start", "pre_reload", "pre_stop", "post_stop")
EXIT_CODES = (0, 255)
READY_FDS = (3, 1023)

LIMITS: dict[str, tuple[float, float]] = {
    "memory_mb": (1, PETABYTE_MB),
    "cpu_percent": (1, PERCENT),
    "cpu_window_secs": (0.1, 86_400),
    "memory_max_mb": (1, PETABYTE_MB),
    "memory_high_mb": (1, PETABYTE_MB),
    "swap_max_mb": (0, PETABYTE_MB),
    "cpu_quota_percent": (0.1, PERCENT),
    "cpu_weight": (1, 10_000),
    "tasks_max": (1, 4_194_304),
    "io_weight": (1, 10_000),
    "open_files": (16, 1_000_000_000),
    "core_mb": (0, PETABYTE_MB),
    "nice": (-20, 19),
    "oom_score_adj": (-1000, 1000),
}
LOGS: dict[str, tuple[float, float]] = {
    "max_size_mb": (0, PETABYTE_MB),
    "max_files": (0, 100_000),
    "max_days": (0, 36_500),
    "rate_limit": (1, 1_000_000_000),
}
LOG_WORDS: dict[str, tuple[str, ...]] = {"format": LOG_FORMATS, "sink": LOG_SINKS, "on_full": ON_FULL}
SANDBOX: dict[str, tuple[float, float]] = {
    "uid": (-1, ID_LIMIT),
    "gid": (-1, ID_LIMIT),
    "umask": (-1, 0o777),
}
URL_LIMIT = 2000
HEADERS_LIMIT = 32
HEADER_LIMIT = 4000
"""Characters of a header's value; most servers take no more than 8 KB of all headers together."""
WORD_OF_HEADER = 128
HOLDS_NUL = "the command holds a NUL, which no program can be given"
OWN_HEADERS = ("connection", "content-length", "content-type", "host", "transfer-encoding")
OPTIONAL = frozenset((*LIMITS, "restart_delay_ms", "rate_limit", "watchdog_secs")) - {"cpu_window_secs"}
"""Those that may be None."""


def spec_error(spec: Spec) -> str | None:
    """Why the daemon cannot take it, as the end of a sentence that began with the app; None if it can."""
    wrong = name_error(spec.name)
    if wrong:
        return f"the name {wrong}"
    return (
        _numbers(spec, NUMBERS)
        or _program(spec)
        or _environment(spec.env)
        or _paths(spec)
        or _words(spec)
        or _limits(spec.limits)
        or _sandbox(spec.sandbox)
        or _logs(spec.logs)
        or _health(spec.health_check)
        or _sockets(spec)
        or _hooks(spec.hooks)
        or _alerts(spec.alerts)
        or _schedule(spec)
        or _watch(spec)
        or _size(spec)
    )


def _logs(logs: Logs) -> str | None:
    for key, known in LOG_WORDS.items():
        if getattr(logs, key) not in known:
            return f"logs.{key}: expected {_one_of(known)}, got {_shown(getattr(logs, key))}"
    return _numbers(logs, LOGS, "logs.")


def _hooks(hooks: Hooks) -> str | None:
    for key in HOOK_WORDS:
        if "\0" in getattr(hooks, key) or len(getattr(hooks, key)) > WORD_LIMIT:
            return f"hooks.{key}: a command cannot hold a NUL, nor more than {WORD_LIMIT} characters"
    return _numbers(hooks, HOOKS, "hooks.")


def _health(check: HealthCheck) -> str | None:
    given = [word for word in (check.endpoint, check.tcp, check.command) if word]
    if len(given) > 1:
        return "health_check: endpoint, tcp and command: one of them may be there"
    wrong = _ready(check.probe) if given else None
    return f"health_check: {wrong}" if wrong else _numbers(check, HEALTH, "health_check.")


def _sockets(spec: Spec) -> str | None:
    if len(spec.listen) > listen.MOST:
        return f"listen: {len(spec.listen)} sockets, {listen.MOST} are the most"
    places: set[str] = set()
    for text in spec.listen:
        try:
            one = listen.read_address(text)
        except ValueError as wrong:
            return f"listen: {wrong}"
        if one.text != text or one.place in places:
            return f"listen: expected each address once and as {one.text!r}, got {_shown(text)}"
        if one.kind == listen.UNIX and spec.reuse_port:
            return f"reuse_port: {one.place} cannot be shared so"
        places.add(one.place)
    if spec.ready.startswith("fd:") and int(spec.ready[3:]) < listen.FIRST_FD + len(spec.listen):
        return f"ready: {spec.ready} is a socket of listen"
    return _numbers(spec, SOCKETS)


def _numbers(
    of: "Spec | Limits | Sandbox | Logs | HealthCheck | Hooks", ranges: dict[str, tuple[float, float]], where: str = ""
) -> str | None:
    for key, (low, high) in ranges.items():
        value = getattr(of, key)
        # What is no number at all (NaN) is in no range.
        if not (value is None and key in OPTIONAL) and not low <= value <= high:
            what = " instances" if key == "instances" else ""
            return f"{where}{key}: expected {low:g} to {high:.15g}{what}, got {value}"
    return None


def _alerts(alerts: Alerts) -> str | None:
    """Without a word of what may be a secret."""
    for kind in alerts.on:
        if kind not in ALERT_KINDS:
            return f"alerts.on: expected {_one_of(ALERT_KINDS)}, got {_shown(kind)}"
    wrong = (alerts.webhook and url_error(alerts.webhook)) or None
    if wrong:
        return f"alerts.webhook: {wrong}"
    wrong = headers_error(alerts.headers)
    if wrong:
        return f"alerts.headers: {wrong}"
    wrong = _argv(alerts.command) if alerts.command else None
    return f"alerts.command: {wrong}" if wrong else _path("alerts.working_dir", alerts.working_dir)


def url_error(url: str) -> str | None:
    """Why nothing can be sent there by HTTP, without a word of it."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https"):
        return "expected a URL that begins with http:// or https://"
    if len(url) > URL_LIMIT:
        return f"a URL of {len(url)} characters, {URL_LIMIT} are the most"
    if not all("!" <= char <= "~" for char in url):
        return "a URL has printable ASCII characters alone, and no blank: write others as %XX"
    end = min(at for at in (len(rest), *map(rest.find, "/?#")) if at >= 0)
    host = rest[:end].rpartition("@")[2]
    name, _, port = host.partition("]") if host.startswith("[") else host.partition(":")
    if not name.strip("["):
        return "expected a URL that names a host, as https://HOST/PATH"
    if host.startswith("[") and "]" not in host:
        return "expected a URL that closes the ] of its host"
    if host.startswith("["):
        port = port[1:] if port.startswith(":") else port and "none"
    if port and not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65_536):
        return "expected a URL whose port is a number from 1 to 65535"
    return None


def headers_error(headers: dict[str, str]) -> str | None:
    """Why a request cannot have these, without a word of their values (RFC 9110, 5.1 and 5.5)."""
    if len(headers) > HEADERS_LIMIT:
        return f"{len(headers)} headers, {HEADERS_LIMIT} are the most"
    for name, value in headers.items():
        if not name or len(name) > WORD_OF_HEADER or not all(_is_token(char) for char in name):
            return f"{_shown(name)} cannot be a header's name"
        if name.lower() in OWN_HEADERS:
            return f"{name} is set by oxmgr: leave it out"
        if len(value) > HEADER_LIMIT:
            return f"{name} has {len(value)} characters, {HEADER_LIMIT} are the most"
        if not all(" " <= char <= "~" or char == "\t" for char in value):
            return f"{name} holds what is not printable ASCII"
    return None


def _is_token(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char in "!#$%&'*+-.^_`|~")


def _program(spec: Spec) -> str | None:
    wrong = _argv(spec.argv)
    if wrong is None and "\0" in spec.command:
        return HOLDS_NUL
    return wrong


def _argv(argv: list[str]) -> str | None:
    if not argv or not argv[0]:
        return "it needs a command: argv names no program"
    if "\0" in "".join(argv):
        return HOLDS_NUL
    if any(len(word) > WORD_LIMIT for word in argv):
        return f"a word of the command has more than {WORD_LIMIT} characters"
    return None


def _environment(env: dict[str, str]) -> str | None:
    names = "".join(env)
    if "=" in names or "\0" in names or "" in env:
        name = next(name for name in env if not name or "=" in name or "\0" in name)
        return f"env: {_shown(name)} cannot be a variable's name"
    if "\0" in "".join(env.values()):
        name = next(name for name, value in env.items() if "\0" in value)
        return f"env.{_cut(name)}: a variable cannot hold a NUL"
    if env and max(map(len, env.values())) + max(map(len, env)) >= WORD_LIMIT:
        for name, value in env.items():
            if len(name) + 1 + len(value) > WORD_LIMIT:
                return f"env.{_cut(name)}: has more than {WORD_LIMIT} characters"
    return None


def _paths(spec: Spec) -> str | None:
    return (
        _path("working_dir", spec.working_dir)
        or _log("log_file", spec.log_file)
        or _log("error_log_file", spec.error_log_file)
    )


def _log(key: str, path: str | None) -> str | None:
    if path is None:
        return None
    wrong = log_name_error(path)
    return _path(key, path) or (f"{key}: {wrong}" if wrong else None)


def _path(key: str, path: str) -> str | None:
    if not path.startswith("/"):
        return f"{key}: expected an absolute path, got {_shown(path)}"
    if "\0" in path:
        return f"{key}: a path cannot hold a NUL"
    if len(path) > PATH_LIMIT:
        return f"{key}: a path of {len(path)} characters, {PATH_LIMIT} are the most"
    return None


def _words(spec: Spec) -> str | None:
    for key, known in WORDS.items():
        if getattr(spec, key) not in known:
            return f"{key}: expected {_one_of(known)}, got {_shown(getattr(spec, key))}"
    low, high = EXIT_CODES
    for code in spec.stop_exit_codes:
        if not low <= code <= high:
            return f"stop_exit_codes: expected {low} to {high}, got {code}"
    wrong = _ready(spec.ready)
    if wrong:
        return f"ready: {wrong}"
    for name, condition in spec.depends_on.items():
        wrong = name_error(name)
        if wrong:
            return f"depends_on: the name {_shown(name)} {wrong}"
        if condition not in CONDITIONS:
            return f"depends_on.{name}: expected {_one_of(CONDITIONS)}, got {_shown(condition)}"
    wrong = name_error(spec.namespace)
    return f"the namespace {_shown(spec.namespace)} {wrong}" if wrong else None


def _ready(ready: str) -> str | None:
    form = next((form for form in READY_FORMS if ready.startswith(form)), "")
    rest = ready.removeprefix(form)
    if ready not in READY_WORDS and (not form or not rest or "\0" in rest or len(rest) > PATH_LIMIT):
        return f"expected {_one_of((*READY_WORDS, *READY_FORMS))}, got {_shown(ready)}"
    try:
        if form == "tcp:":
            address(rest)
        elif form == "http://":
            endpoint(ready)
    except ValueError as wrong:
        return str(wrong)
    low, high = READY_FDS
    if form == "fd:" and not (rest.isascii() and rest.isdecimal() and low <= int(rest[:9]) <= high):
        return f"fd: expected {low} to {high}, got {_shown(rest)}"
    return None


def _limits(limits: Limits) -> str | None:
    if limits.cpus is not None and not _is_cpus(limits.cpus):
        return f'limits.cpus: expected CPUs as "0-3,8", got {_shown(limits.cpus)}'
    return _numbers(limits, LIMITS, "limits.")


def _is_cpus(text: str) -> bool:
    if len(text) > PATH_LIMIT:
        return False
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdecimal() and len(end) <= 9 for end in ends) or int(ends[0]) > int(ends[-1]):
            return False
    return True


def _sandbox(sandbox: Sandbox) -> str | None:
    wrong = _numbers(sandbox, SANDBOX, "sandbox.")
    if wrong:
        return wrong
    for group in sandbox.groups:
        if not 0 <= group <= ID_LIMIT:
            return f"sandbox.groups: expected 0 to {ID_LIMIT}, got {group}"
    for key in ("user", "home", "shell"):
        if "\0" in getattr(sandbox, key):
            return f"sandbox.{key}: cannot hold a NUL"
    try:
        capability_mask(sandbox.capabilities or [])
    except KeyError as error:
        return f"sandbox.capabilities: there is no capability {_shown(str(error.args[0]))}"
    return next(filter(None, (_path("sandbox.read_only_paths", path) for path in sandbox.read_only_paths)), None)


def _schedule(spec: Spec) -> str | None:
    """What a helper is given as a word of its command; whether it is ever due is the helper's to say."""
    if not (spec.schedule or spec.restart_schedule or spec.timezone or spec.overlap):
        return None
    for key in ("schedule", "restart_schedule", "timezone"):
        text = getattr(spec, key)
        if len(text) > LINE_LIMIT or not (text.isascii() and (text.isprintable() or not text)):
            return f"{key}: expected at most {LINE_LIMIT} plain characters, got {_shown(text)}"
    if spec.timezone.startswith("/") or ".." in spec.timezone:
        return f"timezone: expected a name as Europe/Vienna, got {_shown(spec.timezone)}"
    if spec.schedule and spec.restart_schedule:
        return "restart_schedule: it has a schedule as well, and is either run or restarted"
    if spec.schedule and spec.restart == ALWAYS:
        return "restart: with a schedule it cannot be 'always', for it would not end"
    if spec.overlap and not (spec.schedule and spec.instances > 1):
        return "overlap: needs a schedule, and 2 instances or more: as many runs may be at a time"
    return None


def _watch(spec: Spec) -> str | None:
    for path in spec.watch:
        wrong = _path("watch", path)
        if wrong:
            return wrong
    for key in ("watch_extensions", "watch_ignore"):
        for text in getattr(spec, key):
            if not text or "\0" in text or len(text) > PATH_LIMIT:
                return f"{key}: expected texts of 1 to {PATH_LIMIT} characters, got {_shown(text)}"
    return None


def _size(spec: Spec) -> str | None:
    sandbox = spec.sandbox
    lists = (spec.argv, spec.env, spec.stop_exit_codes, spec.depends_on, sandbox.groups, sandbox.capabilities or ())
    others = (spec.watch, spec.watch_extensions, spec.watch_ignore, spec.alerts.command, spec.alerts.on)
    if max(map(len, (*lists, *others, sandbox.read_only_paths))) > LIST_LIMIT:
        return f"a list of it has more than {LIST_LIMIT} entries"
    texts = (spec.command, *spec.argv, *spec.env, *spec.env.values(), *sandbox.read_only_paths, *spec.alerts.command)
    texts += (*spec.watch, *spec.watch_extensions, *spec.watch_ignore)
    total = sum(map(len, (*texts, sandbox.user, sandbox.home, sandbox.shell)))
    if total > TEXT_LIMIT:
        return f"its texts have {total} characters together, {TEXT_LIMIT} are the most"
    return None


def _one_of(words: tuple[str, ...]) -> str:
    return ", ".join(map(repr, words))


def _cut(text: str) -> str:
    return text if len(text) <= NAME_LIMIT else f"{text[:NAME_LIMIT]}…"


def _shown(text: str) -> str:
    return repr(_cut(text))

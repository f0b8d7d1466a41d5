"""Starts the daemon: detached, in the foreground, or as a child of this command."""

import os
import select
import sys
import time
from _signal import SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM

from oxmgr.client.connection import Connection, NoDaemon, NotRunning, connect
from oxmgr.model.places import Places, find_places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

DAEMON = "supervise"
BUSY = "another one runs"
"""What a daemon says that finds its home taken; see oxmgr.supervisor.daemon."""
GUARD = "oxmgr-guard"
GUARD_FD = 3
"""The daemon's end of the guard's socketpair (csrc/guard.h)."""
PATIENCE = 5.0
START_PATIENCE = 20.0
FILES_NEEDED = 64
"""Open files of a daemon with its first apps, and of the guard beside it."""


def daemon_argv(**options: int | str | None) -> list[str]:
    """The bare interpreter, this package's file, where its libraries are, and what oxmgr.supervisor.daemon takes;
    options that are None are left out."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = [os.path.dirname(package), *(path for path in sys.path if path.endswith("-packages"))]
    words = [f"{key}={value}" for key, value in options.items() if value is not None]
    program = [sys.executable, "-I", "-S", f"{package}/__main__.py"]
    return [*program, DAEMON, ":".join(dict.fromkeys(folders)), *words]


def guard_argv(told: int = -1, **options: int | str | None) -> list[str]:
    """The guard, and how it starts the daemon; see csrc/guard.c."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    word = str(told) if told >= 0 else "-"
    return [f"{package}/{GUARD}", "-", word, *daemon_argv(guard=GUARD_FD, **options)]


def connect_or_start(places: Places) -> Connection:
    """NoDaemon, with the reason, when none answers and none can be started."""
    try:
        return connect(places)
    except NotRunning:
        pass
    end = time.monotonic() + PATIENCE
    while True:
        busy = ""
        try:
            start_detached()
        except NoDaemon as error:
            if BUSY not in str(error):
                raise
            busy = str(error)
        try:
            return connect(places)
        except NotRunning as error:
            # Another command is starting a daemon at this moment, or one is about to end: nothing tells when.
            if not busy:
                raise NoDaemon(f"the daemon was started, but ended at once: see {places.daemon_log}") from error
            if time.monotonic() > end:
                raise NoDaemon(busy) from None
            select.select([], [], [], 0.01)


def _check_limit() -> None:
    """NoDaemon when too few files may be open: a daemon could not even say why it ends."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FILES_NEEDED:
        raise NoDaemon(
            f"only {hard} files may be open here, and a daemon needs {FILES_NEEDED} and three for each instance: raise "
            "the limit with `ulimit -n 4096`, or with LimitNOFILE= of the service that this runs in"
        )


def start_detached() -> int:
    """A daemon of its own session, at home in `/`, with nothing of this terminal; its pid, once it answers."""
    _check_limit()
    reading, told = os.pipe()
    middle = os.fork()
    if middle == 0:
        _become_daemon(told)
    os.close(told)
    os.waitpid(middle, 0)
    pid, _, answer = _read_told(reading).partition(b"\n")
    why = _why_not(answer)
    if why:
        raise NoDaemon(why)
    return int(pid)


def _become_daemon(told: int) -> "NoReturn":
    try:
        os.setsid()
        # A second fork, so that it leads no session and can never get a terminal.
        if os.fork():
            os._exit(0)
        os.write(told, f"{os.getpid()}\n".encode())
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _log_errors()
        # A lock or a pipe of the caller's that the daemon kept would be held for as long as it runs. Not closerange,
        # which counts to the limit where the kernel has no close_range(2).
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                os.set_inheritable(fd, fd <= 2 or fd == told)
            except OSError:
                continue  # the listing's own
        _exec(told, hold=1)
    finally:
        os._exit(127)


def _log_errors() -> None:
    """What guard and daemon say before the daemon has opened its log goes there too: why it cannot start, above all."""
    try:
        log = find_places(dict(os.environ), os.getuid()).daemon_log
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError):
        return
    os.dup2(fd, 2)


def run_in_foreground(group: int | None = None) -> "NoReturn":
    """Become the daemon."""
    _check_limit()
    sys.stdout.flush()
    sys.stderr.flush()
    _exec(group=group)


def run_in_container(first: int) -> "NoReturn":
    """Become the guard; the daemon that it starts does what the file `first` says (oxmgr.supervisor.runtime). OSError
    when there is none."""
    _check_limit()
    # The guard gives the daemon its own number.
    if first <= GUARD_FD:
        import fcntl

        first = fcntl.fcntl(first, fcntl.F_DUPFD, GUARD_FD + 1)
    os.set_inheritable(first, True)
    argv = guard_argv(first=first)
    _reset_signals()
    os.execv(argv[0], argv)


def start_attached() -> int:
    """The pid of a daemon that answers and is our child, in our session but not in our process group: a Ctrl-C is
    ours to hand on. NoDaemon when there is none."""
    _check_limit()
    reading, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.setpgid(0, 0)
            os.set_inheritable(told, True)
            _exec(told, hold=1)
        finally:
            os._exit(127)
    os.close(told)
    why = _why_not(_read_told(reading))
    if why:
        os.waitpid(pid, 0)
        raise NoDaemon(why)
    return pid


def _why_not(told: bytes) -> str:
    """Why there is no daemon. "" when one answers: its line is empty, and there are more of them if it dies as it tells
    it and another comes in its place."""
    if not told:
        return "the daemon ended while it started: start it with `oxmgr daemon run` to see why"
    return told.decode(errors="replace").strip()


def _read_told(fd: int) -> bytes:
    """What the daemon says when it answers, or why it cannot: all up to the end of that pipe. NoDaemon when that does
    not come."""
    said = b""
    end = time.monotonic() + START_PATIENCE
    try:
        while select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            data = os.read(fd, 4096)
            said += data
            if not data:
                return said
    finally:
        os.close(fd)
    raise NoDaemon(
        f"the daemon does not answer after {START_PATIENCE:.0f} s: start it with `oxmgr daemon run` to see why"
    )


def _exec(told: int = -1, **options: int | str | None) -> "NoReturn":
    """The guard, which starts the daemon; where that cannot be executed, the daemon alone."""
    _reset_signals()
    argv = guard_argv(told, **options)
    try:
        os.execv(argv[0], argv)
    except OSError:
        argv = daemon_argv(told=told if told >= 0 else None, **options)
        os.execv(argv[0], argv)


def _reset_signals() -> None:
    """What this shell or nohup(1) ignores, the daemon shall not."""
    import _signal

    for number in (SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCHLD, SIGPIPE):
        _signal.signal(number, _signal.SIG_DFL)

"""The daemon, from its first instruction to its last."""

import fcntl
import os
import sys
import time
from _signal import SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import _prctl

from oxmgr import __version__
from oxmgr.model.places import Places, find_places
from oxmgr.supervisor import native
from oxmgr.supervisor.background import Background
from oxmgr.supervisor.cgroup import open_cgroups
from oxmgr.supervisor.commands import Commands
from oxmgr.supervisor.control import Server
from oxmgr.supervisor.desired import Desired
from oxmgr.supervisor.events import Events
from oxmgr.supervisor.files import Health
from oxmgr.supervisor.fleet import Fleet
from oxmgr.supervisor.journal import EventFile, Journal
from oxmgr.supervisor.launcher import Launcher
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.loop import READ, Loop
from oxmgr.supervisor.outputs import Outputs
from oxmgr.supervisor.process import read_stat
from oxmgr.supervisor.takeover import restore, resume
from oxmgr.supervisor.trees import Trees
from oxmgr.supervisor.views import observed

LEFT_BEHIND = 1.0
"""Seconds to wait for what a killed daemon was about to start."""
HOLD = 5.0
"""Seconds to wait for the first command, should whoever has started this daemon be gone."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SIGNALS = (SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT)


def main(group: int = -1, told: int = -1, *, hold: bool = False) -> int:
    """Supervise until told to end; the exit code. `group` may use the socket as well. To the fd `told` goes one
    line: empty when the daemon answers, else why it does not. `hold`: nothing is started before the command that
    has started this daemon has said what it wants."""
    os.umask(0o077)
    try:
        places = find_places(dict(os.environ), os.getuid())
        _make_folders(places, group)
        lock = _lock(places)
        run = _set_up(places, group, lock, hold)
    except (OSError, ValueError, Busy) as error:
        why = str(error) if not isinstance(error, OSError) else f"{error.filename or 'start'}: {error.strerror}"
        _tell(told, f"the daemon cannot start: {why}")
        return 1
    _tell(told, "")
    run()
    return 0


class Busy(Exception):
    """Another daemon has this home."""


def _set_up(places: Places, group: int, lock: int, hold: bool) -> "Callable[[], None]":
    log = Log(places.daemon_log)
    log(f"oxmgr {__version__}, pid {os.getpid()}")
    given = _raise_fd_limit()
    os.chdir("/")
    _prctl.prctl(_prctl.PR_SET_NAME, "oxmgr")
    # python-prctl's C half: its Python half builds 1 MB of wrappers that nothing here calls.
    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)

    loop = Loop(lambda error: _on_fault(log, error))
    background = Background(loop)
    health = Health(places.state, log)
    desired = Desired(places.desired, background, health)
    journal = Journal(places.journal, loop, health)
    events = Events(EventFile(places.events, health), log)
    cgroups = open_cgroups(places.state)
    trees = Trees(cgroups, loop)
    outputs = Outputs(loop, places, background, log)
    launcher = Launcher(places, loop, background, trees, outputs, given)
    fleet = Fleet(loop, journal, events, trees, launcher, places)
    commands = Commands(fleet, desired, events, health, places, outputs, loop)
    signals = native.signalfd(list(SIGNALS))
    loop.add(signals, READ, lambda _: _on_signals(signals, fleet, commands))
    server = Server(places.socket, group, loop, log)
    server.commands = commands

    whole = desired.load()
    seen, same_boot = journal.load()
    for saved in desired.apps.values():
        fleet.put(saved.spec, desired.environs.get(saved.environ, b""))
    restore(fleet, seen)
    journal.open(lambda: [observed(instance) for instance in fleet])
    events.tell("daemon-started")
    start = resume(fleet, loop, desired, seen if same_boot else {}, whole=whole, tell=health.tell)
    commands.start_first(start, HOLD if hold else 0.0)

    def run() -> None:
        loop.run()
        server.stop_listening()
        try:
            os.unlink(places.socket)
        except FileNotFoundError:
            log("somebody has removed the socket meanwhile")
        launcher.networks.end()
        outputs.compressor.end()
        cgroups.close()
        log("ended")
        os.close(lock)
        server.hang_up()

    return run


def _make_folders(places: Places, group: int) -> None:
    for folder in (places.state, places.run, places.logs):
        os.makedirs(folder, 0o700, exist_ok=True)
    if group >= 0:
        os.chown(places.run, -1, group)
        os.chmod(places.run, 0o750)


def _lock(places: Places) -> int:
    """One daemon a home. The lock goes with the process, however it ends (flock(2))."""
    fd = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    given_up = time.monotonic() + LEFT_BEHIND
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode().strip()
        if holder.isdecimal() and not _lives(int(holder)) and time.monotonic() < given_up:
            # It was killed while it started a program: until that executes, it holds what its parent held, the lock
            # and those of log files too.
            time.sleep(0.001)
            continue
        os.close(fd)
        home = places.home or places.state
        raise Busy(f"another one runs for {home}" + (f", pid {holder}" if holder else "")) from None
    os.truncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[0] not in (b"Z", b"X")


def _raise_fd_limit() -> list[int]:
    """As high as it goes, for each instance takes an fd. Children get back what we were given, since a program
    that uses select(2) does not stand more; so the triple for their start."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    most = 0xFFFFFFFFFFFFFFFF
    return [RLIMIT_NOFILE, soft if soft >= 0 else most, hard if hard >= 0 else most]


def _on_fault(log: Log, error: Exception) -> None:
    # Loaded only now: it is for a fault of ours, and large.
    from traceback import format_exception

    for line in "".join(format_exception(error)).splitlines():
        log(f"fault: {line}")


def _on_signals(fd: int, fleet: Fleet, commands: Commands) -> None:
    numbers = native.read_signals(fd)
    # The end comes first: what has ended with us was told to, as we were.
    for _ in [number for number in numbers if number not in (SIGCHLD, SIGHUP)]:
        commands.shut_down(signalled=True)
    if SIGCHLD in numbers:
        fleet.reap()


def _tell(fd: int, text: str) -> None:
    """One line to whoever started us, or to the terminal."""
    if fd >= 0:
        try:
            os.write(fd, f"{text}\n".encode())
        except BrokenPipeError:
            pass  # whoever started us has gone; there is work all the same
        os.close(fd)
    elif text:
        print(f"oxmgr: {text}", file=sys.stderr)

"""The daemon, from its first instruction to its last."""

import errno
import os
import sys
from _signal import SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import _prctl

from oxmgr import __version__
from oxmgr.model.places import Places, find_places
from oxmgr.supervisor import native
from oxmgr.supervisor.aging import Aging
from oxmgr.supervisor.alerting import Alerting
from oxmgr.supervisor.applies import Refusal
from oxmgr.supervisor.background import Background
from oxmgr.supervisor.cgroup import open_cgroups
from oxmgr.supervisor.commands import Commands
from oxmgr.supervisor.control import Server
from oxmgr.supervisor.desired import Desired
from oxmgr.supervisor.endpoints import Endpoints
from oxmgr.supervisor.eventfile import EventFile
from oxmgr.supervisor.events import Events
from oxmgr.supervisor.fleet import Fleet
from oxmgr.supervisor.guard import Guard
from oxmgr.supervisor.handover import Handover, say_check
from oxmgr.supervisor.health import Health
from oxmgr.supervisor.journal import Journal, Past
from oxmgr.supervisor.launcher import Launcher
from oxmgr.supervisor.left import recall, running
from oxmgr.supervisor.locks import (
    LOCK,
    STATE_LOCK,
    Busy,
    CannotStart,
    lock_home,
    lock_state,
    no_run_folder,
    outlive_unbegun,
    take_lock,
)
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.loop import READ, Loop
from oxmgr.supervisor.messenger import Messenger
from oxmgr.supervisor.notes import Notes, complete
from oxmgr.supervisor.outputs import Outputs
from oxmgr.supervisor.runtime import Runtime
from oxmgr.supervisor.spare import Spare
from oxmgr.supervisor.takeover import Takeover, restore
from oxmgr.supervisor.trees import Trees
from oxmgr.supervisor.views import observed

HOLD = 5.0
"""Seconds to wait for the first command, should whoever has started this daemon be gone."""

CONTROL = "control"
STOP = "stop"
"""What the guard keeps: the socket that listens, and that all is to be stopped, of which it knows itself only where
SIGTERM has come."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SIGNALS = (SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT)
ENDS = (SIGTERM, SIGINT, SIGQUIT)


def main(options: dict[str, str]) -> int:
    """Supervise until told to end; the exit code. `guard` is the fd of the guard that has started us. `group` may use
    the socket as well. To the fd `told` goes one line: empty when the daemon answers, else why it does not. `hold`:
    nothing is started before the command that has started this daemon has said what it wants. `lock`, `state_lock`,
    `control` and `files` are from a daemon that has executed us in its place: its locks, the socket that listens, and
    the limit on open files that it was given. `first` is the file of `oxmgr runtime`, which each daemon of it gets.
    `check`: only say whether we could go on with what is there; `desired` and `journal` are then what the disk has not
    of it."""
    os.umask(0o077)
    _open_standard_files()
    told = int(options.get("told", "-1"))
    guard = Guard(int(options.get("guard", "-1")))
    try:
        places = find_places(dict(os.environ), os.getuid())
        if "check" in options:
            return say_check(places, options)
        _check_proc()
        _make_folders(places)
        log = Log(places.daemon_log)
        guard.say = log
        guard.fetch()
        kept = guard.claim("told")
        told = kept if kept >= 0 else told
        runtime = Runtime(int(options["first"]), guard, replaced="lock" in options) if "first" in options else None
        _make_run_folder(places, int(options.get("group", "-1")))
        lock = take_lock(guard, LOCK, int(options.get("lock", "-1")), places.locks[0], lambda: lock_home(places))
        notes = Notes(places.notes)
        if runtime is None or not runtime.fresh:
            notes.end_unbegun()
        outlive_unbegun(places)
        given = int(options.get("state_lock", "-1"))
        state_lock = take_lock(guard, STATE_LOCK, given, places.locks[1], lambda: lock_state(places))
        hold = told >= 0 and options.get("hold") == "1"
        run = _set_up(places, options, lock, state_lock, log, guard, notes, runtime, hold=hold)
    except (OSError, ValueError, CannotStart, Refusal) as error:
        why = _why_not(error) if isinstance(error, OSError) else str(error)
        _tell(told, f"the daemon cannot start: {why}")
        if isinstance(error, Busy):
            guard.end(1)
        return 1
    _tell(told, "")
    guard.forget("told")
    guard.answers()
    return run()


def _open_standard_files() -> None:
    """What is opened must not get the number of one: apps print there."""
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _why_not(error: OSError) -> str:
    why = f"{error.filename or 'start'}: {error.strerror}"
    if error.errno != errno.EMFILE:
        return why
    allowed = getrlimit(RLIMIT_NOFILE)[0]
    return f"{why}: it may have {allowed}; raise the limit, with `ulimit -n` or LimitNOFILE= of its service"


def _set_up(
    places: Places,
    options: dict[str, str],
    lock: int,
    state_lock: int,
    log: Log,
    guard: Guard,
    notes: Notes,
    runtime: "Runtime | None",
    *,
    hold: bool,
) -> "Callable[[], int]":
    log(f"oxmgr {__version__}, pid {os.getpid()}")
    given = _raise_fd_limit(int(options.get("files", "-1")))
    group = int(options.get("group", "-1"))
    os.chdir("/")
    _prctl.prctl(_prctl.PR_SET_NAME, "oxmgr")
    # python-prctl's C half: its Python half builds 1 MB of wrappers that nothing here calls.
    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)

    loop = Loop(lambda error: _on_fault(log, error))
    background = Background(loop)
    health = Health(places.state, log)
    if not log.works:
        health.tell(f"{places.daemon_log} cannot be written: what the daemon itself has to say is told here alone")
    # Whoever cannot read what a later version wrote ends here, before anything is touched.
    desired = Desired(places.desired, loop, background, health, Spare("desired", guard))
    whole = desired.load()
    journal = Journal(places.journal, loop, health, Spare("journal", guard))
    past = journal.load()
    events = Events(EventFile(places.events, loop, health), log)
    # Without a state folder nothing is known of an earlier daemon either.
    cgroups = open_cgroups(places.state if os.path.isdir(places.state) else places.run)
    trees = Trees(cgroups, loop)
    trees.guard = lambda: guard.pid if guard.fd >= 0 else 0
    outputs = Outputs(loop, places, background, log, guard)
    messenger = Messenger(
        loop, trees, health, Spare("alerts", guard), lambda app, why: events.tell("alert-failed", app=app, reason=why)
    )
    events.heard = Alerting(loop, messenger, outputs.files).hear
    endpoints = Endpoints(loop, places, guard, trees, log)
    launcher = Launcher(places, loop, background, trees, outputs, given, endpoints, notes)
    fleet = Fleet(loop, journal, events, trees, launcher, places, background)
    commands = Commands(fleet, desired, events, health, places, outputs, loop)
    Aging(loop, background, outputs, fleet)
    handover = Handover(loop, desired, launcher, guard, log, [lock, state_lock], given, options)
    handover.leaving = messenger.take_back
    commands.handover = handover
    stopping = guard.claim(STOP) >= 0
    commands.on_ending = lambda: None if stopping else guard.keep(STOP, os.dup(outputs.null))
    signals = native.signalfd(list(SIGNALS))
    loop.add(signals, READ, lambda _: _on_signals(native.read_signals(signals), fleet, commands))
    server = Server(places.socket, group, loop, log, _kept_socket(guard, options))
    server.commands = commands
    handover.control = server.fd
    guard.keep(CONTROL, server.fd)

    if runtime is not None:
        runtime.want(desired, fleet, places.logs)
        if runtime.fresh:
            past = Past()
    for saved in desired.apps.values():
        fleet.put(saved.spec, desired.environs.get(saved.environ, b""))
    if past.unread:
        recall(past, running(trees, guard, places.run))
        health.tell(f"{places.journal}: {past.unread}; what runs goes on, but how it came to that is not known")
    if past.same_boot:
        complete(past, notes, cgroups, guard)
    restore(fleet, past.seen, same_boot=past.same_boot)
    events.tell("daemon-started")
    takeover = Takeover(fleet, loop, desired, guard, notes)
    start = takeover.resume(past if past.same_boot else Past(), whole=whole, health=health)
    # Only now: written before, it would not have what is being taken over, should this daemon die meanwhile.
    journal.open(lambda: [*map(observed, fleet.everything()), *fleet.unknown.values()])
    notes.begin()
    if runtime is not None:
        runtime.has_begun()
    guard.forget_unclaimed()
    guard.on_exits = takeover.on_exits
    guard.on_signal = lambda number, typed: _on_signals([number], fleet, commands)
    guard.on_lost = lambda: None if commands.ending else handover.become_guard()
    guard.join(loop)
    if runtime is None:
        commands.start_first([] if stopping or guard.stopping else start, HOLD if hold else 0.0)
        if stopping and not guard.stopping:
            loop.at(0.0, lambda: commands.shut_down(signalled=True))
    else:
        guard.on_signal = runtime.on_signal
        events.on_event = runtime.tell
        runtime.begin(fleet, commands, loop, log, start, stopping=stopping)
    handover.renew_guard()

    def run() -> int:
        loop.run()
        guard.forget(CONTROL)
        server.stop_listening()
        try:
            os.unlink(places.socket)
        except FileNotFoundError:
            log("somebody has removed the socket meanwhile")
        launcher.networks.end()
        outputs.compressor.end()
        left = messenger.end()
        if left:
            log(f"{len(left)} alerts were not sent: {', '.join(dict.fromkeys(left))}")
        fleet.schedules.end()
        cgroups.close()
        log("ended")
        code = 0 if runtime is None else runtime.final_code()
        guard.end(code, 0.0 if runtime is None else runtime.rest)
        guard.forget(LOCK)
        guard.forget(STATE_LOCK)
        handover.end_guard()
        os.close(lock)
        if state_lock >= 0:
            os.close(state_lock)
        server.hang_up()
        return code

    return run


def _check_proc() -> None:
    for path in ("/proc/self/fd", "/proc/sys/kernel/random/boot_id"):
        if not os.path.exists(path):
            raise CannotStart(
                f"{path} is not there, and what runs is known by /proc alone: have it mounted, and all of it "
                "(mount -t proc proc /proc)"
            )


def _make_folders(places: Places) -> None:
    for folder in (places.state, places.logs):
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
        except OSError:
            continue  # supervision needs neither; who writes there tries again, and says so


def _make_run_folder(places: Places, group: int) -> None:
    try:
        os.makedirs(places.run, 0o700, exist_ok=True)
    except OSError as error:
        raise no_run_folder(places, error) from None
    if group >= 0:
        os.chown(places.run, -1, group)
        os.chmod(places.run, 0o750)


def _kept_socket(guard: Guard, options: dict[str, str]) -> int:
    kept, given = guard.claim(CONTROL), int(options.get("control", "-1"))
    if kept >= 0 and given >= 0:
        os.close(given)
    elif given >= 0:
        os.set_inheritable(given, False)
    return kept if kept >= 0 else given


def _raise_fd_limit(given: int) -> list[int]:
    """As high as it goes, for each instance takes an fd. Children get back what we were given, since a program
    that uses select(2) does not stand more; so the triple for their start. `given` is that when it is not negative."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    soft = given if given >= 0 else soft
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    most = 0xFFFFFFFFFFFFFFFF
    return [RLIMIT_NOFILE, soft if soft >= 0 else most, hard if hard >= 0 else most]


def _on_fault(log: Log, error: Exception) -> None:
    try:
        # Loaded only now: it is for a fault of ours, and large.
        from traceback import format_exception
    except OSError:
        # There are no fds left to read it by.
        log(f"fault: {type(error).__name__}: {error}")
        return
    for line in "".join(format_exception(error)).splitlines():
        log(f"fault: {line}")


def _on_signals(numbers: list[int], fleet: Fleet, commands: Commands) -> None:
    # The end comes first: what has ended with us was told to, as we were.
    for _ in [number for number in numbers if number in ENDS]:
        commands.shut_down(signalled=True)
    if SIGCHLD in numbers:
        fleet.exits.reap()


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

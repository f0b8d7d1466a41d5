"""Who is the daemon of a home: the locks of its run folder and of its state folder. They go with the process, or with
the guard that keeps them (flock(2))."""

import fcntl
import os
import time

from oxmgr.model.places import Places
from oxmgr.supervisor.guard import Guard
from oxmgr.supervisor.process import read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LEFT_BEHIND = 1.0
"""Seconds to wait for what a killed daemon was about to start."""
LOCK = "lock"
STATE_LOCK = "state/lock"
"""What the guard keeps them as."""
_OPEN_LOCK = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class CannotStart(Exception):
    """Says why, and what to do."""


class Busy(CannotStart):
    """Another daemon has this home."""


def no_run_folder(places: Places, error: OSError) -> CannotStart:
    return CannotStart(
        f"{error.filename}: {error.strerror}: its socket and pipes need a folder that can be written, "
        f"so make {places.run} one, or set OXMGR_HOME to another place"
    )


def take_lock(guard: Guard, name: str, given: int, path: str, take: "Callable[[], int]") -> int:
    """The one that a daemon before us held, which the guard has kept so that nobody else takes the home between us, or
    has given us itself (`given`); or else the lock, -1 if there can be none."""
    kept = guard.claim(name)
    if kept >= 0 and given >= 0:
        os.close(given)
    lock = kept if kept >= 0 else given
    if lock >= 0 and _is_lock(lock, path):
        _sign(lock)
    else:
        if lock >= 0:
            guard.forget(name)
            os.close(lock)
        lock = take()
    if lock >= 0:
        guard.keep(name, lock)
    return lock


def _is_lock(fd: int, path: str) -> bool:
    """OSError when that cannot be found out now: whoever took it for lost would find the home taken, by itself."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.set_inheritable(fd, False)
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(lock: int) -> None:
    """For who finds it taken."""
    try:
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        pass  # it is held without a number


def lock_home(places: Places) -> int:
    """One daemon a home: the one that holds the lock of its run folder."""
    try:
        fd = os.open(places.locks[0], _OPEN_LOCK, 0o600)
    except OSError as error:
        raise no_run_folder(places, error) from None
    return _hold(places, fd)


def lock_state(places: Places) -> int:
    """The lock of the state folder as well, which daemons with other run folders might have; -1 when there can be none,
    on a read-only disk say."""
    path = places.locks[1]
    for flags in (_OPEN_LOCK, os.O_RDONLY | os.O_CLOEXEC):
        # An earlier daemon's may be there: a lock needs no right to write.
        try:
            fd = os.open(path, flags, 0o600)
        except OSError:
            continue
        return _hold(places, fd)
    return -1


def _hold(places: Places, fd: int) -> int:
    """The lock goes with the process, however it ends (flock(2))."""
    given_up = time.monotonic() + LEFT_BEHIND
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode().strip()
        if not (holder.isdecimal() and _lives(int(holder))) and time.monotonic() < given_up:
            # It was killed while it started a program: until that executes, it holds what its parent held, the lock
            # and those of log files too.
            time.sleep(0.001)
            continue
        os.close(fd)
        home = places.home or places.state
        # What a daemon has left that is dead says nothing of whether there is another.
        kind = Busy if not holder.isdecimal() or _lives(int(holder)) else CannotStart
        raise kind(f"another one runs for {home}" + (f", pid {holder}" if holder else "")) from None
    _sign(fd)
    return fd


def outlive_unbegun(places: Places) -> None:
    """What a killed daemon was about to start holds what that held until it is gone, the locks of cgroups and of log
    files too. This one, of the run folder itself, the guard does not keep: so whoever else has it is one of them."""
    fd = os.open(places.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    given_up = time.monotonic() + LEFT_BEHIND
    while time.monotonic() < given_up:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return  # this disk has no locks
    raise CannotStart("what the daemon before was about to start has not ended yet, and holds its locks")


def _lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[0] not in (b"Z", b"X")

"""Which processes come of others, as /proc tells it; all there is on a host without a usable cgroup v2.

We are a subreaper, so whatever loses its parent below us becomes our child, and every process of a tree is
reached from our children. Which instance an orphan is of is told by its session (each main process leads its own),
else by the environment that it was born with (oxmgr.supervisor.orphans).
"""

import errno
import os
from _signal import SIGCONT, SIGKILL, SIGSTOP, pidfd_send_signal

from oxmgr.supervisor.native import read_whole
from oxmgr.supervisor.process import read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.instance import Owner

PASSES = 8
_READS = 4
_DEPTH = 100
_MARKS = (b"OXMGR_APP", b"OXMGR_INSTANCE_ID", b"OXMGR_RUN")
_INDEX_DIGITS = 9
_GONE = (FileNotFoundError, ProcessLookupError)
"""What proc(5) says of a process that is not there (any more). All else is not known."""


def children(pid: int) -> list[int]:
    """The children of all its threads; OSError as of `children_words`."""
    return list(dict.fromkeys(map(int, children_words(pid))))


def children_words(pid: int) -> list[bytes]:
    """The children of all its threads (proc(5), /proc/PID/task/TID/children), some perhaps twice; OSError when it
    cannot be looked at, which says nothing of whether there are any.

    When a thread ends, its children go to another, which may have been read already: so all are read again, but
    not for ever for a process that makes and ends threads all the time.
    """
    found: list[bytes] = []
    for _ in range(_READS):
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except _GONE:
            break
        gone = [one for one in threads if not _add_children(f"/proc/{pid}/task/{one}/children", found)]
        if not gone:
            break
    return found


def _add_children(path: str, found: list[bytes]) -> bool:
    """False when that thread is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _GONE:
        return False
    text = b""
    try:
        # Of a thread that ends meanwhile, what was read is kept.
        while data := os.read(fd, 65536):
            text += data
    except _GONE:
        return False
    finally:
        os.close(fd)
        found += text.split()
    return True


def _is_executing(pid: int) -> bool:
    """Of one whose environment may be read: it has no place for one (proc(5), stat field 50, env_start)."""
    stat = read_stat(pid)
    return stat is not None and stat[0] not in (b"Z", b"X") and stat[47:48] == [b"0"]


def born_as(pid: int) -> "Owner | None":
    """The instance whose start gave a process its environment; None for one of another user. OSError when it
    cannot be looked at: BlockingIOError while it executes, when it has left the one environment and has not the other
    yet (fs/binfmt_elf.c, create_elf_tables)."""
    try:
        data = read_whole(f"/proc/{pid}/environ")
    except (*_GONE, PermissionError):
        return None
    if not data and _is_executing(pid):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    words = data.split(b"\0")
    found = {key: value for key, _, value in (word.partition(b"=") for word in words) if key in _MARKS}
    app, index, run = (found.get(mark, b"") for mark in _MARKS)
    run = run or b"0"
    numbered = all(number.isdigit() and len(number) <= _INDEX_DIGITS for number in (index, run))
    return (app.decode(errors="replace"), int(index), int(run)) if app and numbered else None


def in_session(session: int, owner: "Owner") -> list[int]:
    """The processes of a session whose leader was not our child, so that its orphans went elsewhere. OSError when it
    cannot be looked at."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if is_of_session(pid, session, owner)]


def is_of_session(pid: int, session: int, owner: "Owner") -> bool:
    """Whether it lives in it. The number may have become a stranger's session since: what it was born as decides."""
    try:
        if os.getsid(pid) != session:
            return False
    except ProcessLookupError:
        return False
    stat = read_stat(pid)
    return (stat is None or stat[0] != b"Z") and born_as(pid) == owner


def comes_of(pid: int, root: int) -> bool:
    """Whether a process is below that one, or in the session that it leads."""
    for _ in range(_DEPTH):
        stat = read_stat(pid)
        if stat is None or pid <= 1:
            return False
        if root in (int(stat[1]), int(stat[3])):
            return True
        pid = int(stat[1])
    return False


def below(roots: list[int]) -> list[int]:
    """These and all below them, as far as they are there and can be looked at."""
    found = list(roots)
    for pid in found:
        try:
            found += [child for child in children(pid) if child not in found]
        except OSError:
            continue
    return found


def signal_each(find: "Callable[[], list[int]]", number: int) -> None:
    """To each that `find` gives, once, and SIGCONT after it; `find` is asked again until it gives no other, for what
    is forked meanwhile."""
    done: set[int] = set()
    members = find()
    for _ in range(PASSES):
        held = _hold_each([pid for pid in members if pid not in done])
        if not held:
            return
        # Its number may have been another's by then. What is found now too is what was held, or that is gone.
        members = find()
        still = held.keys() & set(members)
        for pid, pidfd in held.items():
            if pid in still:
                _send(pid, pidfd, number)
                _send(pid, pidfd, SIGCONT)
            _close(pidfd)
        done |= still


def _hold_each(pids: list[int]) -> dict[int, int]:
    """pid → pidfd of those that are there; when there are no fds left, of the first of them."""
    held: dict[int, int] = {}
    try:
        for pid in pids:
            pidfd = _hold(pid)
            if pidfd is not None:
                held[pid] = pidfd
    except OSError:
        pass
    return held


def kill_trees(roots: list[int], is_still: "Callable[[int], bool]" = lambda pid: True) -> None:
    """SIGKILL to these and to all below them. `is_still` is asked of each root once it is held, whether it is what it
    was when it was found: needless for children of ours, which keep their numbers until we reap them.

    Each is stopped before its children are read, so that it makes no more of them. Passes are made until one
    finds nothing more; what forks faster than PASSES of them, or was not held because no fds were left, is met again
    at the next try.
    """
    held: dict[int, int] = {}
    try:
        _stop_all(roots, is_still, held)
    except OSError:
        pass
    for pid, pidfd in held.items():
        _send(pid, pidfd, SIGKILL)
        _close(pidfd)


def kill_apart(pid: int, pidfd: int) -> None:
    """SIGKILL to a child of ours that is of no instance, if it has not ended, to all below it, and to what it has left:
    that has come to us, in the session that it led."""
    own = os.getpid()

    def is_left(one: int) -> bool:
        stat = read_stat(one)
        # Without any left in it, the session's number may be an instance's by now.
        return stat is not None and (int(stat[1]), int(stat[3])) == (own, pid) and born_as(one) is None

    def is_still(one: int) -> bool:
        if one != pid:
            return is_left(one)
        try:
            pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return False
        return True

    try:
        left = [one for one in children(own) if one != pid and is_left(one)]
    except OSError:
        left = []
    kill_trees([pid, *left] if pidfd >= 0 else left, is_still)


def _stop_all(roots: list[int], is_still: "Callable[[int], bool]", held: dict[int, int]) -> None:
    """Fills `held`, pid → pidfd (-1 without pidfds), with these and all below them, each stopped. OSError when no more
    can be held."""
    for _ in range(PASSES):
        before = len(held)
        todo = [(pid, 0) for pid in roots]
        while todo:
            pid, parent = todo.pop()
            if pid not in held:
                pidfd = _hold(pid)
                if pidfd is None:
                    continue
                if not (_is_child(pid, parent, held[parent]) if parent else is_still(pid)):
                    _close(pidfd)
                    continue
                held[pid] = pidfd
                _send(pid, pidfd, SIGSTOP)
            try:
                todo += [(child, pid) for child in children(pid) if child not in held]
            except PermissionError:
                continue
        if len(held) == before:
            return


def _hold(pid: int) -> int | None:
    """A pidfd of what has that number now, -1 where there are none; None when nothing has it. OSError when no fds are
    left."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return -1


def _is_child(pid: int, parent: int, parent_fd: int) -> bool:
    """Whether what is held is a child of the other that is held, which has to be there for that: else its number can
    have become a stranger's, with children of its own."""
    stat = read_stat(pid)
    if stat is None or int(stat[1]) != parent:
        return False
    try:
        if parent_fd >= 0:
            pidfd_send_signal(parent_fd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _send(pid: int, pidfd: int, number: int) -> None:
    try:
        if pidfd >= 0:
            pidfd_send_signal(pidfd, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _close(pidfd: int) -> None:
    if pidfd >= 0:
        os.close(pidfd)

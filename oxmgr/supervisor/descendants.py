"""Which processes come of others, as /proc tells it; all there is on a host without a usable cgroup v2.

We are a subreaper, so whatever loses its parent below us becomes our child, and every process of a tree is
reached from our children. Which instance an orphan is of is told by its session (each main process leads its own),
else by the environment that it was born with; one that has shed both is nobody's, and is left alone.
"""

import errno
import os
from _signal import SIGCONT, SIGKILL, SIGSTOP, pidfd_send_signal

from oxmgr.supervisor.process import read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

PASSES = 8
_READS = 4
_MARKS = (b"OXMGR_APP", b"OXMGR_INSTANCE_ID")


def children(pid: int) -> list[int]:
    """The children of all its threads (proc(5), /proc/PID/task/TID/children).

    When a thread ends, its children go to another, which may have been read already: so all are read again, but
    not for ever for a process that makes and ends threads all the time.
    """
    found: dict[int, None] = {}
    for _ in range(_READS):
        whole = True
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            break
        for thread in threads:
            try:
                fd = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                whole = False
                continue
            try:
                while data := os.read(fd, 65536):
                    found.update((int(word), None) for word in data.split())
            except OSError:
                whole = False
            finally:
                os.close(fd)
        if whole:
            break
    return list(found)


def orphans(mains: "Container[int]") -> list[int]:
    """Our children that are no main process."""
    return [pid for pid in children(os.getpid()) if pid not in mains]


def born_as(pid: int) -> tuple[str, int] | None:
    """The (app, instance) whose start gave a process its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb", 0) as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    found = {key: value for key, _, value in (word.partition(b"=") for word in words) if key in _MARKS}
    app, index = (found.get(mark, b"") for mark in _MARKS)
    return (app.decode(errors="replace"), int(index)) if app and index.isdigit() else None


def in_session(session: int, app: str, index: int) -> list[int]:
    """The processes of a session whose leader was not our child, so that its orphans went elsewhere."""
    found: list[int] = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        stat = read_stat(pid)
        # The number may have become a stranger's session since: what it was born as decides.
        if stat and int(stat[3]) == session and stat[0] != b"Z" and born_as(pid) == (app, index):
            found.append(pid)
    return found


def below(roots: list[int]) -> list[int]:
    """These and all below them, as far as they are there."""
    found = list(roots)
    for pid in found:
        found += [child for child in children(pid) if child not in found]
    return found


def signal_each(find: "Callable[[], list[int]]", number: int) -> None:
    """To each that `find` gives, once, and SIGCONT after it; `find` is asked again until it gives no other, for what
    is forked meanwhile."""
    done: set[int] = set()
    for _ in range(PASSES):
        fresh = [pid for pid in find() if pid not in done]
        if not fresh:
            return
        for pid in fresh:
            pidfd = _hold(pid, 0)
            if pidfd is not None:
                _send(pid, pidfd, number)
                _send(pid, pidfd, SIGCONT)
                _close(pidfd)
        done.update(fresh)


def kill_trees(roots: list[int]) -> None:
    """SIGKILL to these and to all below them.

    Each is stopped before its children are read, so that it makes no more of them. Passes are made until one
    finds nothing more; what forks faster than PASSES of them is met again at the next try.
    """
    for pid, pidfd in _stop_all(roots).items():
        _send(pid, pidfd, SIGKILL)
        _close(pidfd)


def _stop_all(roots: list[int]) -> dict[int, int]:
    """pid → pidfd (-1 without pidfds) of these and all below them, each stopped."""
    held: dict[int, int] = {}
    for _ in range(PASSES):
        before = len(held)
        todo = [(pid, 0) for pid in roots]
        while todo:
            pid, parent = todo.pop()
            if pid not in held:
                pidfd = _hold(pid, parent)
                if pidfd is None:
                    continue
                held[pid] = pidfd
                _send(pid, pidfd, SIGSTOP)
            todo += [(child, pid) for child in children(pid) if child not in held]
        if len(held) == before:
            break
    return held


def _hold(pid: int, parent: int) -> int | None:
    """A pidfd of the process that is (still) that one's child; None when it is gone. A parent of 0 is not checked:
    a root cannot be another process, since it is ours to reap."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        pidfd = -1
    stat = read_stat(pid)
    if stat is None or (parent and int(stat[1]) != parent):
        _close(pidfd)
        return None
    return pidfd


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

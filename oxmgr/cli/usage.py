"""What trees of processes use, read when somebody wants to see it: from their cgroups, else from /proc (proc(5))."""

import os
import time

from oxmgr.model.messages import InstanceView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
BLOCK = 8192
WHOLE = 2048

Stat = tuple[int, int, int, int, int, int]
"""Parent, session, CPU ticks (with those of the children that it has waited for), resident pages, threads, start in
ticks after boot."""
CPU, RESIDENT, THREADS, START = 2, 3, 4, 5


def add_usage(views: "Iterable[InstanceView]") -> None:
    """Fill in cpu_percent (what the tree's processes have used, by the age of the main one), memory_bytes and tasks.

    The CPU time is not that of cpu.stat: a cgroup outlives the main process, and what it counts is of earlier ones too.
    """
    views = list(views)
    found = trees(views)
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    for view in views:
        stats = found.get(view.pid or 0)
        if stats is None:
            continue
        age = max(uptime - stats[0][START] / TICKS, 1 / TICKS)
        view.cpu_percent = round(100 * sum(stat[CPU] for stat in stats) / TICKS / age, 1)
        view.memory_bytes = memory_of(view.cgroup, stats)
        view.tasks = sum(stat[THREADS] for stat in stats)


def memory_of(cgroup: str | None, stats: list[Stat]) -> int | None:
    """What a tree cannot give back: all but the pages of files that it has not used lately. Without the controller,
    the resident pages of its processes, where shared ones count in each; None when that is nothing yet."""
    if cgroup:
        current, detail = read(f"{cgroup}/memory.current"), read(f"{cgroup}/memory.stat")
        if current and detail:
            _, _, inactive = detail.partition(b"\ninactive_file ")
            return max(0, int(current) - int(inactive.split(None, 1)[0] if inactive else 0))
    # Between its exec and its first page a process has none, which is not to be told as "uses nothing".
    return sum(stat[RESIDENT] for stat in stats) * PAGE or None


def trees(views: "Iterable[InstanceView]") -> dict[int, list[Stat]]:
    """The processes of each instance that has a main one, which comes first; by the main one's pid."""
    found: dict[int, list[Stat]] = {}
    walked: set[int] = set()
    for view in views:
        if view.pid is None:
            continue
        members = members_of(view.cgroup) if view.cgroup else None
        if members is None:
            walked.add(view.pid)
            continue
        main = read_stat(view.pid)
        if main is not None:
            others = [read_stat(pid) for pid in members if pid != view.pid]
            found[view.pid] = [main, *(stat for stat in others if stat is not None)]
    if walked:
        _walk(walked, found)
    return found


def members_of(cgroup: str) -> list[int] | None:
    """The processes in a cgroup and below it; None where that is not to be read."""
    data = read(f"{cgroup}/cgroup.procs")
    if data is None:
        return None
    pids = [int(pid) for pid in data.split()]
    try:
        # Each folder in it is a link more than the two that every folder has.
        if os.stat(cgroup).st_nlink != 2:
            for entry in os.scandir(cgroup):
                if entry.is_dir(follow_symlinks=False):
                    pids += members_of(entry.path) or ()
    except OSError:
        pass  # it is gone by now
    return pids


def _walk(mains: set[int], found: dict[int, list[Stat]]) -> None:
    """Without a cgroup, a tree is all of its main process's session, wherever it was re-parented to, and all below."""
    stats: dict[int, Stat] = {}
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid, stat = int(name), read_stat(name)
        if stat is not None:
            stats[pid] = stat
            parent, session = stat[:2]
            below.setdefault(session if session in mains and pid != session else parent, []).append(pid)
    for main in mains & stats.keys():
        pids = [main]
        for pid in pids:
            pids += below.get(pid, ())
        found[main] = [stats[pid] for pid in pids]


def read_stat(pid: int | str) -> Stat | None:
    data = read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name, in parentheses, may hold anything. The first field behind it is number 3 of proc(5).
    part = data[data.rindex(b")") + 2 :].split(None, 22)
    ticks = int(part[11]) + int(part[12]) + int(part[13]) + int(part[14])
    return int(part[1]), int(part[3]), ticks, int(part[21]), int(part[17]), int(part[19])


def read(path: str) -> bytes | None:
    """All of a file that the kernel makes as it is read; None when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = part = os.read(fd, BLOCK)
        # It gives up to a page at a time, so that less than half of one is the rest.
        while len(part) >= WHOLE:
            part = os.read(fd, BLOCK)
            data += part
        return data
    except OSError:
        return None
    finally:
        os.close(fd)

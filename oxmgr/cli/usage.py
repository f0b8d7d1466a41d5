"""What trees of processes use, read from /proc (proc(5)) when somebody wants to see it."""

import os
import time

from oxmgr.model.messages import InstanceView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def add_usage(views: "Iterable[InstanceView]") -> None:
    """Fill in cpu_percent (the tree's CPU time since its processes began, by the main one's age, as ps(1) reckons),
    memory_bytes (their resident pages; shared ones count in each) and tasks (processes)."""
    running = {view.pid: view for view in views if view.pid is not None}
    if not running:
        return
    stats = _read_all()
    below: dict[int, list[int]] = {}
    for pid, (parent, session, *_) in stats.items():
        # A tree is all of its main process's session, wherever it was re-parented to, and all below it.
        owner = session if session in running and pid != session else parent
        below.setdefault(owner, []).append(pid)
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    for main, view in running.items():
        if main not in stats:
            continue
        pids = [main]
        for pid in pids:
            pids += below.get(pid, ())
        ticks = sum(stats[pid][2] for pid in pids)
        age = max(uptime - stats[main][4] / TICKS, 1 / TICKS)
        view.cpu_percent = round(100 * ticks / TICKS / age, 1)
        # Between its exec and its first page a process has none, which is not to be told as "uses nothing".
        view.memory_bytes = sum(stats[pid][3] for pid in pids) * PAGE or None
        view.tasks = len(pids)


def _read_all() -> dict[int, tuple[int, int, int, int, int]]:
    """pid → (parent, session, CPU ticks, resident pages, start in ticks after boot)."""
    found: dict[int, tuple[int, int, int, int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue
        try:
            data = os.read(fd, 1024)
        except OSError:
            continue
        finally:
            os.close(fd)
        part = data[data.rindex(b")") + 2 :].split()
        found[int(name)] = int(part[1]), int(part[3]), int(part[11]) + int(part[12]), int(part[21]), int(part[19])
    return found

"""All that an instance uses, as `oxmgr status` shows it: read when asked, with two readings of the CPU time."""

import os
import time

from oxmgr.cli.usage import CPU, TICKS, add_usage, members_of, memory_of, read, trees
from oxmgr.model.codec import Struct
from oxmgr.model.messages import InstanceView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.cli.usage import Stat

BETWEEN = 0.2
"""Seconds from the first reading to the second."""
MIB = 1024 * 1024


class Pressure(Struct):
    """Percent of the last ten seconds in which some, or all, of the tree's tasks that had work waited for it
    (Documentation/accounting/psi.rst)."""

    some_avg10: float | None
    full_avg10: float | None


class LimitUse(Struct):
    """A limit that is set, and how much of it is used in the same unit; null where there is nothing to count."""

    limit: float | str
    used: float | None


class Usage(Struct):
    """What an instance uses; null is what this host does not tell. Counts are those of its cgroup, since that was made:
    at the latest when the instance was last stopped and started."""

    cpu_percent_now: float | None
    cpu_percent_since_start: float | None
    memory_bytes: int | None
    memory_peak_bytes: int | None
    swap_bytes: int | None
    tasks: int | None
    throttled_periods: int | None
    throttled_usec: int | None
    memory_pressure: Pressure | None
    cpu_pressure: Pressure | None
    io_pressure: Pressure | None
    oom_kills: int
    limits: dict[str, LimitUse]
    warnings: list[str]


def look_closely(views: list[InstanceView]) -> list[Usage]:
    """The usage of each, after a fifth of a second if anything runs; the views get their own part of it."""
    first, begun = _cpu_seconds(views, trees(views)), time.monotonic()
    if first:
        time.sleep(BETWEEN)
    found = trees(views)
    second, passed = _cpu_seconds(views, found), time.monotonic() - begun
    add_usage(views)
    usages = []
    for view in views:
        now, pid = None, view.pid or 0
        if pid in first and pid in second:
            # Where processes are counted, one that nobody has waited for takes its time with it.
            now = round(100 * max(0.0, second[pid] - first[pid]) / passed, 1)
        usages.append(_usage(view, found.get(pid, []), now))
    return usages


def _cpu_seconds(views: list[InstanceView], found: "dict[int, list[Stat]]") -> dict[int, float]:
    """What each tree has used by now, by its main process's pid; only the difference of two such readings means
    something."""
    spent: dict[int, float] = {}
    for view in views:
        if view.pid in found:
            usec = pairs(f"{view.cgroup}/cpu.stat").get("usage_usec") if view.cgroup else None
            ticks = sum(stat[CPU] for stat in found[view.pid])
            spent[view.pid] = ticks / TICKS if usec is None else usec / 1e6
    return spent


def _usage(view: InstanceView, stats: "list[Stat]", cpu_now: float | None) -> Usage:
    # What is counted from the beginning is told of one that has ended too, as long as its cgroup is there.
    cpu = pairs(f"{view.cgroup}/cpu.stat") if view.cgroup else {}
    path = view.cgroup if view.pid is not None else None
    usage = Usage(
        cpu_percent_now=cpu_now,
        cpu_percent_since_start=view.cpu_percent,
        memory_bytes=memory_of(path, stats),
        memory_peak_bytes=number(f"{view.cgroup}/memory.peak") if view.cgroup else None,
        swap_bytes=number(f"{path}/memory.swap.current") if path else None,
        tasks=(number(f"{path}/pids.current") if path else None) or view.tasks,
        throttled_periods=cpu.get("nr_throttled"),
        throttled_usec=cpu.get("throttled_usec"),
        memory_pressure=pressure(f"{path}/memory.pressure") if path else None,
        cpu_pressure=pressure(f"{path}/cpu.pressure") if path else None,
        io_pressure=pressure(f"{path}/io.pressure") if path else None,
        oom_kills=view.oom_kills,
        limits={},
        warnings=view.warnings,
    )
    # The kernel counts the pages of files too when it holds an app to its limit.
    charged = number(f"{path}/memory.current") if path else None
    used: dict[str, float | None] = {
        "memory_mb": _mib(usage.memory_bytes),
        "memory_max_mb": _mib(charged),
        "memory_high_mb": _mib(charged),
        "swap_max_mb": _mib(usage.swap_bytes),
        "cpu_percent": cpu_now,
        "cpu_quota_percent": cpu_now,
        "tasks_max": usage.tasks,
        "open_files": _most_files(view) if "open_files" in view.limits else None,
    }
    usage.limits = {key: LimitUse(limit, used.get(key)) for key, limit in view.limits.items()}
    return usage


def _mib(count: int | None) -> float | None:
    return None if count is None else round(count / MIB, 1)


def _most_files(view: InstanceView) -> int | None:
    """How many that process of the tree has open that has the most; None where they are not ours to count."""
    if view.pid is None:
        return None
    counts = []
    for pid in {view.pid, *((members_of(view.cgroup) if view.cgroup else None) or ())}:
        try:
            counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        except OSError:
            continue
    return max(counts, default=None)


# --- the files of a cgroup (cgroup-v2.rst) ---


def number(path: str) -> int | None:
    data = read(path)
    return int(data) if data and data.strip().isdigit() else None


def pairs(path: str) -> dict[str, int]:
    """A file of `key number` lines."""
    words = [line.split() for line in (read(path) or b"").decode().splitlines()]
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def pressure(path: str) -> Pressure | None:
    """`some avg10=0.00 avg60=… total=…`, and the same for `full`; None where the kernel keeps none."""
    found: dict[str, float] = {}
    for line in (read(path) or b"").decode().splitlines():
        kind, *words = line.split()
        for word in words:
            if word.startswith("avg10="):
                found[kind] = float(word.removeprefix("avg10="))
    return Pressure(found.get("some"), found.get("full")) if found else None

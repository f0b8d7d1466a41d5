"""Restarts who is above a soft limit: memory at once, CPU when it was so for its window. Who has none costs nothing."""

import os
import time

from oxmgr.model import status as is_
from oxmgr.supervisor import cgroup
from oxmgr.supervisor.limits import MIB
from oxmgr.supervisor.process import read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.trees import Trees

INTERVAL = 2.0
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class SoftLimits:
    """`exceeded` is called with an instance and the reason."""

    def __init__(self, loop: "Loop", trees: "Trees", exceeded: "Callable[[Instance, str], None]") -> None:
        self._loop = loop
        self._trees = trees
        self._exceeded = exceeded
        self._watched: dict[Instance, _Watch] = {}

    def update(self, instance: "Instance") -> None:
        """Its status or its limits have changed."""
        soft = instance.app.spec.limits
        wanted = instance.state.status == is_.RUNNING and (soft.memory_mb is not None or soft.cpu_percent is not None)
        watch = self._watched.get(instance)
        if wanted and watch is None:
            self._watched[instance] = _Watch(self._loop, lambda: self._look(instance))
        elif watch is not None and not wanted:
            watch.timer.cancel()
            del self._watched[instance]

    def _look(self, instance: "Instance") -> None:
        watch, soft, now = self._watched[instance], instance.app.spec.limits, time.monotonic()
        memory, cpu = usage(instance, self._trees)
        if soft.memory_mb is not None and memory > soft.memory_mb * MIB:
            self._exceeded(instance, f"uses {memory / MIB:.1f} MB, limits.memory_mb is {soft.memory_mb:g}")
            return
        left = INTERVAL
        if soft.cpu_percent is not None:
            percent = watch.average(now, cpu, soft.cpu_window_secs)
            if percent is not None and percent > soft.cpu_percent:
                self._exceeded(
                    instance,
                    f"used {percent:.0f} % of a CPU for {soft.cpu_window_secs:g} s, "
                    f"limits.cpu_percent is {soft.cpu_percent:g}",
                )
                return
            left = watch.begun + soft.cpu_window_secs - now
        watch.sleep(now + max(0.05, min(INTERVAL, left)))


class _Watch:
    """`begun` and `cpu` are the time and the CPU seconds used when the window began."""

    def __init__(self, loop: "Loop", look: "Callable[[], None]") -> None:
        self._loop = loop
        self._look = look
        self.begun = -1.0
        self.cpu = 0.0
        # Not at once: whoever sets a limit has a step of the instance under way.
        self.timer: Timer = loop.at(0.0, look)

    def sleep(self, until: float) -> None:
        self.timer = self._loop.at(until, self._look)

    def average(self, now: float, cpu: float, window: float) -> float | None:
        """Percent of a CPU over the window that ends now, which begins the next; None while it is not over."""
        spent, passed = cpu - self.cpu, now - self.begun
        if self.begun >= 0 and passed < window:
            return None
        first = self.begun < 0
        self.begun, self.cpu = now, cpu
        return None if first else 100 * spent / passed


def usage(instance: "Instance", trees: "Trees") -> tuple[int, float]:
    """(bytes, CPU seconds) of the tree. Memory is what it cannot give back: without the pages of files that it has
    not used lately (memory.stat, inactive_file); without a controller, the resident pages of each process."""
    path = instance.cgroup
    memory = cgroup.read_number(f"{path}/memory.current") if path else None
    spent = cgroup.read_pairs(f"{path}/cpu.stat").get("usage_usec") if path else None
    if memory is not None:
        memory -= cgroup.read_pairs(f"{path}/memory.stat").get("inactive_file", 0)
    if memory is None or spent is None:
        stats = [stat for stat in map(read_stat, trees.pids(instance)) if stat is not None]
        if memory is None:
            memory = sum(int(stat[21]) for stat in stats) * _PAGE
        if spent is None:
            spent = sum(int(stat[11]) + int(stat[12]) for stat in stats) * 1_000_000 // _TICK
    return memory, spent / 1e6

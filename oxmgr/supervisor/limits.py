"""The limits of an app, as the kernel takes them. Which file of a cgroup holds which is in cgroup-v2.rst."""

import os
from resource import RLIM_INFINITY, RLIMIT_CORE, RLIMIT_NOFILE, prlimit

from oxmgr.model.spec import Limits
from oxmgr.model.views import set_limits
from oxmgr.supervisor import cgroup
from oxmgr.supervisor.cgroup import Cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
PERIOD_US = 100_000
UNLIMITED = 0xFFFFFFFFFFFFFFFF


def _mib(value: float) -> str:
    return str(int(value * MIB))


def _quota(percent: float) -> str:
    # The kernel takes no quota below a millisecond.
    return f"{max(1000, int(percent * PERIOD_US / 100))} {PERIOD_US}"


# limit → controller, file, how it is written, and what stands there when there is no limit.
_FILES: "dict[str, tuple[str, str, Callable[..., str], str]]" = {
    "memory_max_mb": ("memory", "memory.max", _mib, "max"),
    "memory_high_mb": ("memory", "memory.high", _mib, "max"),
    "swap_max_mb": ("memory", "memory.swap.max", _mib, "max"),
    "cpu_quota_percent": ("cpu", "cpu.max", _quota, f"max {PERIOD_US}"),
    "cpu_weight": ("cpu", "cpu.weight", str, "100"),
    "tasks_max": ("pids", "pids.max", str, "max"),
    "io_weight": ("io", "io.weight", lambda weight: f"default {weight}", "default 100"),
    # A write of nothing at all does not even reach the kernel's cpuset.
    "cpus": ("cpuset", "cpuset.cpus", str, "\n"),
}


def not_enforceable(limits: Limits, cgroups: Cgroups) -> list[str]:
    """What this host cannot hold, and why, as words."""
    missing: list[str] = []
    for key in set_limits(limits):
        if key not in _FILES:
            continue
        controller = _FILES[key][0]
        if not cgroups.base:
            missing.append(f"limits.{key} cannot be enforced here: {cgroups.why}")
        elif controller not in cgroups.controllers:
            missing.append(
                f"limits.{key} cannot be enforced here: the {controller} controller of cgroup v2 is not available"
            )
    return missing


def write_all(path: str, limits: Limits, before: Limits, controllers: frozenset[str]) -> list[str]:
    """Give a cgroup its limits, as far as it has their controllers; `before` are those that it has. What went wrong, as
    words.

    Waits, when a limit on memory is lowered below what is in use: the kernel reclaims first (memory.max).
    """
    wrong: list[str] = []
    for key, (controller, file, spell, absent) in _FILES.items():
        value = getattr(limits, key)
        if controller not in controllers or value == getattr(before, key):
            continue
        if value is None:
            if not _try(f"{path}/{file}", absent) and key == "cpus":
                _give_all_cpus(path)
            continue
        try:
            cgroup.write(f"{path}/{file}", spell(value))
        except FileNotFoundError:
            wrong.append(f"limits.{key} cannot be enforced here: this kernel has no {file}")
        except OSError as error:
            wrong.append(f"limits.{key} = {value} was refused by the kernel: {file}: {error.strerror}")
    return wrong


def kill_as_one(path: str) -> None:
    """When memory runs out, the tree ends as a whole and not a process of it (memory.oom.group)."""
    _try(f"{path}/memory.oom.group", "1")


def _give_all_cpus(path: str) -> None:
    """As long as something lives in a cgroup that has a list of CPUs, it cannot be without one (kernel/cgroup/cpuset.c,
    validate_change)."""
    try:
        with open(f"{os.path.dirname(path)}/cpuset.cpus.effective") as file:
            cgroup.write(f"{path}/cpuset.cpus", file.read())
    except OSError:
        pass


def _try(path: str, value: str) -> bool:
    """For what is as it should be when there is no such file; whether it was written."""
    try:
        cgroup.write(path, value)
    except OSError:
        return False
    return True


def rlimits(limits: Limits, given: list[int]) -> list[int]:
    """Triples of (resource, soft, hard) for a start; `given` is the one that the daemon itself was given."""
    triples = list(given)
    if limits.open_files is not None:
        triples = [RLIMIT_NOFILE, limits.open_files, limits.open_files]
    if limits.core_mb is not None:
        size = int(limits.core_mb * MIB)
        triples += [RLIMIT_CORE, size, size]
    return triples


def change_running(pids: list[int], limits: Limits, before: Limits, given: list[int]) -> list[str]:
    """What is no cgroup's: of each process. Those of the past that are None again keep what they have until their
    next start, for what it was is not known. What went wrong, as words."""
    wrong: dict[str, None] = {}
    old, fresh = rlimits(before, given), rlimits(limits, given)
    for pid in pids:
        try:
            if fresh != old:
                for at in range(0, len(fresh), 3):
                    soft, hard = (RLIM_INFINITY if value == UNLIMITED else value for value in fresh[at + 1 : at + 3])
                    prlimit(pid, fresh[at], (soft, hard))
            if limits.nice != before.nice:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    os.setpriority(os.PRIO_PROCESS, int(thread), limits.nice or 0)
            if limits.oom_score_adj != before.oom_score_adj:
                cgroup.write(f"/proc/{pid}/oom_score_adj", str(limits.oom_score_adj or 0))
        except (ProcessLookupError, FileNotFoundError):
            continue
        except (OSError, ValueError) as error:
            wrong[f"a limit could not be changed while it runs: {error}: restart it"] = None
    return list(wrong)

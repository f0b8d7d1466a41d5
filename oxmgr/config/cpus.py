"""How many CPUs a process of ours may use."""

import os


def count_cpus(cgroup_root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """At least 1: the affinity mask, and the smallest cgroup v2 quota (cpu.max) above us, rounded up."""
    count = len(os.sched_getaffinity(0))
    try:
        with open(own) as file:
            paths = [line[3:].strip() for line in file if line.startswith("0::")]
    except OSError:
        return count
    for path in paths:
        while True:
            quota = _quota(f"{cgroup_root}{path}/cpu.max")
            if quota is not None:
                count = min(count, quota)
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]
    return max(1, count)


def _quota(path: str) -> int | None:
    try:
        with open(path) as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else -(-int(quota) // int(period))

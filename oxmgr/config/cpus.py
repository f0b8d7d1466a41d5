"""How many CPUs the apps may use, and lists of CPUs."""

import os

from oxmgr.model.places import find_places


def count_usable() -> int:
    """Of the daemon that runs, whose CPUs its apps inherit; without one, ours, for it would inherit them from us."""
    pid = _daemon()
    try:
        return count_cpus(own=f"/proc/{pid or 'self'}/cgroup", pid=pid)
    except ProcessLookupError:
        return count_cpus()


def _daemon() -> int:
    """Its pid, 0 without one. What the lock says of one that was killed is another's number perhaps."""
    try:
        with open(find_places(dict(os.environ), os.getuid()).locks[0]) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/comm") as file:
            return pid if file.read() == "oxmgr\n" else 0
    except (OSError, ValueError):
        return 0


def count_cpus(cgroup_root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup", pid: int = 0) -> int:
    """At least 1: the affinity mask of that process (0: ours), and the smallest cgroup v2 quota (cpu.max) above it,
    rounded up. ProcessLookupError when it is gone."""
    count = len(os.sched_getaffinity(pid))
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


def read_cpus(text: str, host: set[int]) -> str:
    """A list of CPUs in cpuset(7)'s format, `8,0-1,2`, in its shortest form, `0-2,8`. `host`: the CPUs that there are.

    ValueError, as a sentence, when it is no such list or names a CPU that there is not.
    """
    wanted: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not _is_number(first) or not _is_number(last if dash else first):
            raise ValueError(f'expected CPUs as "0-3,8", got "{text[:80]}"')
        low, high = int(first), int(last if dash else first)
        if low > high:
            raise ValueError(f"the range {low}-{high} goes backwards: write {high}-{low}")
        # Stops at the first that is not there, however far the range goes.
        missing = next((cpu for cpu in range(low, high + 1) if cpu not in host), None)
        if missing is not None:
            raise ValueError(f"this host has no CPU {missing}: it has {show_cpus(host)}")
        wanted.update(range(low, high + 1))
    return show_cpus(wanted)


def host_cpus(path: str = "/sys/devices/system/cpu/present") -> set[int]:
    """The numbers of this host's CPUs; where it does not tell, of those that we may use.

    Not `possible`, which has a number for each that could be plugged in some day: an app bound to such a one would
    silently run on all.
    """
    try:
        with open(path) as file:
            ranges = [part.partition("-") for part in file.read().strip().split(",")]
        return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}
    except (OSError, ValueError):
        return set(os.sched_getaffinity(0))


def show_cpus(cpus: set[int]) -> str:
    """`0-2,8`"""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9

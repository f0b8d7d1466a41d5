"""What an earlier daemon has left running, as the cgroups and /proc tell it: for when no file does."""

import os
import time

from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.model.messages import Observed
from oxmgr.supervisor import cgroup, descendants
from oxmgr.supervisor.process import start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Owner
    from oxmgr.supervisor.journal import Past
    from oxmgr.supervisor.trees import Trees

_CHORE = "chore"
_LOOKS = 100
"""Of a millisecond each, at who executes just now."""


def left_behind(trees: "Trees", guard: "Guard", run: str) -> "dict[Owner, list[int]]":
    """Where there are no cgroups that say so, processes of each instance of which there are any: the guard's
    children, and who prints to a pipe of ours (in the folder `run`), whatever became of both guard and daemon."""
    found: dict[Owner, list[int]] = {}
    if trees.cgroups.base:
        return found
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        guards = {*descendants.children(guard.pid)} if guard.pid else set()
        for pid in pids:
            if pid != os.getpid() and (pid in guards or _prints_to(run, pid)):
                owner = _born_as(pid)
                if owner is not None:
                    found.setdefault(owner, []).append(pid)
    except OSError:
        pass
    return found


def _born_as(pid: int) -> "Owner | None":
    for _ in range(_LOOKS):
        try:
            return descendants.born_as(pid)
        except BlockingIOError:
            time.sleep(0.001)
    return descendants.born_as(pid)


def _prints_to(run: str, pid: int) -> bool:
    for number in (1, 2):
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(f"{run}/"):
                return True
        except OSError:
            continue
    return False


def running(trees: "Trees", guard: "Guard", run: str) -> "list[Observed]":
    """What the journal would have of all that runs, the oldest first. OSError when that cannot be found out."""
    found = [_seen(owner, _main(cgroup.members(path)), path) for path, owner in _owned(trees.cgroups.folders())]
    found += [_seen(owner, _main(pids), "") for owner, pids in left_behind(trees, guard, run).items()]
    return sorted((one for one in found if one.ticks), key=lambda one: one.ticks)


def recall(past: "Past", found: list[Observed]) -> None:
    """Make this what is known of this boot. Of two of one number the older goes on."""
    past.same_boot = True
    for one in found:
        before = past.seen.setdefault((one.app, one.index), one)
        if before is not one:
            past.others.append(replace(one, extra=True))


def is_chore(path: str) -> bool:
    """Whether that cgroup is of a command that is run for an app, and not of an instance."""
    return path.rpartition("/")[2].partition("~")[2].startswith(_CHORE)


def chore_name(folder: str, serial: int) -> str:
    """Of the cgroup of a command that is run for the instance of that folder."""
    return f"{folder}~{_CHORE}{serial}"


def _owned(folders: list[str]) -> "list[tuple[str, Owner]]":
    """With the instance that each is of (Instance.folder)."""
    found: list[tuple[str, Owner]] = []
    for path in folders:
        app, _, rest = path.rpartition("/")[2].partition("~")[0].rpartition(":")
        index, _, number = rest.partition("+")
        if not is_chore(path) and index.isdigit() and (number or "0").isdigit():
            found.append((path, (app, int(index), int(number or 0))))
    return found


def _main(pids: list[int]) -> int:
    """Of a tree, the process that all others have come of: the first, and the leader of its session. 0: none."""
    return min(pids, key=lambda pid: (start_ticks(pid), _leader(pid) != pid, pid), default=0)


def _leader(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _seen(owner: "Owner", pid: int, path: str) -> Observed:
    ticks = start_ticks(pid) if pid else 0
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    ooms = cgroup.oom_kills(path) if path else (0, 0)
    app, index, run = owner
    return Observed(
        app, index, is_.RUNNING, pid, ticks, time.time() - age, session=pid, cgroup=path, ooms=ooms, run=run
    )

"""Which processes are an instance's: its main process and all that came of it. Nobody else signals or kills trees.

On the first rung an instance has a cgroup of its own, and what is in it is its tree. Without a cgroup v2, the tree is
what oxmgr.supervisor.descendants finds: below the main process, and among the orphans that came to us as the subreaper.
Those are looked at on the first rung too, for who has the right can move a process out of its cgroup.
"""

import os
import time
from _signal import SIGCONT

from oxmgr.supervisor import cgroup, descendants, native, process
from oxmgr.supervisor.cgroup import Cgroups
from oxmgr.supervisor.loop import PRIORITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.instance import App, Instance
    from oxmgr.supervisor.loop import Loop

SPAWN_RUNGS = (
    "clone3, born in its cgroup if it has one",
    "clone, entering its cgroup before it executes",
    "clone and then pidfd_open, entering its cgroup before it executes",
)
KILLS = {
    cgroup.CGROUP_KILL: "cgroup.kill, the whole cgroup at once",
    cgroup.FREEZE: "the cgroup frozen, then each process by its pidfd",
    "": "each process stopped, then killed by its pidfd",
}

REMOVE_AGAIN = 0.02
LOOK_AGAIN = 0.05
_REMOVALS = 8


class Trees:
    """`apps` are the fleet's, `mains` the running main processes by pid. `emptied` is called when the last process of
    an instance that is watched has gone."""

    def __init__(self, cgroups: Cgroups, loop: "Loop") -> None:
        self.cgroups = cgroups
        self.apps: dict[str, App] = {}
        self.mains: dict[int, Instance] = {}
        self.emptied: Callable[[Instance], None] = lambda instance: None
        self._loop = loop
        self._sessions: dict[int, Instance] = {}
        self._watched: dict[Instance, int] = {}
        self._killing: set[Instance] = set()

    def ladders(self) -> dict[str, str]:
        """On which step of each this host stands, as words."""
        base, why, kill_by = self.cgroups.base, self.cgroups.why, self.cgroups.kill_by
        held = ", ".join(sorted(self.cgroups.controllers))
        missing = ", ".join(sorted({*cgroup.CONTROLLERS} - self.cgroups.controllers))
        return {
            "spawn": SPAWN_RUNGS[native.spawn_rung()],
            "trees": f"a cgroup for each instance, below {base}" if base else f"by a walk of descendants, for {why}",
            "kill": KILLS[kill_by if base else ""],
            "limits": (f"those of {held} are held" if held else "none is held")
            + (f"; not available: {missing}" if missing else ""),
        }

    # --- whose is what ---

    def take(self, instance: "Instance", main: process.Process) -> None:
        self._sessions.pop(instance.session, None)
        self._killing.discard(instance)
        instance.process = main
        instance.session = main.pid
        instance.foreign = not main.child
        self.mains[main.pid] = self._sessions[main.pid] = instance

    def let_go(self, instance: "Instance") -> None:
        """Its main process has ended and is reaped."""
        main = instance.process
        if main is not None:
            main.reaped = True
            del self.mains[main.pid]
            main.close()
            instance.process = None

    def forget(self, instance: "Instance") -> None:
        self._sessions.pop(instance.session, None)
        self.unwatch(instance)

    def orphans(self) -> "dict[Instance, list[int]]":
        """Those that came to us, by the instance that they are of."""
        left: dict[Instance, list[int]] = {}
        for pid in descendants.orphans(self.mains):
            try:
                owner = self._sessions.get(os.getsid(pid))
            except ProcessLookupError:
                continue
            if owner is None:
                name, index = descendants.born_as(pid) or ("", 0)
                owner = self.apps[name].instances.get(index) if name in self.apps else None
            if owner is not None:
                left.setdefault(owner, []).append(pid)
        return left

    def is_empty(self, instance: "Instance", orphans: "dict[Instance, list[int]]") -> bool:
        """Whether nothing but perhaps its main process lives of it."""
        if instance in orphans:
            return False
        if instance.cgroup:
            return not cgroup.is_populated(instance.cgroup)
        return not self._of_session(instance)

    def pids(self, instance: "Instance") -> list[int]:
        """All of its tree that can be found, the main process first."""
        main = [instance.process.pid] if instance.process is not None else []
        rest = self.orphans().get(instance, [])
        if instance.cgroup:
            found = [*main, *cgroup.pids(instance.cgroup), *rest]
        else:
            found = descendants.below([*main, *rest, *self._of_session(instance)])
        return list(dict.fromkeys(found))

    def _of_session(self, instance: "Instance") -> list[int]:
        """An earlier daemon's instance without a cgroup: its orphans are not ours."""
        if instance.cgroup or not instance.foreign:
            return []
        found = descendants.in_session(instance.session, instance.app.spec.name, instance.index)
        return [pid for pid in found if pid not in self.mains]

    # --- signals ---

    def signal(self, instance: "Instance", number: int, mode: str) -> None:
        """To the `main` process, its `group`, or the whole `tree`; SIGCONT after it, or what is stopped would never
        hear of it."""
        main = instance.process
        if mode == "main" and main is not None:
            main.signal(number)
            main.signal(SIGCONT)
        elif mode == "group" and main is not None:
            main.signal_group(number)
            main.signal_group(SIGCONT)
        elif mode == "tree":
            descendants.signal_each(lambda: self.pids(instance), number)

    def kill(self, instance: "Instance") -> bool:
        """SIGKILL to all of it, and again whenever `check` finds that something is left. False: there was nothing.

        A cgroup that was killed is worn: the kernel kills what is born into it later (see oxmgr.supervisor.cgroup).
        """
        main = instance.process
        left = self.orphans().get(instance, []) + self._of_session(instance)
        if main is None and not left and not (instance.cgroup and cgroup.is_populated(instance.cgroup)):
            self._killing.discard(instance)
            return False
        self._killing.add(instance)
        if instance.cgroup:
            instance.worn = True
            self.cgroups.kill(instance.cgroup)
            if main is not None:
                main.signal(9)
            left = [pid for pid in left if not self._is_inside(pid, instance)]
            if left:
                descendants.kill_trees(left)
        else:
            descendants.kill_trees([*([main.pid] if main is not None else []), *left])
        return True

    def _is_inside(self, pid: int, instance: "Instance") -> bool:
        folder = cgroup.folder_of(pid, self.cgroups.mount)
        return folder == instance.cgroup or folder.startswith(f"{instance.cgroup}/")

    # --- the end of a tree ---

    def watch(self, instance: "Instance") -> None:
        """Its main process has ended, and the rest shall. Those of the rest that become our children are heard of
        at their reaping; the others by the cgroup's own notification, which comes up to 15 ms late."""
        if instance in self._watched:
            return
        self._watched[instance] = -1
        if instance.cgroup:
            try:
                fd = os.open(f"{instance.cgroup}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            os.read(fd, 4096)
            self._watched[instance] = fd
            self._loop.add(fd, PRIORITY, lambda _: self._on_notice(instance, fd))
        elif instance.foreign:
            self._loop.at(time.monotonic() + LOOK_AGAIN, lambda: self._look_again(instance))

    def _look_again(self, instance: "Instance") -> None:
        """What an earlier daemon's instance without a cgroup has left tells nobody of its end."""
        if instance in self._watched:
            self.check(self.orphans(), only=instance)
            if instance in self._watched:
                self._loop.at(time.monotonic() + LOOK_AGAIN, lambda: self._look_again(instance))

    def unwatch(self, instance: "Instance") -> None:
        fd = self._watched.pop(instance, -1)
        if fd >= 0:
            self._loop.remove(fd)
            os.close(fd)

    def _on_notice(self, instance: "Instance", fd: int) -> None:
        os.pread(fd, 4096, 0)
        self.check(self.orphans(), only=instance)

    def check(self, orphans: "dict[Instance, list[int]]", only: "Instance | None" = None) -> None:
        """Something has ended: tell of the watched that are empty now."""
        for instance in [only] if only is not None else list(self._watched):
            if self.is_empty(instance, orphans):
                self.unwatch(instance)
                self._killing.discard(instance)
                self.emptied(instance)
            elif instance in self._killing:
                # A fork can get past a kill that is under way (before Linux 6.14).
                self.kill(instance)

    # --- folders ---

    def tidy(self, path: str, tries: int = _REMOVALS) -> None:
        """Remove a cgroup that is empty; now, or as soon as the kernel lets go of it."""
        if path and not cgroup.remove(path) and tries:
            wait = REMOVE_AGAIN * 2 ** (_REMOVALS - tries)
            self._loop.at(time.monotonic() + wait, lambda: self.tidy(path, tries - 1))

    def clean(self, known: "set[str]") -> None:
        """End what lives in folders of ours that are no instance's any more, and remove them."""
        for path in self.cgroups.folders():
            if path not in known:
                self.cgroups.kill(path)
                self.tidy(path)

"""Which processes are an instance's: its main process and all that came of it. Nobody else signals or kills trees.

On the first rung an instance has a cgroup of its own, and what is in it is its tree. Without a cgroup v2, the tree is
what oxmgr.supervisor.descendants finds: below the main process, and among the orphans that came to us as the subreaper.
Those are looked at on the first rung too, for who has the right can move a process out of its cgroup; but only once the
cgroup says that it is empty.
"""

import os
import time
from _signal import SIGCONT, SIGKILL

from oxmgr.supervisor import cgroup, descendants, native, process
from oxmgr.supervisor.cgroup import Cgroups
from oxmgr.supervisor.helper import BESIDE
from oxmgr.supervisor.loop import PRIORITY
from oxmgr.supervisor.orphans import Look, Orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from oxmgr.supervisor.instance import App, Instance, Owner
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
        self._orphans = Orphans(self.mains, self._owner)
        self.guard: Callable[[], int] = lambda: 0
        """The pid of the guard, 0 without one."""
        self._orphans.guard = lambda: self.guard()

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
        self._end_session(instance)
        self._killing.discard(instance)
        instance.process = main
        instance.session = main.pid
        instance.foreign = not main.child
        self.mains[main.pid] = self._sessions[main.pid] = instance
        self._orphans.forget(main.pid)

    def let_go(self, instance: "Instance") -> None:
        """Its main process has ended and is reaped."""
        main = instance.process
        if main is not None:
            main.reaped = True
            del self.mains[main.pid]
            self._orphans.forget(main.pid)
            main.close()
            instance.process = None

    def set_apart(self, pid: int) -> None:
        """A child that was born as an instance is none's."""
        BESIDE.add(pid)
        self._orphans.forget(pid)

    def reaped(self, pid: int) -> None:
        """Some other child of ours has ended and is reaped."""
        BESIDE.discard(pid)
        self._orphans.forget(pid)

    def forget(self, instance: "Instance") -> None:
        self._end_session(instance)
        self.unwatch(instance)

    def _end_session(self, instance: "Instance") -> None:
        # A later main process of another can have got the number meanwhile.
        if self._sessions.get(instance.session) is instance:
            del self._sessions[instance.session]

    def orphans(self) -> Look:
        """Of whom there are some, among those that came to us; looked at when it is first asked."""
        return Look(self._orphans)

    def _owner(self, pid: int) -> "Owner | None":
        if pid in BESIDE:
            return None
        try:
            owner = self._sessions.get(os.getsid(pid))
        except ProcessLookupError:
            return None
        return descendants.born_as(pid) if owner is None else owner.owner

    def is_empty(self, instance: "Instance", orphans: "Container[Instance]") -> bool:
        """Whether nothing but perhaps its main process lives of it. False too when that cannot be looked at."""
        if instance.cgroup:
            return not cgroup.is_populated(instance.cgroup) and instance not in orphans
        try:
            return instance not in orphans and not self._of_session(instance)
        except OSError:
            return False

    def has(self, instance: "Instance", pid: int) -> bool:
        """Whether a process, which may have ended, is one of it. False when that cannot be found out."""
        main = instance.process
        if main is not None and pid == main.pid:
            return True
        if instance.cgroup:
            folder = cgroup.folder_of(pid, self.cgroups.mount)
            return folder == instance.cgroup or folder.startswith(f"{instance.cgroup}/")
        # As long as it is a session's number, it is no other process's.
        return instance.session > 0 and descendants.comes_of(pid, instance.session)

    def pids(self, instance: "Instance") -> list[int]:
        """All of its tree that can be found, the main process first."""
        main = [instance.process.pid] if instance.process is not None else []
        rest, _ = self._rest(instance)
        found = [*main, *cgroup.pids(instance.cgroup), *rest] if instance.cgroup else descendants.below([*main, *rest])
        return list(dict.fromkeys(found))

    def _rest(self, instance: "Instance") -> tuple[list[int], bool]:
        """What of it has lost its parent, as far as that is known, and whether it is."""
        known = self._orphans.look()
        rest = self._orphans.of(instance)
        try:
            rest += self._of_session(instance)
        except OSError:
            known = False
        return rest, known

    def _of_session(self, instance: "Instance") -> list[int]:
        """An earlier daemon's instance without a cgroup: its orphans are not ours. OSError."""
        if instance.cgroup or not instance.foreign:
            return []
        found = descendants.in_session(instance.session, instance.owner)
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
        OSError: it could not be done.

        A cgroup that was killed is worn: the kernel kills what is born into it later (see oxmgr.supervisor.cgroup).
        """
        main = instance.process
        rest, known = self._rest(instance)
        inside = {*cgroup.pids(instance.cgroup)} if instance.cgroup else set()
        populated = bool(inside) or (bool(instance.cgroup) and cgroup.is_populated(instance.cgroup))
        if main is None and known and not rest and not populated:
            self._killing.discard(instance)
            return False
        rest = [pid for pid in rest if pid not in inside]
        self._killing.add(instance)
        if instance.cgroup:
            instance.worn = True
            try:
                self.cgroups.kill(instance.cgroup)
            finally:
                if main is not None:
                    main.signal(SIGKILL)
        elif main is not None:
            rest.insert(0, main.pid)
        if rest:
            descendants.kill_trees(rest, lambda pid: self._is_still(pid, instance))
        return True

    def _is_still(self, pid: int, instance: "Instance") -> bool:
        """Whether what has this number is what was found of the instance."""
        main = instance.process
        if main is not None and pid == main.pid:
            return main.signal(0)
        stat = process.read_stat(pid)
        if stat is not None and int(stat[1]) == os.getpid():
            return True
        try:
            if stat is not None and int(stat[1]) == self.guard():
                # Its number may be another's by now.
                return self._owner(pid) == instance.owner
            return instance.foreign and descendants.is_of_session(pid, instance.session, instance.owner)
        except BlockingIOError:
            # Not before it is known whose it is.
            return False

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
            except OSError:
                # It is gone, or there are no fds left to hear of its end by.
                self._look_soon(instance, 0.0)
                return
            self._watched[instance] = fd
            self._loop.add(fd, PRIORITY, lambda _: self._on_notice(instance, fd))
            # What is told is a change from what was read last.
            if _reads_empty(fd):
                self._look_soon(instance, 0.0)
        elif instance.foreign:
            self._look_soon(instance, LOOK_AGAIN)

    def _look_soon(self, instance: "Instance", wait: float) -> None:
        self._loop.at(time.monotonic() + wait, lambda: self._look_again(instance))

    def _look_again(self, instance: "Instance") -> None:
        """At what tells nobody of its end: what an earlier daemon's instance without a cgroup has left, above all."""
        if instance in self._watched:
            self.check(self.orphans(), only=instance)
            if self._watched.get(instance) == -1:
                self._look_soon(instance, LOOK_AGAIN)

    def unwatch(self, instance: "Instance") -> None:
        fd = self._watched.pop(instance, -1)
        if fd >= 0:
            self._loop.remove(fd)
            os.close(fd)

    def _on_notice(self, instance: "Instance", fd: int) -> None:
        _reads_empty(fd)
        self.check(self.orphans(), only=instance)

    def check(self, orphans: "Container[Instance]", only: "Instance | None" = None) -> None:
        """Something has ended: tell of the watched that are empty now."""
        for instance in [only] if only is not None else list(self._watched):
            # What is told of one can be the end of the watch on another.
            if instance in self._watched:
                self._loop.call(self._check, instance, orphans)

    def _check(self, instance: "Instance", orphans: "Container[Instance]") -> None:
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

    def end(self, path: str) -> None:
        """What lives in a folder of ours that is no instance's any more, and the folder. OSError."""
        self.cgroups.kill(path)
        self.tidy(path)


def _reads_empty(fd: int) -> bool:
    """What a cgroup.events says now, which is then not told of again."""
    try:
        return b"populated 0" in os.pread(fd, 4096, 0)
    except OSError:
        # It was removed.
        return True

"""What an earlier daemon has left: goes on with what runs, ends what is left over, starts what is desired."""

import os
import stat
import time

from oxmgr.lifecycle.events import DECIDE, START, Adopted, Emptied, Remains, State, Stop
from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.model.spec import STARTED
from oxmgr.supervisor import cgroup, descendants, native, process
from oxmgr.supervisor.left import is_chore, left_behind
from oxmgr.supervisor.loop import HANGUP, READ
from oxmgr.supervisor.network import network_of
from oxmgr.supervisor.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.messages import Observed
    from oxmgr.supervisor.desired import Desired
    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.guard import Exit, Guard
    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.instance import Instance, Owner
    from oxmgr.supervisor.journal import Past
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.notes import Notes

    End = tuple[int | None, int | None]

REAP_PATIENCE = 2.0
"""Seconds to wait for an adopted process's real parent to reap it, which is when its exit code can be read."""


def restore(fleet: "Fleet", seen: "dict[tuple[str, int], Observed]", *, same_boot: bool) -> None:
    """What an earlier daemon knew of each instance, but for what it had running. What was given up is tried again after
    a reboot."""
    stays = is_.DOWN if same_boot else (is_.STOPPED, is_.EXITED)
    for instance in fleet:
        app = instance.app
        old = seen.get((app.spec.name, instance.index))
        if old is not None:
            instance.run = old.run
            if old.done_until:
                app.done_until = min(old.done_until, app.done_until or old.done_until)
            # A job has never ended for good.
            final = old.status if old.status in stays and not app.spec.schedule else is_.STOPPED
            instance.state = State(
                final,
                restarts=old.restarts,
                crashes=old.crashes,
                streak=old.streak,
                exit_code=old.exit_code,
                signal=old.signal,
                oom_kills=old.oom_kills,
                reason=old.reason if final != is_.STOPPED else "",
            )


class Takeover:
    """Goes on where an earlier daemon was. `ends` of the guard, and of those children of ours that have ended while we
    were executed in that daemon's place, are the true ends of what has ended in between."""

    def __init__(self, fleet: "Fleet", loop: "Loop", desired: "Desired", guard: "Guard", notes: "Notes") -> None:
        self._fleet = fleet
        self._loop = loop
        self._desired = desired
        self._guard = guard
        self._notes = notes
        self._ends = _ends_of(guard)
        self._own_ends: dict[int, End] = {}
        self._strays: dict[Owner, list[int]] = {}
        self._silent: set[int] = set()

    def resume(self, past: "Past", *, whole: bool, health: "Health") -> "list[Instance]":
        """Take over what an earlier daemon of this boot has left running; what is to be started, since it is desired
        and does not run. What has finished or was given up stays so; of two that were replacing each other one is
        stopped.
        `whole`: all that is desired is known, so what is of no known instance is ended; else users are told of it, and
        it is taken over when its app is asked for again."""
        seen = past.seen
        fleet = self._fleet
        while reaped := native.reap():
            self._own_ends |= {pid: (code, number) for pid, code, number in reaped}
        self._strays = left_behind(fleet.trees, self._guard, fleet.launcher.outputs.places.run)
        start: list[Instance] = []
        stop: list[Instance] = []
        down: list[Instance] = []
        ended: list[tuple[Instance, Observed, bool]] = []
        folders: dict[str, list[str]] = {}
        for path in fleet.trees.cgroups.folders():
            if is_chore(path):
                # Whoever waited for it is gone.
                fleet.trees.end(path)
            else:
                folders.setdefault(path.rpartition("/")[2].partition("~")[0], []).append(path)
        for instance in list(fleet):
            name = instance.app.spec.name
            wanted = instance.index not in self._desired.apps[name].stopped
            old = seen.get((name, instance.index))
            instance.state = replace(instance.state, desired=wanted)
            if old is not None and self._adopt(instance, old):
                if not wanted and instance.state.status != is_.STOPPING:
                    stop.append(instance)
                continue
            left = self._has_left(instance, old, folders.get(instance.folder, []))
            if old is not None and (old.pid or (old.status == is_.STOPPING and old.then == DECIDE)):
                ended.append((instance, old, left))
            elif left:
                fleet.launcher.connect(instance)
                fleet.send(instance, Remains())
            else:
                down.append(instance)
                if not (old is not None and self._wait_on(instance, old)) and wanted and instance.down:
                    start += [instance] if instance.state.status == is_.STOPPED else []
        for other in past.others:
            if (other.app, other.index) in seen and other.pid != seen[other.app, other.index].pid:
                self._stop_other(other)
        for instance in down:
            # Not what another one of its number still prints to.
            if fleet.is_alone(instance):
                fleet.launcher.pick_up(instance)
        if whole:
            known = {instance.cgroup for instance in fleet.everything()}
            for path in fleet.trees.cgroups.folders():
                if path not in known and not is_chore(path):
                    fleet.trees.end(path)
            _end_forgotten(fleet, [*seen.values(), *past.others])
        else:
            self._leave_unknown(seen, folders, health)
        if ended:
            # Some may have ended only after the guard was asked first.
            self._guard.fetch_exits()
            self._ends |= _ends_of(self._guard)
        for instance, old, left in ended:
            self._loop.call(self._ended_meanwhile, instance, old, left)
        for instance in list(fleet):
            if instance.state.desired and (instance in start or not instance.down):
                fleet.launcher.endpoints.claim(instance)
        fleet.turns.wait_for(one for one in fleet.everything() if one.state.status == is_.STOPPING)
        fleet.turns.bring_down(stop, Stop())
        return start

    # --- what no state file knows ---

    def _leave_unknown(
        self, seen: "dict[tuple[str, int], Observed]", folders: dict[str, list[str]], health: "Health"
    ) -> None:
        fleet = self._fleet
        known = {(instance.app.spec.name, instance.index) for instance in fleet}
        unknown = fleet.unknown = {key: old for key, old in seen.items() if key not in known and old.pid}

        def made(instance: "Instance") -> None:
            old = unknown.pop((instance.app.spec.name, instance.index), None)
            if old is not None and self._adopt(instance, old):
                return
            if self._has_left(instance, old, folders.get(instance.folder, [])):
                fleet.launcher.connect(instance)
                fleet.send(instance, Remains())

        def is_unknown(path: str) -> bool:
            return (
                not is_chore(path) and cgroup.is_populated(path) and all(instance.cgroup != path for instance in fleet)
            )

        fleet.made = made
        for path in fleet.trees.cgroups.folders():
            if is_unknown(path):
                health.tell(
                    f"{path} holds an app that no state file knows; to end it: echo 1 > {path}/cgroup.kill",
                    lambda path=path: is_unknown(path),  # type: ignore[misc]
                )
        for key, old in unknown.items():
            if not old.cgroup and _runs(old):
                health.tell(
                    f"process {old.pid} is of {key[0]}, which no state file knows; to end it: kill {old.pid}",
                    lambda key=key, old=old: key in unknown and _runs(old),  # type: ignore[misc]
                )

    # --- what runs ---

    def _stop_other(self, seen: "Observed") -> None:
        """One half of a replacement that the earlier daemon was at: the other half is what goes on."""
        app = self._fleet.apps.get(seen.app)
        if app is None or seen.index not in app.instances:
            return
        instance = self._fleet.add_extra(app.instances[seen.index], seen.run)
        if self._adopt(instance, seen):
            if instance.state.status != is_.STOPPING:
                self._fleet.send(instance, Stop())
        elif self._has_left(instance, seen, []):
            self._fleet.send(instance, Remains())
        else:
            self._fleet.drop_extra(instance)

    def _adopt(self, instance: "Instance", seen: "Observed") -> bool:
        """Go on with a main process that an earlier daemon started; False when it is not there any more."""
        fleet = self._fleet
        if not seen.ticks and seen.pid and descendants.born_as(seen.pid) == instance.owner:
            # The daemon that has started it could not look when it began (EMFILE, say).
            seen = replace(seen, ticks=process.start_ticks(seen.pid))
        main = process.adopt(seen.pid, seen.ticks)
        if main is None:
            return False
        if not (main.child or self._guard.pid) and stat.S_ISDIR(os.fstat(main.pidfd).st_mode):
            # Nobody would tell of its end, so it cannot be taken over.
            main.close()
            return False
        folder = cgroup.folder_of(main.pid, fleet.trees.cgroups.mount)
        # A daemon that had no cgroups for a while has written down none.
        own = seen.cgroup or fleet.trees.cgroups.own_folder(folder, instance.folder)
        if own and folder == own and _is_there(folder):
            instance.cgroup, instance.limited = folder, instance.app.spec.limits
            instance.ooms = seen.ooms
        elif seen.cgroup and descendants.born_as(main.pid) != instance.owner:
            # The same number and start, but not where ours was: it cannot be proven to be ours.
            main.close()
            return False
        fleet.trees.take(instance, main)
        instance.status_text = seen.status_text
        fleet.launcher.connect(instance)
        if instance.app.spec.sandbox.private_network:
            instance.network = network_of(main.pid)
        instance.started_at, instance.ticks, instance.failures = seen.started_at, seen.ticks, seen.failures
        instance.made = seen.made or instance.app.made
        instance.born = instance.app.spec if instance.made == instance.app.made else None
        if not main.child:
            self._hear_of(instance, main)
        age = max(0.0, time.time() - seen.started_at)
        if seen.status == is_.STOPPING:
            instance.untold = not seen.due
            fleet.take_up(instance, self._stopping(instance, seen, age))
        else:
            ready = seen.status == is_.RUNNING or instance.app.spec.ready == STARTED
            instance.marks = seen.marks
            fleet.send(instance, Adopted(main.pid, age, ready))
        fleet.launcher.endpoints.adopt(instance)
        if instance.untold:
            # Twice rather than never.
            fleet.begin_stop(instance)
        return True

    def _hear_of(self, instance: "Instance", main: Process) -> None:
        try:
            self._loop.add(main.pidfd, READ, lambda events: self._on_end(instance, main, events))
        except PermissionError:
            # No pidfd, but a folder of /proc (epoll_ctl(2)): it is the guard that tells of its end.
            self._silent.add(main.pidfd)

    def _stopping(self, instance: "Instance", seen: "Observed", age: float) -> State:
        """As the earlier daemon had it: what was to follow follows, and what is wanted is started."""
        now = time.monotonic()
        state = instance.state
        left = max(0.0, seen.due - time.time()) if seen.due else instance.app.spec.stop_timeout_ms / 1000.0
        return replace(
            state,
            status=is_.STOPPING,
            pid=seen.pid,
            started=now - age,
            deadline=now + left,
            then=seen.then or (START if state.desired else ""),
            reason=seen.reason,
        )

    def _wait_on(self, instance: "Instance", seen: "Observed") -> bool:
        """Whether it goes on waiting for its restart, or for the end of its start_delay_ms."""
        delayed = seen.status == is_.WAITING and seen.due > 0 and not instance.app.spec.schedule
        if not (seen.status == is_.BACKOFF or delayed) or not instance.state.desired:
            return False
        due = time.monotonic() + max(0.0, seen.due - time.time())
        self._fleet.take_up(instance, replace(instance.state, status=seen.status, deadline=due, reason=seen.reason))
        return True

    # --- what has ended in between ---

    def _ended_meanwhile(self, instance: "Instance", seen: "Observed", left: bool) -> None:
        """Its main process has, and of the rest something is `left` or not: as it would have gone with a daemon."""
        fleet = self._fleet
        fleet.launcher.connect(instance)
        instance.started_at, instance.ticks = seen.started_at, seen.ticks
        instance.ooms = seen.ooms
        age = max(0.0, time.time() - seen.started_at)
        if seen.status == is_.STOPPING or not instance.state.desired:
            state = self._stopping(instance, seen, age)
        else:
            state = replace(instance.state, status=is_.RUNNING, pid=seen.pid, started=time.monotonic() - age)
        fleet.take_up(instance, state)
        if seen.pid:
            fleet.exits.ended(instance, *self._how_ended(seen), empty=not left)
        elif not left:
            fleet.send(instance, Emptied())

    def _how_ended(self, seen: "Observed") -> "End":
        """What is known of it, and nothing that is not."""
        if seen.pid in self._own_ends:
            return self._own_ends[seen.pid]
        # When it began may not be known; of those that have ended since the last daemon did, a number is one process's.
        ends = {pid: end for (pid, ticks), end in self._ends.items() if seen.ticks in (ticks, 0)}
        end = ends.get(seen.pid)
        # Where nobody has reaped it yet, the kernel still has it.
        zombie = process.zombie_exit(seen.pid) if process.start_ticks(seen.pid) == seen.ticks else None
        # Or a daemon had reaped it, and died before it could do more.
        noted = self._notes.end(seen.pid, seen.ticks)
        return end or zombie or ((None, None) if noted is None else how(noted))

    def _has_left(self, instance: "Instance", seen: "Observed | None", folders: list[str]) -> bool:
        """Whether something of it lives although its main process is gone: what is in a cgroup of its name is its own,
        also when the journal was lost."""
        for path in folders:
            if cgroup.is_populated(path):
                instance.cgroup, instance.foreign = path, True
                return True
        for stray in self._strays.get(instance.owner, ())[:1]:
            # Started by a daemon that was killed before it could write so down.
            try:
                instance.session, instance.foreign = os.getsid(stray), True
                return not self._fleet.trees.is_empty(instance, {})
            except ProcessLookupError:
                pass
        if seen is None or seen.cgroup or not (seen.session or seen.pid):
            return False
        instance.session, instance.foreign = seen.session or seen.pid, True
        return not self._fleet.trees.is_empty(instance, {})

    # --- ends of what was adopted ---

    def on_exits(self, exits: "list[Exit]") -> None:
        """The guard has reaped these."""
        for pid, status, ticks in exits:
            instance = self._fleet.trees.mains.get(pid)
            main = None if instance is None else instance.process
            if instance is not None and main is not None and not main.child and ticks in (instance.ticks, 0):
                self._loop.call(self._end, instance, main, how(status))
        self._fleet.trees.check(self._fleet.trees.orphans())

    def _on_end(self, instance: "Instance", main: Process, events: int) -> None:
        ended = process.zombie_exit(main.pid)
        if ended is None:
            try:
                ended = native.pidfd_exit(main.pidfd)
            except OSError as error:
                if self._guard.fd < 0 and (events & HANGUP or not isinstance(error, BlockingIOError)):
                    self._end(instance, main, (None, None))
                    return
                # Ended, and not ours to reap: what is left to hear is the word of whoever does, or the hang-up then.
                if events & HANGUP:
                    self._silent.add(main.pidfd)
                    self._loop.remove(main.pidfd)
                else:
                    self._loop.change(main.pidfd, 0)
                later = time.monotonic() + REAP_PATIENCE
                self._loop.at(later, lambda: self._end(instance, main, (None, None)))
                return
        self._end(instance, main, ended)

    def _end(self, instance: "Instance", main: Process, ended: "End") -> None:
        fleet = self._fleet
        if instance.process is not main:
            return
        if main.pidfd in self._silent:
            self._silent.discard(main.pidfd)
        else:
            self._loop.remove(main.pidfd)
        fleet.trees.let_go(instance)
        fleet.exits.ended(instance, *ended, empty=fleet.trees.is_empty(instance, fleet.trees.orphans()))


def _is_there(folder: str) -> bool:
    """OSError when that cannot be found out now: what is there must not be taken for gone."""
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _ends_of(guard: "Guard") -> "dict[tuple[int, int], End]":
    return {(pid, ticks): how(status) for pid, status, ticks in guard.exits}


def how(status: int) -> "End":
    """(exit code, None) or (None, signal), of a status as of waitpid(2)."""
    return (None, status & 0x7F) if status & 0x7F else (status >> 8 & 0xFF, None)


def _runs(seen: "Observed") -> bool:
    main = process.adopt(seen.pid, seen.ticks)
    if main is not None:
        main.close()
    return main is not None


def _end_forgotten(fleet: "Fleet", seen: "list[Observed]") -> None:
    """Those that were deleted, and not ended yet when the earlier daemon died; without cgroups."""
    known = {(instance.app.spec.name, instance.index) for instance in fleet}
    for old in seen:
        main = process.adopt(old.pid, old.ticks) if (old.app, old.index) not in known and not old.cgroup else None
        if main is not None:
            _kill_forgotten(main, (old.app, old.index, old.run))
            main.close()


def _kill_forgotten(main: Process, owner: "Owner") -> None:
    def is_still(pid: int) -> bool:
        return main.signal(0) if pid == main.pid else descendants.is_of_session(pid, main.pid, owner)

    descendants.kill_trees([main.pid, *descendants.in_session(main.pid, owner)], is_still)

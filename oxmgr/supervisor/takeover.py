"""What an earlier daemon has left: goes on with what runs, ends what is left over, starts what is desired."""

import os
import time

from oxmgr.lifecycle.machine import Adopted, Remains, State, Stop
from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.supervisor import cgroup, descendants, native, process
from oxmgr.supervisor.loop import HANGUP, READ
from oxmgr.supervisor.network import network_of
from oxmgr.supervisor.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.messages import Observed
    from oxmgr.supervisor.desired import Desired
    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop

REAP_PATIENCE = 2.0
"""Seconds to wait for an adopted process's real parent to reap it, which is when its exit code can be read."""


def restore(fleet: "Fleet", seen: "dict[tuple[str, int], Observed]") -> None:
    """What an earlier daemon knew of each instance, but for what it had running."""
    for instance in fleet:
        old = seen.get((instance.app.spec.name, instance.index))
        if old is not None:
            final = old.status if old.status in is_.DOWN else is_.STOPPED
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


def resume(
    fleet: "Fleet",
    loop: "Loop",
    desired: "Desired",
    seen: "dict[tuple[str, int], Observed]",
    *,
    whole: bool,
    tell: "Callable[[str], None]",
) -> "list[Instance]":
    """Take over what an earlier daemon of this boot has left running; what is to be started, since it is desired and
    does not run. What has finished or was given up stays so.
    `whole`: all that is desired is known, so what is of no known instance is ended; else users are told of it."""
    start: list[Instance] = []
    stop: list[Instance] = []
    folders: dict[str, list[str]] = {}
    for path in fleet.trees.cgroups.folders():
        folders.setdefault(path.rpartition("/")[2].partition("~")[0], []).append(path)
    for instance in list(fleet):
        name = instance.app.spec.name
        wanted = instance.index not in desired.apps[name].stopped
        old = seen.get((name, instance.index))
        instance.state = replace(instance.state, desired=wanted)
        if old is not None and _adopt(fleet, loop, instance, old):
            if not wanted:
                stop.append(instance)
        elif _has_left(fleet, instance, old, folders.get(instance.folder, [])):
            fleet.launcher.connect(instance)
            fleet.send(instance, Remains())
        else:
            fleet.launcher.pick_up(instance)
            if wanted and instance.state.status == is_.STOPPED:
                start.append(instance)
    known = {instance.cgroup for instance in fleet}
    if whole:
        fleet.trees.clean(known)
        _end_forgotten(fleet, seen)
    else:
        for path in fleet.trees.cgroups.folders():
            if path not in known and cgroup.is_populated(path):
                tell(f"{path} holds an app that no state file knows; to end it: echo 1 > {path}/cgroup.kill")
    fleet.bring_down(stop, Stop())
    return start


def _adopt(fleet: "Fleet", loop: "Loop", instance: "Instance", seen: "Observed") -> bool:
    """Go on with a main process that an earlier daemon started; False when it is not there any more."""
    main = process.adopt(seen.pid, seen.ticks)
    if main is None:
        return False
    folder = cgroup.folder_of(main.pid, fleet.trees.cgroups.mount)
    if seen.cgroup and folder == seen.cgroup and os.path.isdir(folder):
        instance.cgroup, instance.limited = folder, instance.app.spec.limits
        instance.ooms = cgroup.oom_kills(folder)
    elif seen.cgroup and descendants.born_as(main.pid) != (instance.app.spec.name, instance.index):
        # The same number and start, but not where ours was: it cannot be proven to be ours.
        main.close()
        return False
    fleet.trees.take(instance, main)
    fleet.launcher.connect(instance)
    if instance.app.spec.sandbox.private_network:
        instance.network = network_of(main.pid)
    instance.started_at, instance.ticks = seen.started_at, seen.ticks
    loop.add(main.pidfd, READ, lambda events: _on_end(fleet, loop, instance, main, events))
    fleet.send(instance, Adopted(main.pid, max(0.0, time.time() - seen.started_at)))
    return True


def _end_forgotten(fleet: "Fleet", seen: "dict[tuple[str, int], Observed]") -> None:
    """Those that were deleted, and not ended yet when the earlier daemon died; without cgroups."""
    known = {(instance.app.spec.name, instance.index) for instance in fleet}
    for (name, index), old in seen.items():
        main = process.adopt(old.pid, old.ticks) if (name, index) not in known and not old.cgroup else None
        if main is not None:
            _kill_forgotten(main, name, index)
            main.close()


def _kill_forgotten(main: Process, name: str, index: int) -> None:
    def is_still(pid: int) -> bool:
        return main.signal(0) if pid == main.pid else descendants.is_of_session(pid, main.pid, name, index)

    descendants.kill_trees([main.pid, *descendants.in_session(main.pid, name, index)], is_still)


def _has_left(fleet: "Fleet", instance: "Instance", seen: "Observed | None", folders: list[str]) -> bool:
    """Whether something of it lives although its main process is gone: what is in a cgroup of its name is its own, also
    when the journal was lost."""
    for path in folders:
        if cgroup.is_populated(path):
            instance.cgroup, instance.foreign = path, True
            return True
    if seen is None or seen.cgroup or not (seen.session or seen.pid):
        return False
    instance.session, instance.foreign = seen.session or seen.pid, True
    return not fleet.trees.is_empty(instance, {})


def _on_end(fleet: "Fleet", loop: "Loop", instance: "Instance", main: Process, events: int) -> None:
    ended = process.zombie_exit(main.pid)
    if ended is None:
        try:
            ended = native.pidfd_exit(main.pidfd)
        except BlockingIOError:
            if not events & HANGUP:
                # Ended, not reaped, and not ours to look at: what is left to hear is the hang-up at the reaping.
                loop.change(main.pidfd, 0)
                later = time.monotonic() + REAP_PATIENCE
                loop.at(later, lambda: _end(fleet, loop, instance, main, (None, None)))
                return
            ended = None, None
        except OSError:
            ended = None, None
    _end(fleet, loop, instance, main, ended)


def _end(
    fleet: "Fleet", loop: "Loop", instance: "Instance", main: Process, ended: tuple[int | None, int | None]
) -> None:
    if instance.process is not main:
        return
    loop.remove(main.pidfd)
    fleet.trees.let_go(instance)
    fleet.ended(instance, *ended, empty=fleet.trees.is_empty(instance, fleet.trees.orphans()))

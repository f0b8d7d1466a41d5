"""What an apply comes to: whether it may be, what it changes, and what has to be done to whom."""

import os

from oxmgr.model import messages as m
from oxmgr.model import status as is_
from oxmgr.model.check import spec_error
from oxmgr.model.graph import find_cycle
from oxmgr.model.listen import meet, shared_socket
from oxmgr.model.logpaths import shared_logs
from oxmgr.model.spec import NAME_LIMIT
from oxmgr.supervisor.limits import not_enforceable
from oxmgr.supervisor.outputs import plumbing
from oxmgr.supervisor.plan import must_restart, plan
from oxmgr.supervisor.rollouts import can_roll, takes_turns
from oxmgr.supervisor.sockets import addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.spec import Limits, Spec
    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.instance import Instance


class Refusal(Exception):
    """The request is not carried out, and nothing has changed."""

    def __init__(self, message: str, code: int = m.WRONG) -> None:
        super().__init__(message)
        self.code = code


def check(fleet: "Fleet", logs: str, specs: "list[Spec]", *, prune: bool) -> None:
    """Refusal when these cannot be what is desired; with `prune`, nothing but these. `logs` is the folder of logs."""
    names: set[str] = set()
    for spec in specs:
        wrong = spec_error(spec)
        if wrong:
            raise Refusal(f"{spec.name[:NAME_LIMIT]!r}: {wrong}")
        if spec.name in names:
            raise Refusal(f"{spec.name} is there twice: give one of them another name")
        names.add(spec.name)
        missing = not_enforceable(spec.limits, fleet.trees.cgroups)
        if missing and spec.limits.required:
            raise Refusal(f"{spec.name}: {missing[0]}, and limits.required says that it must be", m.FAILED)
    after = {spec.name: spec for spec in specs}
    if not prune:
        after = {name: app.spec for name, app in fleet.apps.items()} | after
    for path, (one, _), (other, _) in shared_logs(list(after.values()), logs, os.path.realpath):
        # Of others it is no business of this request: a link that made two files one may have come later.
        if one in names or other in names:
            raise Refusal(f"{one} and {other} would both write to {path}: set another log_file")
    taken = shared_socket({spec.name: spec.listen for spec in after.values() if spec.listen})
    if taken is not None:
        place, one, other = taken
        raise Refusal(f"{one} and {other} would both listen at {place}: give one of them another address")
    cycle = find_cycle(fleet.graph() | {spec.name: list(spec.depends_on) for spec in specs})
    if cycle:
        raise Refusal(f"depends_on goes in a circle: {' → '.join(cycle)}: take one of them out")


def changes_of(fleet: "Fleet", request: m.Apply, desired: "dict[str, Spec]") -> list[m.Change]:
    idle = {one.app.spec.name for one in fleet if one.down and not is_finished(one)}
    stale = {one.app.spec.name for one in fleet if one.stale or (request.reload and one.state.pid)}
    return plan(request.specs, desired, idle, stale, prune=request.prune)


def environ_for(fleet: "Fleet", spec: "Spec", environ: bytes) -> bytes:
    """An app takes the environment of the command that starts or restarts it."""
    app = fleet.apps.get(spec.name)
    if app is None or must_restart(spec, app.spec) or not any(one.state.pid for one in app.instances.values()):
        return environ
    return app.environ


def is_finished(instance: "Instance") -> bool:
    """It has done its work: an apply does not do it again."""
    state, spec = instance.state, instance.app.spec
    if spec.schedule:
        return False
    return state.status == is_.EXITED and (state.exit_code == 0 or state.exit_code in spec.stop_exit_codes)


class Work:
    """What is to be done to whom once the specs are in force: `start`, `restart`, replace without a gap (`roll`), end
    and forget (`leave`), give other limits to (`limit`, beside what they had), nothing (`rest`, which were stopped).
    `stay` are all that there are then."""

    def __init__(self) -> None:
        self.start: list[Instance] = []
        self.restart: list[Instance] = []
        self.roll: list[Instance] = []
        self.leave: list[Instance] = []
        self.limit: list[tuple[Instance, Limits]] = []
        self.stay: list[Instance] = []
        self.rest: list[Instance] = []


def put(fleet: "Fleet", request: m.Apply, changes: list[m.Change]) -> Work:
    """Put the specs of the request in force, and what they need no other process for."""
    work = Work()
    for action in changes:
        if action.action == "delete" and action.app in fleet.apps:
            work.leave += fleet.apps[action.app].instances.values()
    for spec in request.specs:
        before = fleet.apps[spec.name].spec if spec.name in fleet.apps else spec
        # What an earlier daemon left of an app that nothing was known of runs by nobody knows what.
        again = spec.name not in fleet.apps or must_restart(spec, before)
        stopped = _stopped(fleet, spec.name) if request.keep_stopped else ()
        stale = {one for one in fleet if one.app.spec.name == spec.name and one.stale}
        app = fleet.put(spec, environ_for(fleet, spec, request.environ))
        for instance in app.instances.values():
            if instance.index >= spec.instances:
                work.leave.append(instance)
                continue
            work.stay.append(instance)
            if instance in stopped:
                work.rest.append(instance)
            elif instance.down:
                if again or not is_finished(instance):
                    work.start.append(instance)
            elif instance.state.status == is_.STOPPING and not instance.state.desired:
                work.start.append(instance)
            elif again or instance in stale:
                (work.roll if _rolls(instance, spec, before) else work.restart).append(instance)
            elif request.reload:
                (work.roll if rolls(instance) else work.restart).append(instance)
            else:
                instance.born, instance.made = spec, app.made
                fleet.launcher.connect(instance)
                fleet.see_to(instance)
                if spec.limits != before.limits:
                    work.limit.append((instance, before.limits))
        fleet.gate(app)
    return work


def rolls(instance: "Instance") -> bool:
    """Whether it is reloaded without a gap, or where two cannot run beside each other, after the others of its app."""
    return instance.state.status == is_.RUNNING and takes_turns(instance.app.spec)


def _stopped(fleet: "Fleet", name: str) -> "list[Instance]":
    """Those of it that somebody has stopped."""
    app = fleet.apps.get(name)
    return [] if app is None else [one for one in app.instances.values() if not one.state.desired and not one.leaving]


def _rolls(instance: "Instance", spec: "Spec", before: "Spec") -> bool:
    return (
        instance.state.status == is_.RUNNING
        and can_roll(spec)
        and plumbing(spec) == plumbing(before)
        # Who shares a port with nobody keeps those from it who would share it.
        and spec.reuse_port == before.reuse_port
        and not _overlap(spec, before)
    )


def _overlap(spec: "Spec", before: "Spec") -> bool:
    """Whether an address can only be had once one that it replaces is given up."""
    had, wanted = addresses(before), addresses(spec)
    places = {one.place for one in had}
    return any(one.place not in places and meet(one, other) for one in wanted for other in had)

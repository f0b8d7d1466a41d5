"""What the daemon does for its clients: a method a request."""

import os
import time

from oxmgr import __version__
from oxmgr.lifecycle.events import Reset, Restart, Stop
from oxmgr.model import messages as m
from oxmgr.model.check import NUMBERS
from oxmgr.model.codec import replace
from oxmgr.model.signals import signal_name
from oxmgr.model.spec import Spec
from oxmgr.model.targets import selects
from oxmgr.supervisor import process
from oxmgr.supervisor.applies import Refusal, changes_of, check, environ_for, is_finished, put, rolls
from oxmgr.supervisor.feed import Feed
from oxmgr.supervisor.handover import PROGRAM_WORDS
from oxmgr.supervisor.rollouts import Rollouts
from oxmgr.supervisor.waiting import DOWN, GONE, UP, Waiter, Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oxmgr.model.places import Places
    from oxmgr.supervisor.control import Client
    from oxmgr.supervisor.desired import Desired, Draft
    from oxmgr.supervisor.events import Events
    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.handover import Handover
    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.instance import App, Instance
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.outputs import Outputs

INSTANCES_LIMIT = int(NUMBERS["instances"][1])


class Commands:
    """Ends the loop once the daemon is to end and every instance is down. `on_ending` is called once, when it is told
    to."""

    def __init__(
        self,
        fleet: "Fleet",
        desired: "Desired",
        events: "Events",
        health: "Health",
        places: "Places",
        outputs: "Outputs",
        loop: "Loop",
    ) -> None:
        self._fleet = fleet
        self._desired = desired
        self._events = events
        self._health = health
        self._places = places
        self._outputs = outputs
        self._loop = loop
        self.handover: Handover
        self._end = loop.stop
        self.on_ending: Callable[[], object] = lambda: None
        self._held_back: list[Instance] = []
        self.ending = False
        self._started_at = time.time()
        self._waiting = Waiting(fleet)
        self._rollouts = Rollouts(fleet, loop)
        fleet.probes.told = self._rollouts.on_change
        fleet.hooks.ended = self._end_when_down
        fleet.roll = lambda app, instances, in_turn: self._rollouts.begin_by_itself(app, instances, in_turn=in_turn)
        fleet.changed = self._on_change

    def handle(self, request: m.Request, client: "Client") -> None:
        """Answer it, now or later."""
        try:
            _HANDLERS[type(request)](self, request, client)
        except Refusal as refusal:
            client.finish(m.Failed(str(refusal), refusal.code))

    # --- reading ---

    def _get_instances(self, request: m.GetInstances, client: "Client") -> None:
        chosen = self._select(request.targets) if request.targets else list(self._fleet)
        client.finish(m.Instances([self._fleet.view(one) for one in chosen], self._health.warnings()))

    def _get_env(self, request: m.GetEnv, client: "Client") -> None:
        instance = self._select([request.target])[0]
        words = os.fsdecode(instance.app.environ).split("\0")
        env = dict(word.split("=", 1) for word in words if "=" in word)
        client.finish(m.Env(env | process.own_env(instance.app.spec, instance.index)))

    def _get_events(self, request: m.GetEvents, client: "Client") -> None:
        Feed(self._events, client, self._loop, request)

    def _get_daemon(self, request: m.GetDaemon, client: "Client") -> None:
        client.finish(
            m.DaemonView(
                pid=os.getpid(),
                version=__version__,
                started_at=self._started_at,
                apps=len(self._fleet.apps),
                instances=sum(1 for _ in self._fleet),
                state=self._places.state,
                run=self._places.run,
                logs=self._places.logs,
                warnings=self._health.warnings(),
                ladders=self._fleet.trees.ladders() | self._fleet.probes.ladders(),
                guard=self.handover.guard_pid or None,
            )
        )

    # --- apply ---

    def _apply(self, request: m.Apply, client: "Client") -> None:
        self._apply_by(request, client, lambda desired: request.specs)

    def _apply_by(self, request: m.Apply, client: "Client", specs: "Callable[[dict[str, Spec]], list[Spec]]") -> None:
        """`specs` says what is asked for, from what is desired by then."""
        check(self._fleet, self._places.logs, request.specs, prune=request.prune)
        if request.reload:
            self._refuse_when_rolling(spec.name for spec in request.specs)
        if request.plan_only:
            client.finish(m.Done(self._changes(request)))
            return
        self._refuse_when_ending()
        changed = self._changes(request)
        self._refuse_when_rolling(one.app for one in changed if one.action in ("change", "reload"))
        changes: list[m.Change] = []

        def change(draft: "Draft") -> None:
            # By what is desired, which is ahead of what is there by the changes that are being saved.
            desired = {name: app.spec for name, app in draft.apps.items()}
            request.specs = specs(desired)
            changes[:] = changes_of(self._fleet, request, desired)
            for action in changes:
                if action.action == "delete":
                    draft.drop(action.app)
            for spec in request.specs:
                stopped = draft.apps[spec.name].stopped if request.keep_stopped and spec.name in draft.apps else ()
                draft.put(spec, environ_for(self._fleet, spec, request.environ))
                for index in stopped:
                    draft.want(spec.name, index, index >= spec.instances)

        def saved(error: OSError | None) -> None:
            if not self._ends_meanwhile(client, error):
                self._carry_out(request, changes, client)

        self._commit(change, saved, client)

    def _changes(self, request: m.Apply) -> list[m.Change]:
        return changes_of(self._fleet, request, {name: app.spec for name, app in self._fleet.apps.items()})

    def _carry_out(self, request: m.Apply, changes: list[m.Change], client: "Client") -> None:
        """What was asked is desired. Now it is made true."""
        work = put(self._fleet, request, changes)
        for spec, action in zip(request.specs, changes, strict=False):
            if action.action in ("add", "change"):
                kind = "added" if action.action == "add" else "changed"
                self._events.tell(kind, app=spec.name, reason=", ".join(action.keys))
        self._leave(work.leave)
        self._fleet.turns.bring_down(work.restart, Restart())
        self._fleet.turns.start(work.start)
        goals = self._goals(work.leave, GONE)
        unmoved = (*work.roll, *work.rest)
        goals.update((one, UP) for one in work.stay if not (one.down and is_finished(one)) and one not in unmoved)
        self._fleet.change_limits(work.limit, lambda: self._wait(client, goals, work.stay, changes, rolls=work.roll))

    def _scale(self, request: m.Scale, client: "Client") -> None:
        app = self._fleet.apps.get(request.app)
        if app is None:
            raise Refusal(f"there is no app {request.app}: see oxmgr list", m.NO_SUCH_APP)

        def count(spec: Spec) -> int:
            return request.instances + (spec.instances if request.relative else 0)

        def scaled(desired: dict[str, Spec]) -> list[Spec]:
            spec = desired.get(request.app)
            return [] if spec is None else [replace(spec, instances=min(max(1, count(spec)), INSTANCES_LIMIT))]

        if not 1 <= count(app.spec) <= INSTANCES_LIMIT:
            raise Refusal(
                f"{request.app} cannot have {count(app.spec)} instances, but 1 to {INSTANCES_LIMIT}: "
                "to have none, stop or delete it"
            )
        apply = m.Apply(scaled({request.app: app.spec}), app.environ, keep_stopped=True)
        self._apply_by(apply, client, scaled)

    # --- act ---

    def _act(self, request: m.Act, client: "Client") -> None:
        act = _VERBS.get(request.verb)
        if act is None:
            raise Refusal(f"{request.verb!r} is nothing that can be done: {', '.join(_VERBS)}")
        self._refuse_when_ending()
        chosen = self._select(request.targets)
        if request.verb != "delete":
            going = [one for one in chosen if one.leaving]
            if going and len(going) == len(chosen):
                raise Refusal(f"{going[0].name} is being deleted: wait until it is, or apply it again", m.FAILED)
            chosen = [one for one in chosen if one not in going]
        act(self, chosen, request, client)

    def _start(self, chosen: "list[Instance]", request: m.Act, client: "Client") -> None:
        environs = {one.app.spec.name: one.app.environ for one in chosen}
        if request.environ is not None:
            environs = {
                name: environ_for(self._fleet, self._fleet.apps[name].spec, request.environ) for name in environs
            }

        def saved(error: OSError | None) -> None:
            if self._ends_meanwhile(client, error):
                return
            for name, environ in environs.items():
                if name in self._fleet.apps:
                    self._fleet.apps[name].environ = environ
            here = [one for one in chosen if not one.leaving]
            self._fleet.turns.start(here)
            self._wait(client, dict.fromkeys(here, UP), chosen)

        self._commit(lambda draft: _want(draft, chosen, True, environs), saved, client)

    def _stop(self, chosen: "list[Instance]", request: m.Act, client: "Client") -> None:
        self._give_up_rolling(chosen, "it was stopped")
        self._fleet.turns.bring_down(chosen, Stop())
        self._save_and_wait(chosen, False, DOWN, client)

    def _restart(self, chosen: "list[Instance]", request: m.Act, client: "Client") -> None:
        self._give_up_rolling(chosen, "it was restarted")
        start = [one for one in chosen if not one.state.pid and not one.app.spec.schedule]
        self._fleet.turns.start(start)
        self._fleet.turns.bring_down([one for one in chosen if one not in start], Restart(run=True))
        self._save_and_wait(chosen, True, UP, client)

    def _reload(self, chosen: "list[Instance]", request: m.Act, client: "Client") -> None:
        self._refuse_when_rolling(one.app.spec.name for one in chosen)
        roll = [one for one in chosen if rolls(one)]
        others = [one for one in chosen if one not in roll]
        self._fleet.turns.start([one for one in others if not one.state.pid])
        self._fleet.turns.bring_down([one for one in others if one.state.pid], Restart())
        self._save_and_wait(others, True, UP, client, shown=chosen, rolls=roll)

    def _refuse_when_rolling(self, names: "Iterable[str]") -> None:
        for name in names:
            app = self._fleet.apps.get(name)
            if app is not None and self._rollouts.is_running(app):
                raise Refusal(f"{name} is being reloaded: wait until that is done, or stop it", m.FAILED)

    def _give_up_rolling(self, chosen: "Iterable[Instance]", why: str) -> None:
        for app in dict.fromkeys(one.app for one in chosen):
            self._rollouts.give_up(app, why)

    def _save_and_wait(
        self,
        chosen: "list[Instance]",
        running: bool,
        goal: str,
        client: "Client",
        shown: "list[Instance] | None" = None,
        rolls: "Iterable[Instance]" = (),
    ) -> None:
        """For what is done at once: nobody who stops an app waits for a disk first."""
        self._commit(
            lambda draft: _want(draft, shown or chosen, running),
            lambda error: self._wait(client, self._goals(chosen, goal), shown or chosen, rolls=rolls),
            client,
        )

    def _goals(self, chosen: "Iterable[Instance]", goal: str) -> "dict[Instance, str]":
        """Also for those that they have replaced, when nothing of them is to be left."""
        goals = dict.fromkeys(chosen, goal)
        if goal != UP:
            numbers = {(one.app, one.index) for one in goals}
            goals.update((one, goal) for one in self._fleet.extras if (one.app, one.index) in numbers)
        return goals

    def _delete(self, chosen: "list[Instance]", request: m.Act, client: "Client") -> None:
        specs = {one.app.spec.name: one.app.spec for one in chosen}
        for name in specs:
            if any(one not in chosen for one in self._fleet.apps[name].instances.values()):
                raise Refusal(f"one instance of {name} cannot be deleted: stop it, or use oxmgr scale {name}")

        def drop(draft: "Draft") -> None:
            for name in specs:
                draft.drop(name)

        def saved(error: OSError | None) -> None:
            apps = [self._fleet.apps[name] for name in specs if name in self._fleet.apps]
            leave = [one for app in apps for one in app.instances.values()]
            self._leave(leave)
            self._wait(client, self._goals(leave, GONE), [])

        self._commit(drop, saved, client)

    def _reset(self, chosen: "list[Instance]", request: m.Act, client: "Client") -> None:
        for instance in chosen:
            self._fleet.send(instance, Reset())
        self._wait(client, {}, chosen)
        self._start_held()

    # --- to a process ---

    def _signal(self, request: m.SendSignal, client: "Client") -> None:
        if not 1 <= request.signal <= 64:
            raise Refusal(f"there is no signal {request.signal}")
        chosen = self._select(request.targets)
        failed = {
            one.name: f"there is no process to send {signal_name(request.signal)} to, its status is {one.state.status}"
            for one in chosen
            if not self._fleet.signal(one, request.signal)
        }
        client.finish(m.Done([], [self._fleet.view(one) for one in chosen], failed, self._health.warnings()))

    def _input(self, request: m.SendInput, client: "Client") -> None:
        chosen = self._select([request.target])
        if len(chosen) > 1:
            names = ", ".join(one.name for one in chosen)
            raise Refusal(f"{request.target} is more than one instance: name one of {names}")
        instance = chosen[0]
        if not instance.state.pid:
            raise Refusal(f"nobody would read it: the status of {instance.name} is {instance.state.status}", m.FAILED)
        try:
            self._fleet.write_stdin(instance, request.data)
        except BlockingIOError:
            raise Refusal(
                f"{instance.name} does not read its input, and no more fits in front of it", m.FAILED
            ) from None
        except OSError as error:
            raise Refusal(f"cannot write to {instance.name}: {error.strerror}", m.FAILED) from None
        client.finish(m.Done([], [self._fleet.view(instance)]))

    # --- logs ---

    def _flush_logs(self, request: m.FlushLogs, client: "Client") -> None:
        failed: dict[str, str] = {}
        chosen = self._select(request.targets)
        for instance in chosen:
            try:
                self._outputs.flush(instance)
            except OSError as error:
                failed[instance.name] = f"{error.filename or 'its log'}: {error.strerror}"
        client.finish(m.Done([], [self._fleet.view(one) for one in chosen], failed, self._health.warnings()))

    def _reopen_logs(self, request: m.ReopenLogs, client: "Client") -> None:
        chosen = self._select(request.targets)
        for instance in chosen:
            moved = [output.reopen() for output in instance.outputs]
            if any(moved):
                # Whoever follows its logs has to look elsewhere.
                self._events.tell("changed", app=instance.app.spec.name, reason="its log is another file")
        client.finish(m.Done([], [self._fleet.view(one) for one in chosen], {}, self._health.warnings()))

    # --- the end ---

    def _replace(self, request: m.ReplaceDaemon, client: "Client") -> None:
        self._refuse_when_ending()
        if len(request.argv) != PROGRAM_WORDS:
            raise Refusal("that does not start a daemon")

        def answer(why: str) -> None:
            if why:
                client.finish(m.Failed(f"nothing was changed: {why}"))
            else:
                self._events.tell("daemon-replaced")
                client.finish(m.Done())

        self.handover.replace(request.argv, answer, client.close)

    def _shutdown(self, request: m.StopDaemon, client: "Client") -> None:
        chosen = list(self._fleet)
        self._waiting.add(Waiter(dict.fromkeys(chosen, DOWN), client.progress, lambda failed: client.finish(m.Done())))
        self.shut_down()

    def shut_down(self, *, signalled: bool = False) -> None:
        """Stop everything in order; what is desired stays. The second call hurries."""
        if self.ending:
            self._fleet.turns.hurry()
            return
        self.ending = True
        self.on_ending()
        self._events.tell("daemon-stopping")
        if not self._desired.saved:
            self._desired.commit(lambda draft: None, lambda error: self._end_when_down())
        self._fleet.watches.end()
        self._give_up_rolling(self._fleet, "the daemon is stopping")
        self._fleet.turns.bring_down(list(self._fleet.everything()), Stop(keep=True, signalled=signalled))
        self._end_when_down()

    def _end_when_down(self) -> None:
        if (
            self.ending
            and self._desired.idle
            and self._fleet.hooks.idle
            and all(one.down or one.stuck for one in self._fleet.everything())
        ):
            self._end()

    def _refuse_when_ending(self) -> None:
        if self.ending:
            raise Refusal("the daemon is stopping: wait until it has, and try again", m.FAILED)

    # --- shared ---

    def start_first(self, instances: "list[Instance]", hold: float) -> None:
        """Start these; with `hold`, once the first change is made, or after so many seconds."""
        self._held_back = instances
        if hold and instances:
            self._loop.at(time.monotonic() + hold, self._start_held)
        else:
            self._start_held()

    def _start_held(self) -> None:
        held, self._held_back = self._held_back, []
        if self.ending:
            return
        self._fleet.turns.start([one for one in held if one.down and one.state.desired and self._fleet.has(one)])

    def _commit(
        self, change: "Callable[[Draft], None]", done: "Callable[[OSError | None], None]", client: "Client"
    ) -> None:
        def committed(error: OSError | None) -> None:
            try:
                done(error)
            except Exception as fault:
                client.finish(fault_reply(fault))
                raise
            finally:
                self._start_held()
                self._end_when_down()

        self._desired.commit(change, committed)

    def _ends_meanwhile(self, client: "Client", error: OSError | None) -> bool:
        """Whether the daemon was told to end while a change was being saved. Nothing is started any more then."""
        if self.ending:
            saved = "it is saved" if error is None else f"it cannot be saved ({error.strerror})"
            then = "the next one starts it" if error is None else "the next one will not know of it"
            client.finish(m.Failed(f"{saved}, and the daemon is stopping: {then}"))
        return self.ending

    def _select(self, targets: list[str]) -> "list[Instance]":
        chosen: dict[Instance, None] = {}
        for target in targets:
            found = [
                one for one in self._fleet if selects(target, one.app.spec.name, one.index, one.app.spec.namespace)
            ]
            if not found and target != "all":
                raise Refusal(f"there is no app or instance {target}: see oxmgr list", m.NO_SUCH_APP)
            chosen.update(dict.fromkeys(found))
        if not targets:
            raise Refusal("nothing was named: name an app, @namespace, or all")
        return list(chosen)

    def _leave(self, instances: "Iterable[Instance]") -> None:
        """Stop them and forget them."""
        instances = list(instances)
        self._give_up_rolling(instances, "it was deleted")
        for instance in instances:
            instance.leaving = True
            if instance.down:
                self._fleet.remove(instance)
        self._fleet.turns.bring_down([one for one in instances if not one.down], Stop())

    def _wait(
        self,
        client: "Client",
        goals: "dict[Instance, str]",
        shown: "list[Instance]",
        changes: "Iterable[m.Change]" = (),
        rolls: "Iterable[Instance]" = (),
    ) -> None:
        """Until all of it is as it is to be, and `rolls` are replaced."""
        by_app: dict[App, list[Instance]] = {}
        for instance in rolls:
            by_app.setdefault(instance.app, []).append(instance)
        left = 1 + len(by_app)
        why: dict[str, str] = {}

        def done(failed: dict[str, str]) -> None:
            nonlocal left
            left -= 1
            why.update(failed)
            if not left:
                finish(why)

        def finish(failed: dict[str, str]) -> None:
            current = dict.fromkeys(one.app.instances.get(one.index, one) for one in shown)
            here = [one for one in current if self._fleet.has(one)]
            warnings = [f"{one.app.spec.name}: {text}" for one in here for text in one.warnings]
            views = [self._fleet.view(one) for one in here]
            client.finish(m.Done(list(changes), views, failed, [*dict.fromkeys(warnings), *self._health.warnings()]))

        waiter = Waiter(goals, client.progress, done)
        # Whoever hangs up waits for nothing any more; what was asked for goes on.
        client.on_close.append(lambda: self._waiting.discard(waiter))
        for app, instances in by_app.items():
            self._rollouts.begin(app, instances, done)
        self._waiting.add(waiter)

    def _on_change(self, instance: "Instance") -> None:
        if instance.leaving and instance.down and self._fleet.has(instance):
            self._fleet.remove(instance)
        self._rollouts.on_change(instance)
        self._waiting.on_change(instance)
        self._end_when_down()


def fault_reply(fault: Exception) -> m.Failed:
    """Whoever asked must not wait for an answer for ever; the loop tells the log of the fault."""
    return m.Failed(f"a fault in the daemon, {type(fault).__name__}: its log has it, please report it")


def _want(
    draft: "Draft", instances: "list[Instance]", running: bool, environs: "dict[str, bytes] | None" = None
) -> None:
    for instance in instances:
        draft.want(instance.app.spec.name, instance.index, running)
    for name, environ in (environs or {}).items():
        draft.environ(name, environ)


_VERBS: "dict[str, Callable[[Commands, list[Instance], m.Act, Client], None]]" = {
    "start": Commands._start,
    "stop": Commands._stop,
    "restart": Commands._restart,
    "reload": Commands._reload,
    "delete": Commands._delete,
    "reset": Commands._reset,
}

_HANDLERS: "dict[type, Callable[..., None]]" = {
    m.Apply: Commands._apply,
    m.Act: Commands._act,
    m.Scale: Commands._scale,
    m.SendSignal: Commands._signal,
    m.SendInput: Commands._input,
    m.FlushLogs: Commands._flush_logs,
    m.ReopenLogs: Commands._reopen_logs,
    m.GetInstances: Commands._get_instances,
    m.GetEnv: Commands._get_env,
    m.GetEvents: Commands._get_events,
    m.GetDaemon: Commands._get_daemon,
    m.ReplaceDaemon: Commands._replace,
    m.StopDaemon: Commands._shutdown,
}

"""Every app and instance, and what happens to them: carries out what the lifecycle decides.

An exit is followed in one sitting: Exits.reap → `send` → lifecycle.machine.step → `_carry_out` → process.start.
"""

import os
import time

from oxmgr.lifecycle.dependencies import Dependency, unmet
from oxmgr.lifecycle.events import (
    END_REST,
    GATE,
    KILL,
    SIGNAL,
    SPAWN,
    Changed,
    Effect,
    Emptied,
    Event,
    Exceeded,
    Extended,
    Go,
    Hold,
    Note,
    SpawnFailed,
    State,
    Tick,
)
from oxmgr.lifecycle.machine import step
from oxmgr.model import messages
from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.model.signals import signal_name
from oxmgr.model.spec import Limits, Spec
from oxmgr.supervisor.chores import Chores
from oxmgr.supervisor.exits import Exits
from oxmgr.supervisor.hooks import HookRunner
from oxmgr.supervisor.instance import App, Instance
from oxmgr.supervisor.plan import fingerprint
from oxmgr.supervisor.probes import Probes
from oxmgr.supervisor.process import write_stdin
from oxmgr.supervisor.schedules import Schedules
from oxmgr.supervisor.soft_limits import SoftLimits
from oxmgr.supervisor.turns import Turns
from oxmgr.supervisor.views import observed, view
from oxmgr.supervisor.watches import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oxmgr.model.places import Places
    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.events import Events
    from oxmgr.supervisor.journal import Journal
    from oxmgr.supervisor.launcher import Launcher
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.trees import Trees

_BEGINS = ("started", "ready")
"""Notes with which a process is ready, if its status says so."""


class Fleet:
    """`changed` is called with an instance after each of its steps, once all of a step's effects are done."""

    def __init__(
        self,
        loop: "Loop",
        journal: "Journal",
        events: "Events",
        trees: "Trees",
        launcher: "Launcher",
        places: "Places",
        background: "Background",
    ) -> None:
        self.apps: dict[str, App] = trees.apps
        self.trees = trees
        self.launcher = launcher
        self.changed: Callable[[Instance], None] = lambda instance: None
        self.made: Callable[[Instance], None] = lambda instance: None
        self.unknown: dict[tuple[str, int], messages.Observed] = {}
        self.roll: Callable[[App, list[Instance], bool], bool] = lambda app, instances, in_turn: False
        """Replaces these without a gap, or in turn; false where that cannot be."""
        self._places = places
        self._loop = loop
        self._journal = journal
        self._events = events
        self._soft = SoftLimits(loop, trees, lambda instance, why: self.send(instance, Exceeded(why)))
        self.chores = Chores(loop, background, trees, launcher)
        self.hooks = launcher.hooks = HookRunner(self.chores, events)
        self.probes = Probes(loop, trees, self.chores, self.send, places.logs)
        self.probes.counted = lambda instance: self._journal.add(observed(instance))
        self.schedules = Schedules(loop, self.send, self._tell, self._note, self._roll)
        self.watches = Watches(loop, background, places, self.apps, self._on_files)
        launcher.later = self.send
        launcher.endpoints.send = self.send
        launcher.endpoints.save = lambda instance: journal.add(observed(instance))
        self.probes.held = launcher.endpoints.sockets.inodes
        launcher.beside, launcher.is_alone = self._beside, self.is_alone
        launcher.endpoints.sockets.extras = lambda app: [one for one in self.extras if one.app is app]
        self.extras: dict[Instance, None] = {}
        self.turns = Turns(self, loop)
        self.exits = Exits(self, loop)

    def __iter__(self) -> "Iterator[Instance]":
        for app in self.apps.values():
            yield from app.instances.values()

    def everything(self) -> "Iterator[Instance]":
        """Also those that were replaced and are not down yet, and those that are to replace one."""
        yield from self
        yield from list(self.extras)

    # --- what users do ---

    def has(self, instance: Instance) -> bool:
        """Whether it has not been removed."""
        return instance.app.instances.get(instance.index) is instance

    def put(self, spec: Spec, environ: bytes) -> App:
        """Add an app or change it. Instances that it has not got yet are made, stopped; those that are too many
        stay until they are removed."""
        app = self.apps.get(spec.name)
        if app is None:
            app = self.apps[spec.name] = App(spec, environ)
        app.spec, app.environ, app.made = spec, environ, fingerprint(spec)
        for index in range(spec.instances):
            instance = app.instances.get(index)
            if instance is None:
                instance = app.instances[index] = Instance(app, index)
                self.made(instance)
            # One that is on its way out stays after all: it is started again once it has stopped.
            instance.leaving = False
        return app

    def remove(self, instance: Instance) -> None:
        """Forget one that is down."""
        app = instance.app
        del app.instances[instance.index]
        self._give_up(instance)
        if not app.instances and self.apps.get(app.spec.name) is app:
            del self.apps[app.spec.name]
            self.schedules.update(app)
            self.watches.update(app)
            self._events.tell("deleted", app=app.spec.name)
            self._regate(app.spec.name)

    def add_extra(self, beside: Instance, run: int) -> Instance:
        """Another one of that number, which prints to the same pipes."""
        other = Instance(beside.app, beside.index, run)
        other.extra = True
        other.outputs, other.wired = beside.outputs, beside.wired
        self.extras[other] = None
        return other

    def swap(self, extra: Instance) -> Instance:
        """It takes the place of the one of its number, which is extra from now on and is returned."""
        before = extra.app.instances[extra.index]
        extra.app.instances[extra.index] = extra
        del self.extras[extra]
        self.extras[before] = None
        extra.extra, before.extra = False, True
        # In this order: should we die in between, the one that nothing is known of is the one that has to go.
        self._journal.add(observed(extra))
        self._journal.add(observed(before))
        return before

    def drop_extra(self, instance: Instance) -> None:
        """It is down."""
        self._leave_outputs(instance)
        del self.extras[instance]
        main = instance.app.instances.get(instance.index)
        if instance.outputs and main is not None and main.down and not main.outputs:
            # What its log has not taken yet waits with the one that has replaced it.
            main.outputs, main.wired, instance.outputs = instance.outputs, instance.wired, ()
            self.launcher.put_away(main)
        self._give_up(instance)

    def _beside(self, instance: Instance) -> Instance | None:
        if not self.extras:
            return None
        others = (one for one in self.everything() if one is not instance and one.outputs)
        return next((one for one in others if one.pipes == instance.pipes), None)

    def is_alone(self, instance: Instance) -> bool:
        """Whether there is no other one of its number."""
        return not instance.extra and all(one.pipes != instance.pipes for one in self.extras)

    def shares(self, instance: Instance) -> bool:
        """Whether another one prints to the same pipes."""
        if not self.extras:
            return False
        others = (one for one in self.everything() if one is not instance)
        return bool(instance.outputs) and any(one.outputs is instance.outputs for one in others)

    def _leave_outputs(self, instance: Instance) -> None:
        """Pipes that another one prints to are that one's from now on."""
        if self.shares(instance):
            instance.outputs = ()

    def _give_up(self, instance: Instance) -> None:
        self.trees.forget(instance)
        self.launcher.forget(instance)
        self.turns.forget(instance)
        gone = messages.Observed(instance.app.spec.name, instance.index, is_.STOPPED, gone=True)
        self._journal.add(replace(gone, run=instance.run, extra=instance.extra))
        try:
            os.unlink(self._places.stdin(instance.folder))
        except FileNotFoundError:
            pass

    def change_limits(self, instances: "list[tuple[Instance, Limits]]", done: "Callable[[], None]") -> None:
        """Give running instances the limits of their specs; those beside each are what they had. Then `done`."""
        left = len(instances)

        def changed() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        if not instances:
            done()
        for instance, before in instances:
            self._soft.update(instance)
            self.launcher.change_limits(instance, before, changed)

    def graph(self) -> dict[str, list[str]]:
        return {name: list(app.spec.depends_on) for name, app in self.apps.items()}

    # --- what happens to instances ---

    def send(self, instance: Instance, event: Event) -> None:
        """Take one step, and those that its effects bring with them."""
        old = instance.state
        notes: list[tuple[Note, State]] = []
        try:
            self._steps(instance, event, notes)
        finally:
            for note, state in notes:
                self._events.tell(note.kind, instance, state, note.reason)
            if instance.state is not old:
                self._after(instance, old)
            # Between the old state and this one may be more than one step.
            if instance.state.status == is_.RUNNING and any(note.kind in _BEGINS for note, _ in notes):
                self.hooks.after("post_start", instance)

    def take_up(self, instance: Instance, state: State) -> None:
        """It is as an earlier daemon had it."""
        old = instance.state
        instance.state = state
        self._after(instance, old)

    def _steps(self, instance: Instance, event: Event, notes: "list[tuple[Note, State]]") -> None:
        following: Event | None = event
        while following is not None:
            before, now = instance.state, time.monotonic()
            # Spreads restarts; nothing depends on it being unguessable.
            roll = time.monotonic_ns() % 1009 / 1009.0
            instance.state, effects = step(before, following, instance.app.spec, now, roll)
            following = None
            for effect in effects:
                if isinstance(effect, Note):
                    notes.append((effect, instance.state))
                else:
                    following = self._carry_out(instance, effect) or following

    def _after(self, instance: Instance, old: State) -> None:
        state = instance.state
        if state.deadline != old.deadline:
            if instance.timer is not None:
                instance.timer.cancel()
                instance.timer = None
            if state.deadline is not None:
                instance.timer = self._loop.at(state.deadline, lambda: self._on_deadline(instance))
        seen = observed(instance)
        self._journal.add(seen)
        self.launcher.notes.journaled(instance, seen)
        self._loop.call(self.see_to, instance)
        if instance.down and (old.pid or old.status == is_.STOPPING):
            self.hooks.after("post_stop", instance)
        self.changed(instance)
        if state.status != old.status or (state.pid > 0) != (old.pid > 0):
            self._regate(instance.app.spec.name)
            self.turns.on_change(instance)

    def _on_deadline(self, instance: Instance) -> None:
        self.send(instance, Tick(self.probes.missing(instance)))

    def see_to(self, instance: Instance) -> None:
        """What others have to do now that it has another state, or its app another spec."""
        state = instance.state
        if state.status == is_.STOPPING and not state.pid and instance.spawning is None:
            self.trees.watch(instance)
        else:
            self.trees.unwatch(instance)
        if instance.down:
            self._leave_outputs(instance)
            self.launcher.put_away(instance)
            self.hooks.drop(instance)
        self._soft.update(instance)
        self.probes.update(instance)
        self.launcher.endpoints.update(instance)
        self.schedules.update(instance.app)
        self.watches.update(instance.app)

    def _on_files(self, app: App, reason: str, at: float) -> None:
        """Something that it watches has changed. Who was started later has seen it; and what an app does to its files
        as it ends is no reason to end it again."""
        older = [one for one in app.instances.values() if one.started_at < at]
        # Whoever works on it wants all of it anew at once.
        for instance in self._roll(app, older, "watch", reason, in_turn=False):
            self.send(instance, Changed(reason))

    def _roll(
        self, app: App, instances: list[Instance], kind: str, reason: str, *, in_turn: bool = True
    ) -> list[Instance]:
        """Replace those that run, where that can be, and tell of it; those for whom something else is to be done."""
        running = [one for one in instances if one.state.status == is_.RUNNING]
        if not running or not self.roll(app, running, in_turn):
            return instances
        for instance in running:
            self._tell(kind, instance, reason)
        return [one for one in instances if one not in running]

    def _tell(self, kind: str, instance: Instance, reason: str) -> None:
        self._events.tell(kind, instance, instance.state, reason)

    def _note(self, app: App) -> None:
        for instance in app.instances.values():
            self._journal.add(observed(instance))

    def _carry_out(self, instance: Instance, effect: Effect) -> Event | None:
        """A fault in it must not leave the instance between two states: a start has failed then, and a stop is tried
        again when its deadline has come."""
        try:
            return self._effect(instance, effect)
        except Exception as fault:
            self._loop.failed(fault)
            why = f"a fault in the daemon, {type(fault).__name__}: its log has it, please report it"
            return SpawnFailed(f"cannot start {instance.name}: {why}") if effect == SPAWN else None

    def _effect(self, instance: Instance, effect: Effect) -> Event | None:
        if effect in (SIGNAL, END_REST, KILL):
            instance.untold = effect == SIGNAL
        if effect == SPAWN:
            return self.launcher.launch(instance)
        if effect == SIGNAL:
            # Should we die, whoever comes after us knows why it ends, and that it may not have been told to.
            self._journal.add(observed(instance))
            self.begin_stop(instance)
            # Its start is still being prepared: there is nothing to wait for. One that is under way will be told.
            return None if instance.process is not None or instance.spawning is not None else Emptied()
        if effect == END_REST:
            self.trees.signal(instance, instance.app.spec.stop_signal, "tree")
        if effect == KILL:
            self.launcher.kill_start(instance)
            if not self.trees.kill(instance) and instance.spawning is None:
                return Emptied()
            self._look_if_stuck(instance)
            return None
        if effect == GATE:
            why = unmet(instance.app.spec, self.dependencies(instance.app.spec))
            return Go() if why is None else Hold(why)
        return None

    def begin_stop(self, instance: Instance) -> None:
        """What is run before it, and then the stop signal."""

        def go(_: str) -> None:
            self._signal_stop(instance)
            self._journal.add(observed(instance))

        self.hooks.drop(instance)
        if instance.process is None or not self.hooks.before("pre_stop", instance, go):
            self._signal_stop(instance)

    def _signal_stop(self, instance: Instance) -> None:
        if instance.state.status != is_.STOPPING:
            return
        # Who was replaced, or is not to replace anyone, is not the only one that has its sockets.
        seconds = self.launcher.endpoints.drain(instance) if instance.extra else 0.0
        if seconds:
            self.send(instance, Extended(seconds + instance.app.spec.stop_timeout_ms / 1000.0))
            self._loop.at(time.monotonic() + seconds, lambda: self._on_drained(instance))
            return
        if not self.launcher.endpoints.send_shutdown(instance):
            self.trees.signal(instance, instance.app.spec.stop_signal, instance.app.spec.stop_mode)
        instance.untold = False

    def _on_drained(self, instance: Instance) -> None:
        # It may be down, or be killed already.
        if instance.untold and instance.state.status == is_.STOPPING:
            self._signal_stop(instance)
            self._journal.add(observed(instance))

    def _look_if_stuck(self, instance: Instance) -> None:
        main = instance.process
        if main is not None and main.refused:
            instance.stuck = f"pid {main.pid} has become another user's and cannot be killed: kill it as root"

    def dependencies(self, spec: Spec) -> dict[str, Dependency]:
        """How the apps stand that this one depends on."""
        found: dict[str, Dependency] = {}
        for name in spec.depends_on:
            app = self.apps.get(name)
            if app is not None:
                states = [(self._status(one), one.state.exit_code, one.state.pid > 0) for one in app.instances.values()]
                found[name] = Dependency(app.spec, states)
        return found

    def _status(self, instance: Instance) -> str:
        return is_.STOPPING if self.turns.is_held(instance) else instance.state.status

    def _regate(self, name: str) -> None:
        """Something of that app has changed: look again at those that wait for it."""
        for app in list(self.apps.values()):
            if name in app.spec.depends_on:
                self.gate(app)

    def gate(self, app: App) -> None:
        """Look whether those of it that wait for something may start."""
        for instance in [one for one in self.everything() if one.app is app]:
            if instance.state.status == is_.WAITING and instance.state.deadline is None:
                why = unmet(app.spec, self.dependencies(app.spec))
                self.send(instance, Go() if why is None else Hold(why))

    # --- to a process ---

    def signal(self, instance: Instance, number: int) -> bool:
        """To its main process; False when there is none."""
        main = instance.process
        if main is None or not main.signal(number):
            return False
        self._events.tell("signalled", instance, instance.state, signal_name(number))
        return True

    def write_stdin(self, instance: Instance, data: bytes) -> None:
        """All of it or an OSError: BlockingIOError when the app does not read what was sent before."""
        write_stdin(self._places.stdin(instance.folder), data)

    def view(self, instance: Instance) -> messages.InstanceView:
        return view(instance, self.launcher.outputs.files(instance), self.probes.health(instance))

"""Every app and instance, and what happens to them: carries out what the lifecycle decides.

An exit is followed from here in one sitting: `reaped` → `send` → lifecycle.machine.step → `_carry_out` → process.start.
"""

import os
import time
from _signal import SIGCONT

from oxmgr.lifecycle.dependencies import Dependency, unmet
from oxmgr.lifecycle.machine import (
    GATE,
    KILL,
    SIGNAL,
    SPAWN,
    Adopted,
    Effect,
    Emptied,
    Event,
    Exited,
    Go,
    Hold,
    Note,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
    Tick,
    step,
)
from oxmgr.model import messages
from oxmgr.model import status as is_
from oxmgr.model.graph import start_order
from oxmgr.model.signals import signal_name
from oxmgr.model.spec import Spec, instance_name, log_paths
from oxmgr.supervisor import native, process, tree
from oxmgr.supervisor.loop import HANGUP, READ
from oxmgr.supervisor.process import Process, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oxmgr.model.places import Places
    from oxmgr.supervisor.events import Events
    from oxmgr.supervisor.journal import Journal
    from oxmgr.supervisor.loop import Loop, Timer

REAP_PATIENCE = 2.0
"""Seconds to wait for an adopted process's real parent to reap it, which is when its exit code can be read."""


class Instance:
    """One copy of an app. `session` is the number of its last main process, whose session its tree is in;
    `foreign`: that process was an earlier daemon's child."""

    __slots__ = ("app", "foreign", "index", "leaving", "process", "session", "started_at", "state", "ticks", "timer")

    def __init__(self, app: "App", index: int) -> None:
        self.app = app
        self.index = index
        self.state = State()
        self.process: Process | None = None
        self.session = 0
        self.foreign = False
        self.started_at = 0.0
        self.ticks = 0
        self.timer: Timer | None = None
        self.leaving = False

    @property
    def name(self) -> str:
        return instance_name(self.app.spec.name, self.index, self.app.spec.instances)

    @property
    def down(self) -> bool:
        return self.state.status in is_.DOWN


class App:
    __slots__ = ("environ", "instances", "spec")

    def __init__(self, spec: Spec, environ: bytes) -> None:
        self.spec = spec
        self.environ = environ
        self.instances: dict[int, Instance] = {}


class Fleet:
    """`changed` is called with an instance after each of its steps, once all of a step's effects are done."""

    def __init__(self, places: "Places", loop: "Loop", journal: "Journal", events: "Events", limits: list[int]) -> None:
        self.apps: dict[str, App] = {}
        self.changed: Callable[[Instance], None] = lambda instance: None
        self._places = places
        self._loop = loop
        self._journal = journal
        self._events = events
        self._limits = limits
        self._mains: dict[int, Instance] = {}
        self._sessions: dict[int, Instance] = {}
        self._held: dict[Instance, Event] = {}
        self._sinking: set[Instance] = set()
        self._draining: set[Instance] = set()

    def __iter__(self) -> "Iterator[Instance]":
        for app in self.apps.values():
            yield from app.instances.values()

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
        app.spec, app.environ = spec, environ
        for index in range(spec.instances):
            # One that is on its way out stays after all: it is started again once it has stopped.
            app.instances.setdefault(index, Instance(app, index)).leaving = False
        return app

    def remove(self, instance: Instance) -> None:
        """Forget one that is down."""
        app = instance.app
        del app.instances[instance.index]
        self._sessions.pop(instance.session, None)
        self._held.pop(instance, None)
        self._journal.add(messages.Observed(app.spec.name, instance.index, is_.STOPPED, gone=True))
        try:
            os.unlink(self._places.stdin(f"{app.spec.name}:{instance.index}"))
        except FileNotFoundError:
            pass
        if not app.instances and self.apps.get(app.spec.name) is app:
            del self.apps[app.spec.name]
            self._events.tell("deleted", app=app.spec.name)
            self._regate(app.spec.name)

    def start(self, instances: "Iterable[Instance]") -> None:
        """Dependencies first, so that what waits for them sees them coming."""
        order = {name: at for at, name in enumerate(start_order(self.graph()))}
        for instance in sorted(instances, key=lambda one: order[one.app.spec.name]):
            self._held.pop(instance, None)
            self.send(instance, Start())

    def bring_down(self, instances: "Iterable[Instance]", event: Event) -> None:
        """Stop or Restart: those that others of them depend on wait until those are down."""
        self._held.update((instance, event) for instance in instances)
        self._release()

    def is_held(self, instance: Instance) -> bool:
        """Whether it is to be brought down as soon as others are."""
        return instance in self._held

    def graph(self) -> dict[str, list[str]]:
        return {name: list(app.spec.depends_on) for name, app in self.apps.items()}

    def _release(self) -> None:
        while True:
            self._sinking = {one for one in self._sinking if one.state.status in is_.LIVE}
            waited = {*self._sinking, *(one for one in self._held if one.state.status in is_.LIVE)}
            needed = {name for one in waited for name in one.app.spec.depends_on}
            ready = [one for one in self._held if one.app.spec.name not in needed]
            if not ready:
                return
            for instance in ready:
                event = self._held.pop(instance, None)
                if event is not None:
                    self._sinking.add(instance)
                    self.send(instance, event)

    def hurry(self) -> None:
        """Whatever is stopping is killed now."""
        for instance in list(self):
            if instance.state.status == is_.STOPPING:
                self.send(instance, Tick())

    # --- what happens to instances ---

    def send(self, instance: Instance, event: Event) -> None:
        """Take one step, and those that its effects bring with them."""
        old, notes = instance.state, []
        spec = instance.app.spec
        following: Event | None = event
        while following is not None:
            before, now = instance.state, time.monotonic()
            # Spreads restarts; nothing depends on it being unguessable.
            roll = time.monotonic_ns() % 1009 / 1009.0
            instance.state, effects = step(before, following, spec, now, roll)
            following = None
            for effect in effects:
                if isinstance(effect, Note):
                    notes.append((effect, instance.state))
                else:
                    following = self._carry_out(instance, effect) or following
        for note, state in notes:
            self._events.tell(note.kind, instance, state, note.reason)
        if instance.state is not old:
            self._after(instance, old)

    def _after(self, instance: Instance, old: State) -> None:
        state = instance.state
        if state.deadline != old.deadline:
            if instance.timer is not None:
                instance.timer.cancel()
                instance.timer = None
            if state.deadline is not None:
                instance.timer = self._loop.at(state.deadline, lambda: self.send(instance, Tick()))
        if state.status == is_.STOPPING and not state.pid and not instance.foreign:
            self._draining.add(instance)
        else:
            self._draining.discard(instance)
        self._journal.add(self.observed(instance))
        self.changed(instance)
        if state.status != old.status:
            self._regate(instance.app.spec.name)
            if self._held and state.status not in is_.LIVE:
                self._release()

    def _carry_out(self, instance: Instance, effect: Effect) -> Event | None:
        if effect == SPAWN:
            return self._spawn(instance)
        if effect == SIGNAL:
            self._signal_stop(instance)
        elif effect == KILL:
            return self._kill(instance)
        elif effect == GATE:
            why = unmet(instance.app.spec, self.dependencies(instance.app.spec))
            return Go() if why is None else Hold(why)
        return None

    def _spawn(self, instance: Instance) -> Event:
        app = instance.app
        try:
            started = process.start(app.spec, instance.index, app.environ, self._places, self._limits)
        except StartError as error:
            return SpawnFailed(str(error))
        self._take(instance, started)
        instance.started_at = time.time()
        instance.ticks = process.start_ticks(started.pid)
        return Spawned(started.pid)

    def _take(self, instance: Instance, main: Process) -> None:
        self._sessions.pop(instance.session, None)
        instance.process = main
        instance.session = main.pid
        instance.foreign = not main.child
        self._mains[main.pid] = self._sessions[main.pid] = instance

    def dependencies(self, spec: Spec) -> dict[str, Dependency]:
        """How the apps stand that this one depends on."""
        found: dict[str, Dependency] = {}
        for name in spec.depends_on:
            app = self.apps.get(name)
            if app is not None:
                states = [
                    (is_.STOPPING if one in self._held else one.state.status, one.state.exit_code)
                    for one in app.instances.values()
                ]
                found[name] = Dependency(app.spec, states)
        return found

    def _regate(self, name: str) -> None:
        """Something of that app has changed: look again at those that wait for it."""
        for app in list(self.apps.values()):
            if name in app.spec.depends_on:
                for instance in list(app.instances.values()):
                    if instance.state.status == is_.WAITING and instance.state.deadline is None:
                        why = unmet(app.spec, self.dependencies(app.spec))
                        self.send(instance, Go() if why is None else Hold(why))

    # --- signals and trees ---

    def signal(self, instance: Instance, number: int) -> bool:
        """To its main process; False when there is none."""
        main = instance.process
        if main is None or not main.signal(number):
            return False
        self._events.tell("signalled", instance, instance.state, signal_name(number))
        return True

    def write_stdin(self, instance: Instance, data: bytes) -> None:
        """All of it or an OSError: BlockingIOError when the app does not read what was sent before."""
        process.write_stdin(self._places.stdin(f"{instance.app.spec.name}:{instance.index}"), data)

    def _signal_stop(self, instance: Instance) -> None:
        main, spec = instance.process, instance.app.spec
        if main is None:
            return
        if spec.stop_mode == "main":
            main.signal(spec.stop_signal)
            main.signal(SIGCONT)
        elif spec.stop_mode == "group":
            main.signal_group(spec.stop_signal)
            main.signal_group(SIGCONT)
        else:
            tree.signal_trees([main.pid, *self._left_of(instance)], spec.stop_signal)

    def _kill(self, instance: Instance) -> Event | None:
        left = self._left_of(instance)
        if instance.process is not None:
            tree.kill_trees([instance.process.pid, *left])
            return None
        if not left:
            return Emptied()
        tree.kill_trees(left)
        return None

    def _left_of(self, instance: Instance) -> list[int]:
        """What lives of an instance beside what its main process has under it."""
        left = self._leftovers().get(instance, [])
        if instance.foreign:
            found = tree.in_session(instance.session, instance.app.spec.name, instance.index)
            left = [*left, *(pid for pid in found if pid not in left and pid not in self._mains)]
        return left

    def _leftovers(self) -> dict[Instance, list[int]]:
        """Our orphans, by the instance that they are of."""
        left: dict[Instance, list[int]] = {}
        for pid in tree.orphans(self._mains):
            try:
                owner = self._sessions.get(os.getsid(pid))
            except ProcessLookupError:
                continue
            if owner is None:
                app, index = tree.born_as(pid) or ("", 0)
                owner = self.apps[app].instances.get(index) if app in self.apps else None
            if owner is not None:
                left.setdefault(owner, []).append(pid)
        return left

    # --- ends ---

    def reap(self) -> None:
        """Children have ended: ours and orphans that came to us."""
        ended = []
        for pid, code, number in native.reap():
            instance = self._mains.get(pid)
            if instance is not None:
                ended.append((instance, code, number))
                self._let_go(instance)
        left = self._leftovers()
        drained = [one for one in self._draining if one not in left]
        for instance, code, number in ended:
            self._end(instance, code, number, empty=instance not in left)
        for instance in drained:
            self.send(instance, Emptied())

    def _let_go(self, instance: Instance) -> None:
        main = instance.process
        if main is not None:
            main.reaped = True
            del self._mains[main.pid]
            main.close()
            instance.process = None

    def _end(self, instance: Instance, code: int | None, number: int | None, *, empty: bool) -> None:
        held = self._held.get(instance)
        if isinstance(held, Stop):
            # It was to be stopped as soon as others are down; it must not be started for that.
            del self._held[instance]
            self.send(instance, held)
        self.send(instance, Exited(code, number, empty))

    # --- takeover ---

    def adopt(self, instance: Instance, seen: messages.Observed) -> bool:
        """Go on with a process that an earlier daemon started; False when it is not there any more."""
        main = process.adopt(seen.pid, seen.ticks)
        if main is None:
            return False
        self._take(instance, main)
        instance.started_at, instance.ticks = seen.started_at, seen.ticks
        self._loop.add(main.pidfd, READ, lambda events: self._on_foreign_end(instance, main, events))
        self.send(instance, Adopted(main.pid, max(0.0, time.time() - seen.started_at)))
        return True

    def kill_rest(self, instance: Instance, seen: messages.Observed) -> None:
        """End what an earlier daemon's main process, which is gone, has left behind."""
        left = tree.in_session(seen.pid, instance.app.spec.name, instance.index)
        if left:
            tree.kill_trees(left)

    def _on_foreign_end(self, instance: Instance, main: Process, events: int) -> None:
        ended = process.zombie_exit(main.pid)
        if ended is None:
            try:
                ended = native.pidfd_exit(main.pidfd)
            except BlockingIOError:
                if not events & HANGUP:
                    # Ended, not reaped, and not ours to look at: what is left to hear is the hang-up at the reaping.
                    self._loop.change(main.pidfd, 0)
                    later = time.monotonic() + REAP_PATIENCE
                    self._loop.at(later, lambda: self._foreign_ended(instance, main, (None, None)))
                    return
                ended = None, None
            except OSError:
                ended = None, None
        self._foreign_ended(instance, main, ended)

    def _foreign_ended(self, instance: Instance, main: Process, ended: tuple[int | None, int | None]) -> None:
        if instance.process is not main:
            return
        self._loop.remove(main.pidfd)
        self._let_go(instance)
        self._end(instance, *ended, empty=not self._left_of(instance))

    # --- views ---

    def observed(self, instance: Instance) -> messages.Observed:
        state = instance.state
        return messages.Observed(
            instance.app.spec.name,
            instance.index,
            state.status,
            state.pid,
            instance.ticks,
            instance.started_at,
            state.restarts,
            state.crashes,
            state.streak,
            state.exit_code,
            state.signal,
            state.reason,
        )

    def view(self, instance: Instance) -> messages.InstanceView:
        spec, state = instance.app.spec, instance.state
        out, err = log_paths(spec, instance.index, self._places.logs)
        alive = bool(state.pid)
        return messages.InstanceView(
            name=instance.name,
            app=spec.name,
            instance=instance.index,
            namespace=spec.namespace,
            status=state.status,
            desired=is_.RUNNING if state.desired else is_.STOPPED,
            pid=state.pid or None,
            restarts=state.restarts,
            exit_code=state.exit_code,
            signal=None if state.signal is None else signal_name(state.signal),
            reason=state.reason,
            ready=state.status == is_.RUNNING,
            health=None,
            started_at=instance.started_at if alive else None,
            uptime_ms=int((time.monotonic() - state.started) * 1000) if alive else None,
            cpu_percent=None,
            memory_bytes=None,
            tasks=None,
            command=spec.command,
            working_dir=spec.working_dir,
            log_file=out,
            error_log_file=err,
        )

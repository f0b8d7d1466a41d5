"""Replaces instances that run by others of their number, without a moment in which nobody does their work. What is done
when is decided by oxmgr.lifecycle.rollout."""

from oxmgr.lifecycle import rollout
from oxmgr.lifecycle.events import Start, Stop
from oxmgr.lifecycle.health import HEALTHY
from oxmgr.lifecycle.machine import describe_end
from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.model.spec import STARTED, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.instance import App, Instance
    from oxmgr.supervisor.loop import Loop

BY_PORT = ("listen", "tcp:", "http://")


def can_roll(spec: Spec) -> bool:
    """Whether two of it can run beside each other, and it is known when the second one does its work. Who is asked at a
    port of its own holds that port: the second one could not have it. But a socket that we hold is for both."""
    return spec.ready != STARTED and (bool(spec.listen) or not spec.ready.startswith(BY_PORT))


class Rollouts:
    """`on_change` is to be called with each instance after each of its steps."""

    def __init__(self, fleet: "Fleet", loop: "Loop") -> None:
        self._fleet = fleet
        self._loop = loop
        self._running: dict[App, _Running] = {}
        self.outdated: set[Instance] = set()
        """Those that go on as they were since their new one failed."""

    def is_running(self, app: "App") -> bool:
        return app in self._running

    def begin(self, app: "App", chosen: "list[Instance]", done: "Callable[[dict[str, str]], object]") -> None:
        """Replace these instances of an app; `done` is called with why one could not be, by its name."""
        running = self._running[app] = _Running(self._fleet, app, done)
        numbers = tuple(one.index for one in chosen)

        def go(why: str) -> None:
            if self._running.get(app) is running:
                if why:
                    running.state = rollout.Rollout(numbers, failed=(numbers[0], f"pre_reload: {why}"))
                else:
                    running.take(rollout.begin(numbers, app.spec.max_unavailable))
                self._look(app)

        if not self._fleet.hooks.before("pre_reload", chosen[0], go):
            go("")

    def begin_by_itself(self, app: "App", instances: "list[Instance]") -> bool:
        """The same, and nobody waits for its end; false where the app cannot be replaced so."""
        if not can_roll(app.spec):
            return False
        if not self.is_running(app):
            self.begin(app, instances, lambda failed: None)
        return True

    def give_up(self, app: "App", why: str) -> None:
        """Somebody wants something else of it."""
        running = self._running.get(app)
        if running is not None:
            for number in running.state.starting[:1]:
                running.take(rollout.failed(running.state, number, why, 1))
            running.state = replace(running.state, todo=())
            self._look(app)

    def on_change(self, instance: "Instance") -> None:
        running = self._running.get(instance.app)
        if running is not None:
            running.on_change(instance)
            self._look(instance.app)
        if instance.extra and instance.down and instance in self._fleet.extras and not _is_coming(running, instance):
            self._fleet.drop_extra(instance)

    def _look(self, app: "App") -> None:
        running = self._running.get(app)
        if running is not None and running.state.over:
            del self._running[app]
            failed = running.state.failed
            self.outdated = {one for one in self.outdated if not one.gone and not one.extra}
            if failed is not None:
                self.outdated.update(running.left)
            names = {} if failed is None else {running.name(failed[0]): failed[1]}
            self._loop.at(0.0, lambda: running.done(names))


def _is_coming(running: "_Running | None", instance: "Instance") -> bool:
    return running is not None and running.new.get(instance.index) is instance


class _Running:
    def __init__(self, fleet: "Fleet", app: "App", done: "Callable[[dict[str, str]], object]") -> None:
        self.state = rollout.Rollout(())
        self.new: dict[int, Instance] = {}
        self.done = done
        self._fleet = fleet
        self._app = app
        self._old: dict[int, Instance] = {}

    @property
    def left(self) -> "list[Instance]":
        """Those that were not replaced."""
        numbers = (*self.state.todo, *((self.state.failed[0],) if self.state.failed else ()))
        return [self._app.instances[number] for number in numbers if number in self._app.instances]

    def name(self, number: int) -> str:
        return self._app.instances[number].name if number in self._app.instances else self._app.spec.name

    @property
    def _width(self) -> int:
        return self._app.spec.max_unavailable

    def take(self, step: "rollout.Step") -> None:
        self.state, effects = step
        for effect, number in effects:
            if effect == rollout.START:
                self._start(number)
            elif effect == rollout.SWAP:
                self._swap(number)
            else:
                self._drop(number)

    def _start(self, number: int) -> None:
        old = self._app.instances.get(number)
        if old is None or old.down:
            self.take(rollout.failed(self.state, number, "it was stopped meanwhile", self._width))
            return
        # Its pipes are what the spec says by now.
        self._fleet.launcher.connect(old)
        taken = {one.run for one in self._fleet.everything() if one.app is self._app and one.index == number}
        run = next(run for run in range(old.run + 1, old.run + len(taken) + 2) if run not in taken)
        new = self.new[number] = self._fleet.add_extra(old, run)
        self._fleet.send(new, Start())

    def _swap(self, number: int) -> None:
        new = self.new.pop(number)
        old = self._old[number] = self._fleet.swap(new)
        self._fleet.send(old, Stop())

    def _drop(self, number: int) -> None:
        new = self.new.pop(number, None)
        if new is not None:
            self._fleet.send(new, Stop())
            if new.down and new in self._fleet.extras:
                self._fleet.drop_extra(new)

    def on_change(self, instance: "Instance") -> None:
        number, state = instance.index, instance.state
        if self._old.get(number) is instance and instance.down:
            del self._old[number]
            self.take(rollout.down(self.state, number, self._width))
        elif self.new.get(number) is instance:
            if state.status == is_.RUNNING and self._fleet.probes.health(instance) in (None, HEALTHY):
                self.take(rollout.ready(self.state, number, self._width))
            elif state.restarts or instance.down or state.status == is_.BACKOFF:
                why = state.reason or state.cause or describe_end(state.exit_code, state.signal)
                self.take(rollout.failed(self.state, number, f"it goes on as it was, for the new one failed: {why}", 1))

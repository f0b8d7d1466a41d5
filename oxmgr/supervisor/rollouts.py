"""Replaces instances that run by others of their number, without a moment in which nobody does their work. What is done
when is decided by oxmgr.lifecycle.rollout."""

import time

from oxmgr.lifecycle import rollout
from oxmgr.lifecycle.dependencies import blocked_for_good
from oxmgr.lifecycle.events import Restart, Start, Stop
from oxmgr.lifecycle.health import HEALTHY
from oxmgr.lifecycle.machine import describe_end
from oxmgr.model import status as is_
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


def takes_turns(spec: Spec) -> bool:
    """Whether its instances are replaced so that some of them are always there: beside their new ones, or one after the
    other."""
    return can_roll(spec) or (spec.instances > 1 and not spec.schedule)


class Rollouts:
    """`on_change` is to be called with each instance after each of its steps."""

    def __init__(self, fleet: "Fleet", loop: "Loop") -> None:
        self._fleet = fleet
        self._loop = loop
        self._running: dict[App, _Running] = {}

    def is_running(self, app: "App") -> bool:
        return app in self._running

    def begin(self, app: "App", chosen: "list[Instance]", done: "Callable[[dict[str, str]], object]") -> None:
        """Replace these instances of an app; `done` is called with why one could not be, by its name."""
        if app in self._running:
            # It was not when this was asked.
            refused = {chosen[0].name: "it is being reloaded already: try again when that is done"}
            self._loop.at(0.0, lambda: done(refused))
            return
        numbers = tuple(one.index for one in chosen)
        running = self._running[app] = _Running(self._fleet, app, numbers, done)

        def go(why: str) -> None:
            if self._running.get(app) is running:
                if why:
                    running.take(rollout.give_up(running.state, f"pre_reload: {why}"))
                else:
                    running.take(rollout.begin(running.state, app.spec.max_unavailable))
                self._look(app)

        if not self._fleet.hooks.before("pre_reload", chosen[0], go):
            go("")

    def begin_by_itself(self, app: "App", instances: "list[Instance]", *, in_turn: bool) -> bool:
        """The same, and nobody waits for its end; false where the app cannot be replaced so: beside its new one, or
        with `in_turn` one instance after the other. While it is being replaced, those that have begun before this are
        replaced after that."""
        if not (takes_turns(app.spec) if in_turn else can_roll(app.spec)):
            return False
        running = self._running.get(app)
        if running is None:
            self.begin(app, instances, lambda failed: None)
        else:
            running.again = time.time()
        return True

    def give_up(self, app: "App", why: str) -> None:
        """Somebody wants something else of it."""
        running = self._running.get(app)
        if running is not None:
            running.again = 0.0
            running.take(rollout.give_up(running.state, why))
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
        if running is not None and running.over:
            del self._running[app]
            failed = running.state.failed
            names = {} if failed is None else {running.name(failed[0]): failed[1]}
            self._loop.at(0.0, lambda: self._tell(app, running, names))

    def _tell(self, app: "App", running: "_Running", failed: dict[str, str]) -> None:
        running.done(failed)
        older = [one for one in app.instances.values() if one.started_at < running.again]
        older = [one for one in older if one.state.status == is_.RUNNING]
        if older:
            self.begin_by_itself(app, older, in_turn=True)


def _is_coming(running: "_Running | None", instance: "Instance") -> bool:
    return running is not None and running.new.get(instance.index) is instance


class _Running:
    """Of what can run beside its successor another one is started; of the rest, the same one again. `again`: those
    that have begun before this Unix time are to be replaced once more."""

    def __init__(
        self, fleet: "Fleet", app: "App", numbers: tuple[int, ...], done: "Callable[[dict[str, str]], object]"
    ) -> None:
        self.state = rollout.hold(numbers)
        self.new: dict[int, Instance] = {}
        self.done = done
        self.again = 0.0
        self._beside = can_roll(app.spec)
        self._fleet = fleet
        self._app = app
        self._old: dict[int, Instance] = {}
        self._before: dict[int, int] = {}
        self._dropped: list[Instance] = []

    @property
    def over(self) -> bool:
        """Also those that failed are down."""
        return self.state.over and all(one.down or one.stuck for one in self._dropped)

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
        if old is None or old.down or not old.state.desired or old.leaving:
            self.take(rollout.failed(self.state, number, "it was stopped meanwhile"))
        elif self._beside:
            # Its pipes are what the spec says by now.
            self._fleet.launcher.connect(old)
            taken = {one.run for one in self._fleet.everything() if one.app is self._app and one.index == number}
            run = next(run for run in range(old.run + 1, old.run + len(taken) + 2) if run not in taken)
            new = self.new[number] = self._fleet.add_extra(old, run)
            self._fleet.send(new, Start())
        else:
            self.new[number] = old
            self._before[number] = old.state.pid
            self._fleet.turns.bring_down([old], Restart())

    def _swap(self, number: int) -> None:
        new = self.new.pop(number)
        if new.extra:
            old = self._old[number] = self._fleet.swap(new)
            self._fleet.send(old, Stop())
        else:
            self.take(rollout.down(self.state, number, self._width))

    def _drop(self, number: int) -> None:
        new = self.new.pop(number, None)
        if new is not None and new.extra:
            self._dropped.append(new)
            self._fleet.send(new, Stop())
            if new.down and new in self._fleet.extras:
                self._fleet.drop_extra(new)

    def on_change(self, instance: "Instance") -> None:
        number = instance.index
        if self._old.get(number) is instance and instance.down:
            del self._old[number]
            self.take(rollout.down(self.state, number, self._width))
        elif self.new.get(number) is instance:
            self._judge(instance)

    def _judge(self, new: "Instance") -> None:
        state, number = new.state, new.index
        if not new.extra and state.pid == self._before[number]:
            return
        if state.status == is_.RUNNING and self._fleet.probes.health(new) in (None, HEALTHY):
            self.take(rollout.ready(self.state, number, self._width))
            return
        why = self._why_failed(new)
        if why:
            kept = "it goes on as it was, for the new one failed: " if new.extra else ""
            self.take(rollout.failed(self.state, number, f"{kept}{why}"))

    def _why_failed(self, new: "Instance") -> str:
        state, spec = new.state, new.app.spec
        if state.status == is_.WAITING and state.deadline is None:
            return blocked_for_good(spec, self._fleet.dependencies(spec)) or ""
        if new.down or state.status == is_.BACKOFF or (new.extra and state.restarts):
            return state.reason or state.cause or describe_end(state.exit_code, state.signal)
        return ""

"""Waits, for commands, until instances are as they were asked to be."""

from oxmgr.lifecycle.dependencies import blocked_for_good
from oxmgr.lifecycle.machine import awaits_time
from oxmgr.model import status as is_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.instance import Instance

UP = "up"
DOWN = "down"
GONE = "gone"


class Waiter:
    """`goals` is what each instance has to be: UP, DOWN or GONE (deleted). `progress` hears of each change on
    the way; `done` is called once, with why an instance (by name) will not get there by itself."""

    __slots__ = ("done", "failed", "goals", "progress")

    def __init__(
        self,
        goals: "dict[Instance, str]",
        progress: "Callable[[Instance], None]",
        done: "Callable[[dict[str, str]], None]",
    ) -> None:
        self.goals = goals
        self.progress = progress
        self.done = done
        self.failed: dict[str, str] = {}


class Waiting:
    def __init__(self, fleet: "Fleet") -> None:
        self._fleet = fleet
        self._waiters: list[Waiter] = []

    def add(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)
        self._judge(waiter, list(waiter.goals))
        for instance in waiter.goals:
            waiter.progress(instance)

    def discard(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def on_change(self, instance: "Instance") -> None:
        for waiter in list(self._waiters):
            if instance in waiter.goals:
                waiter.progress(instance)
                self._judge(waiter, [instance])

    def _judge(self, waiter: Waiter, instances: "list[Instance]") -> None:
        for instance in instances:
            verdict = self._verdict(instance, waiter.goals[instance])
            if verdict is not None:
                del waiter.goals[instance]
                if verdict:
                    waiter.failed[instance.name] = verdict
        if not waiter.goals and waiter in self._waiters:
            self._waiters.remove(waiter)
            waiter.done(waiter.failed)

    def _verdict(self, instance: "Instance", goal: str) -> str | None:
        """None: not decided yet. "": it is there. Else why it will not get there by itself, or not soon."""
        state, spec = instance.state, instance.app.spec
        if goal != UP and (instance.extra or instance.gone):
            return "" if instance.down or instance.gone else instance.stuck or None
        if instance.app.instances.get(instance.index) is not instance:
            return "" if goal == GONE else "it was deleted meanwhile" if instance.gone else "it was replaced meanwhile"
        if goal == GONE:
            return (instance.stuck or None) if instance.leaving else "it was asked for again meanwhile"
        if self._fleet.turns.is_waiting(instance):
            return None
        if instance.stuck:
            return instance.stuck
        if goal == DOWN:
            return "" if instance.down else None
        if state.status == is_.RUNNING:
            return ""
        if state.status == is_.EXITED:
            return "" if state.exit_code == 0 or state.exit_code in spec.stop_exit_codes else state.reason
        if state.status == is_.STOPPED:
            return "it was stopped meanwhile"
        if state.status in (is_.ERRORED, is_.BACKOFF):
            return state.reason
        if awaits_time(state, spec):
            # For when, is known in a moment.
            return "" if state.reason else None
        if state.status == is_.WAITING and state.deadline is None:
            return blocked_for_good(spec, self._fleet.dependencies(spec))
        return None

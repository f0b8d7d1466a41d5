"""Whose turn it is: dependencies start first and stop last, and many starts keep nothing else waiting."""

import time

from oxmgr.lifecycle.events import Event, Start, Stop, Tick
from oxmgr.model import status as is_
from oxmgr.model.graph import start_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop


SLICE = 0.01
"""Seconds of starts before the loop looks at anything else."""


class Turns:
    """Instances that are to be started as soon as there is time, and those that are to be brought down as soon as all
    that depend on them are down."""

    def __init__(self, fleet: "Fleet", loop: "Loop") -> None:
        self._fleet = fleet
        self._loop = loop
        self._queue: dict[Instance, None] = {}
        self._held: dict[Instance, Event] = {}
        self._sinking: set[Instance] = set()
        self._releasing = False

    def start(self, instances: "Iterable[Instance]") -> None:
        """Dependencies first, so that what waits for them sees them coming."""
        order = {name: at for at, name in enumerate(start_order(self._fleet.graph()))}
        for instance in instances:
            self._held.pop(instance, None)
            self._queue[instance] = None
        self._queue = dict.fromkeys(sorted(self._queue, key=lambda one: order[one.app.spec.name]))
        self._start_some()

    def _start_some(self) -> None:
        end = time.monotonic() + SLICE
        while self._queue:
            if time.monotonic() > end:
                self._loop.at(0.0, self._start_some)
                return
            instance = next(iter(self._queue))
            del self._queue[instance]
            before = instance.state
            self._loop.call(self._fleet.send, instance, Start())
            if instance.state is before:
                # It ran already. Whoever waits for it waited for its turn.
                self._fleet.changed(instance)

    def bring_down(self, instances: "Iterable[Instance]", event: Event) -> None:
        """Stop or Restart: those that others of them depend on wait until those are down."""
        for instance in instances:
            self._queue.pop(instance, None)
            self._held[instance] = event
        self._release()

    def wait_for(self, instances: "Iterable[Instance]") -> None:
        """These are stopping already: what they depend on is brought down after them."""
        self._sinking.update(instances)

    def is_waiting(self, instance: "Instance") -> bool:
        """To be started, or brought down."""
        return instance in self._held or instance in self._queue

    def is_held(self, instance: "Instance") -> bool:
        """Whether it is to be brought down."""
        return instance in self._held

    def take_stop(self, instance: "Instance") -> "Stop | None":
        """It has ended before its turn to be stopped came: whoever takes this sends it."""
        held = self._held.get(instance)
        if not isinstance(held, Stop):
            return None
        del self._held[instance]
        return held

    def forget(self, instance: "Instance") -> None:
        self._held.pop(instance, None)
        self._queue.pop(instance, None)

    def on_change(self, instance: "Instance") -> None:
        """Something may have waited for it."""
        if self._held and instance.state.status != is_.STOPPING:
            self._release()

    def _release(self) -> None:
        if self._releasing:
            return  # within a step that one further up has had taken, which looks again
        self._releasing = True
        try:
            self._release_all()
        finally:
            self._releasing = False

    def _release_all(self) -> None:
        while True:
            self._sinking = {one for one in self._sinking if one.state.status == is_.STOPPING}
            waited = {*self._sinking, *(one for one in self._held if one.state.status in is_.LIVE)}
            needed = {name for one in waited for name in one.app.spec.depends_on}
            ready = [one for one in self._held if one.app.spec.name not in needed]
            if not ready:
                return
            for instance in ready:
                event = self._held.pop(instance, None)
                if event is not None:
                    self._sinking.add(instance)
                    self._loop.call(self._fleet.send, instance, event)

    def hurry(self) -> None:
        """Whatever is stopping is killed at once, and what waits for it is stopped."""
        for instance, event in list(self._held.items()):
            del self._held[instance]
            self._loop.call(self._fleet.send, instance, event)
        for instance in list(self._fleet.everything()):
            if instance.state.status == is_.STOPPING:
                self._fleet.send(instance, Tick())

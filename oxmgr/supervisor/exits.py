"""How ends come to instances: children are reaped, and what an app printed is in its log before anybody is told."""

from oxmgr.lifecycle.events import Emptied
from oxmgr.model.codec import replace
from oxmgr.supervisor import native
from oxmgr.supervisor.process import start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.orphans import Look


class Exits:
    def __init__(self, fleet: "Fleet", loop: "Loop") -> None:
        self._fleet = fleet
        self._loop = loop
        self._trees = fleet.trees
        self._launcher = fleet.launcher
        self._unclaimed: dict[int, tuple[int | None, int | None]] = {}
        self._trees.emptied = self._emptied
        self._launcher.claim = self._claim

    def reap(self) -> None:
        """Children have ended: ours and orphans that came to us."""
        while self._reap_some() == native.REAPED:
            pass

    def _reap_some(self) -> int:
        reaped = native.reap()
        ended = []
        for pid, code, number in reaped:
            instance = self._trees.mains.get(pid)
            if instance is not None:
                ended.append((instance, code, number))
                self._let_go(instance)
                continue
            self._trees.reaped(pid)
            self._loop.call(self._fleet.chores.ended, pid, (code, number))
            if self._launcher.in_flight:
                # Perhaps one that a thread has just made and nobody has told us of yet.
                self._unclaimed[pid] = code, number
        orphans = self._trees.orphans()
        for instance, code, number in ended:
            self._loop.call(self._ended_here, instance, code, number, orphans)
        self._trees.check(orphans)
        return len(reaped)

    def _let_go(self, instance: "Instance") -> None:
        instance.stuck = ""
        self._trees.let_go(instance)

    def _ended_here(self, instance: "Instance", code: int | None, number: int | None, look: "Look") -> None:
        if not self._goes_on(instance):
            self.ended(instance, code, number, empty=self._trees.is_empty(instance, look))

    def _goes_on(self, instance: "Instance") -> bool:
        """Whether another process is its main one from now on."""
        main = self._launcher.endpoints.successor(instance)
        if main is None:
            return False
        self._trees.take(instance, main)
        instance.ticks = start_ticks(main.pid)
        self._fleet.take_up(instance, replace(instance.state, pid=main.pid))
        return True

    def _claim(self, instance: "Instance") -> None:
        """A thread's start is known now; its end may have come before."""
        main = instance.process
        end = None if main is None else self._unclaimed.pop(main.pid, None)
        if not self._launcher.in_flight:
            self._unclaimed.clear()
        if end is not None:
            self._let_go(instance)
            self._ended_here(instance, *end, self._trees.orphans())

    def ended(self, instance: "Instance", code: int | None, number: int | None, *, empty: bool) -> None:
        """Its main process has, and is let go. What it printed is in its log before anybody is told."""
        self._take_last_lines(instance, empty)
        held = self._fleet.turns.take_stop(instance)
        if held is not None:
            # It was to be stopped as soon as others are down; it must not be started for that.
            self._fleet.send(instance, held)
        self._fleet.send(instance, self._launcher.end_of(instance, code, number, empty))

    def _emptied(self, instance: "Instance") -> None:
        self._take_last_lines(instance, True)
        self._fleet.send(instance, Emptied())

    def _take_last_lines(self, instance: "Instance", empty: bool) -> None:
        # Pipes that another one still prints to have no last line yet.
        alone = not self._fleet.shares(instance)
        for output in instance.outputs:
            # Whatever becomes of a line, the end is told of.
            self._loop.call(output.finish if empty and alone else output.drain)

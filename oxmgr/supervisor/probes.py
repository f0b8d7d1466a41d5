"""Finds out whether apps are ready, and whether they are healthy. An app that asks for neither costs nothing.

Probes run beside each other; each asks once and tells what it found.
"""

import time

from oxmgr.lifecycle.events import Event, Failing, Ready
from oxmgr.lifecycle.health import HEALTHY, UNHEALTHY, Health, judge
from oxmgr.model import status as is_
from oxmgr.model.spec import HealthCheck
from oxmgr.supervisor import owners
from oxmgr.supervisor.asking import OTHERS, Asking
from oxmgr.supervisor.matching import Matching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.chores import Chore, Chores
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.trees import Trees

    Send = Callable[[Instance, Event], None]

FIRST_LOOK, LAST_LOOK = 0.01, 0.5
"""Seconds between two questions to an app that starts: twice as many each time."""
ASKED = 2.0
"""Seconds for one answer of an app that starts."""
UNKNOWN = "starting"
"""The health of who has not been asked yet."""
SIBLINGS = 20
"""How often in a row another may answer at a port that several instances share, before that is a result too."""

_UNKNOWN = HealthCheck()


class Probes:
    """`send` is called with what an instance is found to be, `told` with one whose health is another."""

    def __init__(self, loop: "Loop", trees: "Trees", chores: "Chores", send: "Send") -> None:
        self.told: Callable[[Instance], object] = lambda instance: None
        self.counted: Callable[[Instance], object] = lambda instance: None
        """Called with one that has failed another time in a row, or does not any more."""
        self.held: Callable[[Instance], set[int]] = lambda instance: set()
        """The inodes of sockets that it was born with."""
        self._loop = loop
        self._trees = trees
        self._chores = chores
        self._send = send
        self._waiting: dict[Instance, _Waiting] = {}
        self._checked: dict[Instance, _Checked] = {}

    def update(self, instance: "Instance") -> None:
        """Its status or its spec has changed."""
        state, spec = instance.state, instance.app.spec
        pid = state.pid
        wait = self._waiting.get(instance)
        # With held sockets, it tells itself when it has taken one; what else it listens at says nothing of that.
        tells = spec.ready == "listen" and bool(spec.listen)
        starting = state.status == is_.STARTING and pid > 0 and is_asked(spec.ready) and not tells
        if wait is not None and not (starting and wait.pid == pid and wait.ready == spec.ready):
            del self._waiting[instance]
            wait.close()
            wait = None
        if starting and wait is None:
            self._waiting[instance] = _Waiting(self, instance)
        check = self._checked.get(instance)
        # By the spec that it was started by: what its app is to be by now may be asked for something else.
        wanted = instance.born.health_check if instance.born is not None else _UNKNOWN
        running = state.status == is_.RUNNING and bool(wanted.probe)
        if check is not None and not (running and check.pid == pid and check.check == wanted):
            del self._checked[instance]
            check.close()
            check = None
        if running and check is None:
            self._checked[instance] = _Checked(self, instance)

    def health(self, instance: "Instance") -> str | None:
        """ "" while nothing is known yet, None when it is not checked."""
        check = self._checked.get(instance)
        return None if check is None else check.health.status

    # --- for those below ---

    @property
    def loop(self) -> "Loop":
        return self._loop

    def send(self, instance: "Instance", event: Event) -> None:
        self._send(instance, event)

    def pids(self, instance: "Instance") -> list[int]:
        return self._trees.pids(instance)

    def ask(
        self, instance: "Instance", probe: str, timeout: float, done: "Callable[[str], object]"
    ) -> "Asking | Chore | None":
        """What is asked, to be closed; None when it is answered already."""
        try:
            if probe.startswith("command:"):
                return self._chores.run(instance, probe.removeprefix("command:"), timeout, done)
            return Asking(self._loop, probe, timeout, lambda: self.pids(instance), done)
        except OSError as error:
            why = error.strerror or str(error)
            self._loop.at(time.monotonic() + FIRST_LOOK, lambda: done(why))
            return None

    def listens(self, instance: "Instance") -> bool:
        """Whether some process of it listens, at a socket that it has made itself."""
        pids = self.pids(instance)
        if not pids:
            return False
        there = owners.listeners(pids[0]) | owners.unix_listeners(pids[0])
        return bool(owners.inodes(pids) & there - self.held(instance))


def is_asked(ready: str) -> bool:
    """Whether we find out ourselves that it is ready; else it says so through what it was born with."""
    return ready == "listen" or ready.startswith(("tcp:", "http://", "command:", "log:"))


class _Waiting:
    """Until an instance is ready."""

    def __init__(self, probes: Probes, instance: "Instance") -> None:
        self.pid = instance.state.pid
        self.ready = instance.app.spec.ready
        self._probes = probes
        self._instance = instance
        self._look = FIRST_LOOK
        self._asking: Asking | Chore | Matching | None = None
        self._timer: Timer | None = None
        self._over = False
        if self.ready.startswith("log:"):
            self._asking = Matching(probes.loop, instance, self.ready.removeprefix("log:"), self._answered)
        else:
            self._later()

    def _later(self) -> None:
        self._timer = self._probes.loop.at(time.monotonic() + self._look, self._ask)
        self._look = min(LAST_LOOK, self._look * 2)

    def _ask(self) -> None:
        self._timer = None
        if self.ready == "listen":
            self._answered("" if self._probes.listens(self._instance) else "it does not listen yet")
        else:
            self._asking = self._probes.ask(self._instance, self.ready, ASKED, self._answered)

    def _answered(self, why: str) -> None:
        self._asking = None
        if self._over:
            return
        if why:
            self._later()
        else:
            self._probes.send(self._instance, Ready())

    def close(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.close()


class _Checked:
    """One that runs and has a health check."""

    def __init__(self, probes: Probes, instance: "Instance") -> None:
        self.pid = instance.state.pid
        self.check: HealthCheck = _UNKNOWN if instance.born is None else instance.born.health_check
        self.health = Health(row=-instance.failures)
        self._probes = probes
        self._instance = instance
        self._asking: Asking | Chore | None = None
        self._siblings = 0
        self._over = False
        self._timer: Timer | None = None
        self._at(self.check.initial_delay_secs)

    def _at(self, seconds: float) -> None:
        self._timer = self._probes.loop.at(time.monotonic() + seconds, self._ask)

    def _ask(self) -> None:
        self._timer = None
        self._asking = self._probes.ask(self._instance, self.check.probe, self.check.timeout_secs, self._answered)

    def _answered(self, why: str) -> None:
        self._asking = None
        if self._over:
            return
        if why == OTHERS and self._siblings < SIBLINGS:
            # Several instances share the port: whoever is free takes a connection.
            self._siblings += 1
            self._at(FIRST_LOOK)
            return
        self._siblings = 0
        before = self.health.status
        self.health = judge(self.health, self.check, not why)
        if self.health.status == UNHEALTHY:
            times = "once" if self.check.unhealthy_threshold == 1 else f"{-self.health.row} times in a row"
            self._over = True
            self._probes.send(self._instance, Failing(f"unhealthy: {self.check.probe} failed {times}: {why}"))
            return
        failures = max(0, -self.health.row)
        if failures != self._instance.failures:
            self._instance.failures = failures
            self._probes.counted(self._instance)
        self._at(self.check.interval_secs)
        if self.health.status != before:
            self._probes.told(self._instance)

    def close(self) -> None:
        self._over = True
        self._instance.failures = 0
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.close()


__all__ = ["HEALTHY", "Probes", "is_asked"]

"""Finds out whether apps are ready, and whether they are healthy. An app that asks for neither costs nothing.

Probes run beside each other; each asks once and tells what it found.
"""

import time

from oxmgr.lifecycle.events import Event, Failing, Ready
from oxmgr.lifecycle.health import HEALTHY, UNHEALTHY, Health, judge
from oxmgr.model import status as is_
from oxmgr.model.logpaths import log_paths
from oxmgr.model.spec import HealthCheck
from oxmgr.supervisor import native
from oxmgr.supervisor.asking import CLOSED, OTHERS, Asked, Asking
from oxmgr.supervisor.matching import Matcher, Matching
from oxmgr.supervisor.owners import NO_FAULT
from oxmgr.supervisor.sockdiag import SockDiag

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
OTHERS_LOOK = 0.01
"""Seconds until an instance is asked again when another one has taken the connection,"""
OTHERS_MOST = 50
"""so often in a row; then it is left for some time."""
FDS = 128
"""So many are looked at here; where there are more, a thread looks."""
NO_LIMIT = (1 << 63) - 1
NO_ANSWER = "no answer yet"

_UNKNOWN = HealthCheck()


class Probes:
    """`send` is called with what an instance is found to be, `told` with one whose health is another. `logs` is the log
    folder."""

    def __init__(self, loop: "Loop", trees: "Trees", chores: "Chores", send: "Send", logs: str) -> None:
        self.told: Callable[[Instance], object] = lambda instance: None
        self.counted: Callable[[Instance], object] = lambda instance: None
        """Called with one that has failed another time in a row, or does not any more."""
        self.held: Callable[[Instance], set[int]] = lambda instance: set()
        """The inodes of sockets that it was born with."""
        self.logs = logs
        self._loop = loop
        self._trees = trees
        self._chores = chores
        self._send = send
        self._waiting: dict[Instance, _Waiting] = {}
        self._checked: dict[Instance, _Checked] = {}
        self._diag = SockDiag()
        self.matcher = Matcher(loop)

    def ladders(self) -> dict[str, str]:
        """How it is found out whose a socket is, as words."""
        return {"sockets": self._diag.rung()}

    def missing(self, instance: "Instance") -> str:
        """What an instance that is not ready was asked last, and how it went; "" when it is not asked."""
        wait = self._waiting.get(instance)
        if wait is None:
            return ""
        return wait.last if wait.ready == "listen" else f"{wait.ready}: {wait.last}"

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

    def ask(
        self, instance: "Instance", probe: str, timeout: float, done: "Callable[[str], object]"
    ) -> "Asking | Chore | None":
        """What is asked, to be closed; None when it is answered already."""
        if not probe.startswith("command:"):
            asked = Asked(lambda inodes, then: self.holds(instance, inodes, then), lambda: self.held(instance))
            return Asking(self._loop, self._diag, probe, timeout, asked, done)
        try:
            return self._chores.run(instance, probe.removeprefix("command:"), timeout, done)
        except OSError as error:
            why = f"{NO_FAULT}{error.strerror}"
            self._loop.at(0.0, lambda: done(why))
            return None

    def holds(self, instance: "Instance", inodes: list[int], then: "Callable[[str], None]") -> None:
        """Call back, at once or later, with whether a process of it has one of these sockets: HAS, HAS_NOT, HIDDEN
        or UNKNOWN. The main process is looked at first, and for most that is all."""
        main = [instance.process.pid] if instance.process is not None else []
        if native.has_socket(main, inodes, FDS) == native.HAS:
            then(native.HAS)
            return
        pids = self._trees.pids(instance)
        answer = native.has_socket(pids, inodes, FDS)
        if answer != native.UNFINISHED:
            then(answer)
            return
        found = [native.UNKNOWN]

        def look() -> None:
            found[0] = native.has_socket(pids, inodes, NO_LIMIT)

        self._chores.background.run(look, lambda _: then(found[0]))

    def listens(self, instance: "Instance", done: "Callable[[str], None]") -> None:
        """Whether some process of it listens, at a socket that it has made itself."""
        pids = self._trees.pids(instance)
        try:
            there = {*self._diag.listening(pids[0])} - self.held(instance) if pids else set()
        except OSError as error:
            done(f"{NO_FAULT}{error.strerror}")
            return
        self.holds(instance, [*there], lambda answer: done("" if answer == native.HAS else "it does not listen"))


def is_asked(ready: str) -> bool:
    """Whether we find out ourselves that it is ready; else it says so through what it was born with."""
    return ready == "listen" or ready.startswith(("tcp:", "http://", "command:", "log:"))


class _Waiting:
    """Until an instance is ready. `last` says how it went when it was asked last."""

    def __init__(self, probes: Probes, instance: "Instance") -> None:
        self.pid = instance.state.pid
        self.ready = instance.app.spec.ready
        self.last = NO_ANSWER
        self._probes = probes
        self._instance = instance
        self._look = FIRST_LOOK
        self._others = 0
        self._asking: Asking | Chore | Matching | None = None
        self._timer: Timer | None = None
        self._over = False
        if self.ready.startswith("log:"):
            files = instance.marks or dict.fromkeys(log_paths(instance.app.spec, instance.index, probes.logs), -1)
            self._asking = probes.matcher.wait(instance, self.ready.removeprefix("log:"), files, self._answered)
            self.last = "no such line has come"
        else:
            self._later()

    def _later(self) -> None:
        self._timer = self._probes.loop.at(time.monotonic() + self._look, self._ask)
        self._look = min(LAST_LOOK, self._look * 2)

    def _ask(self) -> None:
        self._timer = None
        if self.ready == "listen":
            self._probes.listens(self._instance, self._answered)
        else:
            self._asking = self._probes.ask(self._instance, self.ready, ASKED, self._answered)

    def _answered(self, why: str) -> None:
        self._asking = None
        if self._over:
            return
        if not why:
            self._probes.send(self._instance, Ready())
            return
        self.last = why
        self._others = self._others + 1 if why in (OTHERS, CLOSED) else 0
        if 0 < self._others <= OTHERS_MOST:
            self._look = OTHERS_LOOK
        if not self.ready.startswith("log:"):
            self._later()

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
        self._others = 0
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
        if why.startswith(NO_FAULT):
            self._at(min(LAST_LOOK, self.check.interval_secs))
        elif why not in (OTHERS, CLOSED):
            self._others = 0
            self._judge(why)
        elif self._others < OTHERS_MOST:
            # Several instances share the port: whoever is free takes a connection.
            self._others += 1
            self._at(OTHERS_LOOK)
        else:
            self._others = 0
            if self._instance.extra and not self.health.status:
                # What is to replace another has to show that it works: nobody waits for that for ever.
                self._judge(why)
            else:
                self._at(self.check.interval_secs)

    def _judge(self, why: str) -> None:
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

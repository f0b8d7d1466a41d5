"""What is special to the daemon of `oxmgr runtime`: what it does first, what the signals that its guard gets do, when
it all ends, and with which exit code."""

import os
import time
from _signal import SIGHUP, SIGINT, SIGQUIT, SIGRTMIN, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH  # type: ignore[attr-defined]

from oxmgr.lifecycle.dependencies import blocked_for_good
from oxmgr.model import messages
from oxmgr.model import status as is_
from oxmgr.model.codec import Decoder, replace
from oxmgr.model.spec import ALL, ANY, TERMINAL
from oxmgr.supervisor.applies import check
from oxmgr.supervisor.network import is_loopback_down
from oxmgr.supervisor.sinks import open_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.messages import Event
    from oxmgr.supervisor.commands import Commands
    from oxmgr.supervisor.desired import Desired, Draft
    from oxmgr.supervisor.fleet import Fleet
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.logfile import Log
    from oxmgr.supervisor.loop import Loop

PASSED_ON = (SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH)
"""And the real-time ones."""
TYPED = (SIGHUP, SIGINT, SIGQUIT)
BEGUN = "begun"
APPLIED = "applied"
ENDING = "ending "
STOP_BY = "stop by "
"""What the guard keeps: that the journal is of this run of the container, that the apps of the order are desired, that
the end has begun, with which code behind it, and that a signal has asked for it, with the number of the one by which
the apps are stopped. A stop by SIGTERM it knows itself."""
HURRY_AGAIN = 0.5
REST = 1.0
"""Seconds that what is no app's has at the end, whatever the apps took, unless the grace is shorter."""
TOLD = {True: ("errored", "oom"), False: ("errored", "oom", "crashed", "killed", "limit")}
"""The events that go to standard error, for there nobody asks for them: of a command, of an oxfile's apps."""


def _read_order(fd: int) -> messages.Runtime:
    """What the file holds, which stays open for those that come after us. ValueError."""
    os.set_inheritable(fd, False)
    order: messages.Runtime = Decoder(messages.Runtime).decode(os.pread(fd, os.fstat(fd).st_size, 0))
    return order


class Runtime:
    """`fresh`: nothing runs yet, and what an earlier run of the container has left says nothing of this one; not if we
    have `replaced` another daemon. `rest` is how many seconds what is left at the end has."""

    def __init__(self, fd: int, guard: "Guard", *, replaced: bool) -> None:
        self._begun = guard.claim(BEGUN) >= 0
        self.fresh = not self._begun and not replaced
        self._order = _read_order(fd)
        self._fd = fd
        self._guard = guard
        self._stderr = open_again(2)
        self._applied = guard.claim(APPLIED) >= 0
        ending = next((name for name in guard.kept if name.startswith(ENDING)), "")
        guard.claim(ending)
        self._decided = bool(ending)
        self._code = int(ending.removeprefix(ENDING)) if ending else 0
        self._asked = False
        by = next((name for name in guard.kept if name.startswith(STOP_BY)), "")
        guard.claim(by)
        self._by = int(by.removeprefix(STOP_BY)) if by else 0
        self._deadline = 0.0

    @property
    def rest(self) -> float:
        return min(self._order.grace, max(REST, self._deadline - time.monotonic()))

    # --- the start ---

    def has_begun(self) -> None:
        """To be called once the journal says nothing of an earlier run any more."""
        if not self._begun:
            self._mark(BEGUN)

    def _mark(self, name: str) -> None:
        # An fd for each: a guard that this daemon becomes has them under the same numbers.
        self._guard.keep(name, os.dup(self._fd))

    def want(self, desired: "Desired", fleet: "Fleet", logs: str) -> None:
        """Make the apps of the order what is desired, and nothing else, unless a daemon before us has. Refusal."""
        self._desired = desired
        if self._applied:
            return
        check(fleet, logs, self._order.apply.specs, prune=True)
        self._desired.assume(self._change)

    def _change(self, draft: "Draft") -> None:
        named = {spec.name for spec in self._order.apply.specs}
        for name in [name for name in draft.apps if name not in named]:
            draft.drop(name)
        for spec in self._order.apply.specs:
            draft.put(spec, self._order.apply.environ)

    def begin(
        self,
        fleet: "Fleet",
        commands: "Commands",
        loop: "Loop",
        log: "Log",
        start: "list[Instance]",
        *,
        stopping: bool,
    ) -> None:
        """Start these, once they have a network; go on with an end that a daemon before us had begun (`stopping`: was
        told to)."""
        self._fleet, self._commands, self._loop = fleet, commands, loop
        changed = fleet.changed

        def on_change(instance: "Instance") -> None:
            changed(instance)
            self._on_change(instance)

        fleet.changed = on_change
        if not self._applied:
            # That the disk did not take it is no reason to do it again: the guard has it then (oxmgr.supervisor.spare).
            self._desired.commit(self._change, lambda error: self._mark(APPLIED))
        told_again = self._guard.stopping and self._order.rewrites.get(SIGTERM, SIGTERM)
        if told_again:
            start = []
        if self._decided or (stopping and not self._by):
            self._stop()
        elif self._by and not told_again:
            self._on_term(self._by)
        elif is_loopback_down():
            fleet.launcher.networks.raise_loopback(lambda why: self._start(start, log, why))
        else:
            self._start(start, log, "")
        for instance in fleet:
            self._on_change(instance)

    def _start(self, start: "list[Instance]", log: "Log", why: str) -> None:
        if why:
            log(f"the loopback is down: {why}")
        self._commands.start_first(start, 0.0)

    # --- signals ---

    def on_signal(self, number: int, typed: bool) -> None:
        """`typed`: a key of the terminal has sent it, or its hang-up."""
        meant = self._order.rewrites.get(number, number)
        if not meant:
            return
        if SIGTERM in (number, meant):
            self._on_term(meant)
        elif typed and number in TYPED:
            # The terminal has told the group that it has in its foreground; of a file's apps that is none.
            if not any(one.app.spec.stdin == TERMINAL for one in self._fleet):
                if self._order.alone:
                    self._pass_on(meant)
                else:
                    self._on_term(SIGTERM)
        elif meant in PASSED_ON or meant >= SIGRTMIN or meant != number:
            self._pass_on(meant)

    def _pass_on(self, number: int) -> None:
        for instance in list(self._fleet):
            self._fleet.signal(instance, number)

    def _on_term(self, number: int) -> None:
        """The second one hurries; an end that nobody has asked for yet goes its way."""
        if self._asked:
            self._hurry()
            return
        self._asked = True
        if not self._by:
            self._by = number
            self._mark(f"{STOP_BY}{number}")
        if self._commands.ending:
            return
        if number != SIGTERM:
            for app in self._fleet.apps.values():
                app.spec = replace(app.spec, stop_signal=number)
        self._stop()

    # --- words ---

    def tell(self, event: "Event") -> None:
        """On standard error, what else nobody would see; what that does not take at once is given up."""
        if event.kind in TOLD[self._order.alone]:
            try:
                os.write(self._stderr, f"oxmgr: {event.instance}: {event.kind}: {event.reason}\n".encode())
            except OSError:
                return

    # --- the end ---

    def _on_change(self, instance: "Instance") -> None:
        if self._commands.ending or not self._is_over(instance):
            return
        ends = self._order.exit_when
        if ends == ANY:
            over = True
        elif ends == ALL:
            over = all(map(self._is_over, self._fleet))
        else:
            over = instance.app.spec.name == ends and all(map(self._is_over, instance.app.instances.values()))
        if over:
            # One that waits in vain has ended nothing: that was what it waits for.
            ended = [one for one in self._fleet if one.state.status in (is_.EXITED, is_.ERRORED)]
            last = instance if instance in ended or not ended else max(ended, key=lambda one: one.state.ended)
            self._code, self._decided = exit_code(last), True
            self._mark(f"{ENDING}{self._code}")
            self._stop()

    def _is_over(self, instance: "Instance") -> bool:
        """Whether it has ended for good, or never starts since what it depends on has."""
        state, spec = instance.state, instance.app.spec
        if state.status != is_.WAITING or state.deadline is not None:
            return state.status in (is_.EXITED, is_.ERRORED)
        needed = [self._fleet.apps[name] for name in spec.depends_on if name in self._fleet.apps]
        if any(one.state.status == is_.STOPPED for app in needed for one in app.instances.values()):
            return False
        return blocked_for_good(spec, self._fleet.dependencies(spec)) is not None

    def _stop(self) -> None:
        self._deadline = time.monotonic() + self._order.grace
        self._loop.at(self._deadline, self._hurry)
        self._commands.shut_down(signalled=self._asked)

    def _hurry(self) -> None:
        """Until all is down, which ends the loop."""
        self._fleet.turns.hurry()
        self._loop.at(time.monotonic() + HURRY_AGAIN, self._hurry)

    def final_code(self) -> int:
        """Once all is down. Where nothing but a SIGTERM or a command has ended it: that of the app that the end is to
        be by, if there is one."""
        if self._decided:
            return self._code
        named = self._order.apply.specs[0].name if self._order.alone else self._order.exit_when
        app = self._fleet.apps.get(named)
        codes = [exit_code(one) for one in app.instances.values()] if app is not None else []
        return next(filter(None, codes), 0)


def exit_code(instance: "Instance") -> int:
    """That of its last main process, 128+N for a signal, as shells have it; of one that never was, why."""
    state = instance.state
    if state.signal is not None:
        return 128 + state.signal
    if state.exit_code is not None:
        return state.exit_code
    return 128 + SIGTERM if state.status == is_.STOPPED else instance.unstarted or 1

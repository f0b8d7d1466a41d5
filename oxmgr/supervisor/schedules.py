"""Watches the wall clock for apps that have a schedule. Who has none costs nothing.

When a line is due, only a helper can say, which is asked for some times at once: what is kept here are numbers. One
timerfd on CLOCK_REALTIME wakes the loop for the next of them, and whenever that clock was set or the machine slept
(TFD_TIMER_CANCEL_ON_SET), for all of them are looked at then.
"""

import os
import time

from oxmgr.lifecycle.events import Due, Planned
from oxmgr.lifecycle.machine import awaits_time
from oxmgr.lifecycle.schedule import Times, look
from oxmgr.model import status as is_
from oxmgr.supervisor import native
from oxmgr.supervisor.helper import end_helper, start_helper
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.shortage import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oxmgr.lifecycle.events import Event
    from oxmgr.supervisor.instance import App, Instance
    from oxmgr.supervisor.loop import Loop, Timer

    Key = tuple[str, str]
    """A line and the name of its time zone."""

HELPER = "schedule"
LINES = 64
"""At most so many for one helper."""
AGAIN = 60.0
"""Seconds until what failed is tried again."""
PATIENCE = 30.0
"""Seconds for a helper."""


class Schedules:
    """`send` gives an instance an event, `tell` an event to whoever listens: its kind, the instance and the reason;
    `noted` has the journal know up to when an app's times are done. `roll` replaces instances without a gap where that
    can be, telling of it as `tell` does, and returns the others."""

    def __init__(
        self,
        loop: "Loop",
        send: "Callable[[Instance, Event], None]",
        tell: "Callable[[str, Instance, str], None]",
        noted: "Callable[[App], None]",
        roll: "Callable[[App, list[Instance], str, str], list[Instance]]",
    ) -> None:
        self._loop = loop
        self._send = send
        self._tell = tell
        self._noted = noted
        self._roll = roll
        self._watched: dict[App, Key] = {}
        self._times: dict[Key, Times] = {}
        self._wrong: dict[Key, str] = {}
        self._wanted: dict[Key, None] = {}
        self._asking: _Asking | None = None
        self._timerfd = -1
        self._armed = 0
        self._later: Timer | None = None

    def update(self, app: "App") -> None:
        """Its spec, or something of an instance of it, has changed."""
        spec = app.spec
        key = (spec.schedule or spec.restart_schedule, spec.timezone)
        if not key[0] or not any(one.state.desired and one.state.status != is_.STOPPED for one in _instances(app)):
            self._let_go(app)
            return
        before = self._watched.get(app)
        if before != key:
            if before is not None or not app.done_until:
                app.done_until = time.time()
            self._watched[app] = key
            if before is not None:
                self._forget(before)
            self._look([app])
        else:
            self._say_when(app, key)

    def _let_go(self, app: "App") -> None:
        key = self._watched.pop(app, None)
        if key is not None:
            app.next_run = None
            app.troubles.pop("schedule", None)
            self._forget(key)
            self._arm()
        if app.done_until and not any(one.state.desired for one in _instances(app)):
            # What comes while it is stopped is not missed.
            app.done_until = 0.0
            self._noted(app)

    def _forget(self, key: "Key") -> None:
        if key not in self._watched.values():
            self._times.pop(key, None)
            self._wrong.pop(key, None)

    # --- the clock ---

    def _on_clock(self, _: int) -> None:
        try:
            os.read(self._timerfd, 8)
        except OSError:
            # ECANCELED: it was set. EAGAIN: that is known already.
            pass
        self._armed = 0
        self._look(list(self._watched))

    def _look(self, apps: "Iterable[App]") -> None:
        now = time.time()
        for app in apps:
            key = self._watched.get(app)
            if key is not None and key not in self._wrong:
                self._loop.call(self._look_at, app, key, now)
        self._arm()

    def _look_at(self, app: "App", key: "Key", now: float) -> None:
        times = self._times.get(key)
        if times is None:
            self._ask(key)
            return
        seen = look(times, app.done_until, now, catch_up=app.spec.catch_up)
        app.next_run = seen.next
        if seen.next is None:
            self._ask(key)
        if seen.done != app.done_until:
            app.done_until = seen.done
            if seen.due is not None:
                self._run(app, seen.due)
            elif seen.missed is not None:
                for instance in _wanted(app):
                    self._tell("missed", instance, f"{moment(seen.missed)}: it was not to be caught up with")
            self._noted(app)
        self._say_when(app, key)

    def _run(self, app: "App", due: int) -> None:
        """At that time; a service that was started later than that has had its restart."""
        event, instances = Due(moment(due)), _wanted(app)
        if not app.spec.schedule:
            older = [one for one in instances if one.state.pid and one.started_at < due]
            instances = self._roll(app, older, "scheduled", event.reason)
        elif app.spec.overlap:
            free = [one for one in instances if awaits_time(one.state, app.spec)]
            instances = (free or instances)[:1]
        for instance in instances:
            self._send(instance, event)

    def _say_when(self, app: "App", key: "Key") -> None:
        why = self._wrong.get(key, "")
        if why:
            app.troubles["schedule"] = why
        else:
            app.troubles.pop("schedule", None)
        if app.next_run is None and not why:
            return
        reason = f"runs at {moment(app.next_run)}" if app.next_run is not None else why
        for instance in _instances(app):
            if awaits_time(instance.state, app.spec):
                self._send(instance, Planned(reason))

    def _arm(self) -> None:
        coming = [app.next_run for app in self._watched if app.next_run is not None]
        first = min(coming) if coming else 0
        if self._timerfd < 0:
            if not first:
                return
            try:
                self._timerfd = native.wall_timerfd()
            except OSError as error:
                self._arm_later(reason(error))
                return
            self._loop.add(self._timerfd, READ, self._on_clock)
        if first != self._armed:
            self._armed = first
            if not native.wall_timerfd_set(self._timerfd, first * 1_000_000_000):
                self._loop.at(0.0, lambda: self._look(list(self._watched)))

    def _arm_later(self, why: str) -> None:
        for app in self._watched:
            app.troubles["schedule"] = f"nobody tells when it is time: {why}"
        if self._later is None:
            self._later = self._loop.at(time.monotonic() + AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._later = None
        self._look(list(self._watched))

    # --- the helper ---

    def _ask(self, key: "Key") -> None:
        self._wanted[key] = None
        if self._asking is None:
            # Together with all that ask in this turn.
            self._asking = _Asking(self._loop, self._on_answer)
            self._loop.at(0.0, self._start)

    def _start(self) -> None:
        keys = list(self._wanted)[:LINES]
        for key in keys:
            del self._wanted[key]
        assert self._asking is not None
        self._asking.start(keys)

    def _on_answer(self, now: int, keys: "list[Key]", lines: list[str], why: str) -> None:
        for number, key in enumerate(keys):
            line = lines[number] if number < len(lines) else ""
            if line[:1].isdecimal():
                last, *coming = map(int, line.split())
                self._times[key] = Times(float(now), last, coming)
                if not coming:
                    self._wrong[key] = f"{key[0]!r} is never due again"
            elif line:
                self._wrong[key] = line[1:]
            else:
                self._wrong[key] = f"it is not known when {key[0]!r} is due: {why or 'its helper ended without a word'}"
                self._loop.at(time.monotonic() + AGAIN, lambda key=key: self._try_again(key))  # type: ignore[misc]
        self._asking = _Asking(self._loop, self._on_answer) if self._wanted else None
        if self._asking is not None:
            self._loop.at(0.0, self._start)
        apps = [app for app, key in self._watched.items() if key in keys]
        self._look(apps)
        for app in apps:
            if self._watched.get(app) in self._wrong:
                self._loop.call(self._say_when, app, self._watched[app])

    def _try_again(self, key: "Key") -> None:
        self._wrong.pop(key, None)
        self._look([app for app, one in self._watched.items() if one == key])

    def end(self) -> None:
        """The daemon ends, and no helper outlives it."""
        if self._asking is not None:
            self._asking.end()


class _Asking:
    """`done` gets the time that was asked about, the keys, the lines of the answer, and why there is none."""

    def __init__(self, loop: "Loop", done: "Callable[[int, list[Key], list[str], str], None]") -> None:
        self._loop = loop
        self._done = done
        self._keys: list[Key] = []
        self._now = 0
        self._said = b""
        self._reading = self._pidfd = -1
        self._timer: Timer | None = None

    def start(self, keys: "list[Key]") -> None:
        self._keys, self._now = keys, int(time.time())
        fds: list[int] = []
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            fds.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            reading, said, null = fds
            words = [str(os.getpid()), str(self._now), *(word for key in keys for word in key)]
            _, self._pidfd = start_helper(HELPER, words, [null, said, null])
            self._reading = fds.pop(0)
        except OSError as error:
            self._done(self._now, keys, [], reason(error))
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._loop.add(reading, READ, self._on_said)
        self._timer = self._loop.at(time.monotonic() + PATIENCE, lambda: self._give_up("its helper does not end"))

    def _on_said(self, _: int) -> None:
        data = os.read(self._reading, 64 * 1024)
        self._said += data
        if not data:
            self.end()
            self._done(self._now, self._keys, self._said.decode(errors="replace").splitlines(), "")

    def _give_up(self, why: str) -> None:
        self.end()
        self._done(self._now, self._keys, [], why)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._reading >= 0:
            self._loop.remove(self._reading)
            os.close(self._reading)
            self._reading = -1
            end_helper(self._pidfd)


def moment(at: float) -> str:
    """Unix time as local date and time, with the offset from UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at))


def _instances(app: "App") -> "list[Instance]":
    return list(app.instances.values())


def _wanted(app: "App") -> "list[Instance]":
    return [one for one in _instances(app) if one.state.desired]

"""Which events become messages, and how few of them: pure, from events and times of the monotonic clock.

Of each kind an app's first trouble is told at once. What follows within PAUSES is held, and told together when the
pause is over; each pause is longer than the one before, until there was none to tell. So nothing is left out, and a
storm of a thousand crashes is a handful of messages.

An instance that has crashed LOOP_CRASHES times within its restart window is in a crash loop, until it has not crashed
for that long. That is a kind of its own, so told at once too, with the crashes of that instance that were held.
"""

from oxmgr.model.codec import Struct, replace
from oxmgr.model.messages import Event
from oxmgr.model.spec import Spec

LOOP_CRASHES = 5
"""As systemd's StartLimitBurst."""
PAUSES = (60.0, 600.0, 3600.0)
"""Seconds between two messages of a kind, by how many there were in a row."""

CRASH, CRASH_LOOP, OOM, UNHEALTHY, LIMIT, ERRORED = "crash", "crash_loop", "oom", "unhealthy", "limit", "errored"
SAME = {"limit": LIMIT, "errored": ERRORED}
"""Events that are told as what they are."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Happened(Struct, frozen=True, gc=False):
    """An event, and how often its instance had been restarted then."""

    event: Event
    restarts: int = 0


class Message(Struct, frozen=True, gc=False):
    """`last` is what happened last, `counts` how often it did to each instance since the last message of that kind."""

    kind: str
    last: Happened
    counts: dict[str, int]

    @property
    def count(self) -> int:
        return sum(self.counts.values())


class Trouble(Struct, frozen=True, gc=False):
    """What is known of an instance: when it crashed within its window, whether in a loop; `dying`: that it ran out of
    memory or is unhealthy was heard, but not yet that it has ended for that."""

    crashes: tuple[float, ...] = ()
    looping: bool = False
    dying: bool = False


class Told(Struct, frozen=True, gc=False):
    """Of one kind: until `pause_end` nothing is told, for the pause is that number of PAUSES. `held` is what happened
    meanwhile: by instance how often, and what was the last; the instance of the very last one comes last."""

    pause_end: float = 0.0
    pause: int = -1
    held: dict[str, tuple[int, Happened]] = {}


class Alerting(Struct, frozen=True, gc=False):
    """Of one app: its instances by name, and what was told of each kind."""

    troubles: dict[str, Trouble] = {}
    told: dict[str, Told] = {}


NOTHING = Alerting()
NO_TROUBLE = Trouble()
NOT_TOLD = Told()

Step = tuple[Alerting, list[Message]]


def hear(before: Alerting, happened: Happened, spec: Spec, now: float) -> Step:
    """What an event of an instance changes, and what is told now."""
    name = happened.event.instance
    was = before.troubles.get(name, NO_TROUBLE)
    trouble, kind = classify(was, happened.event, spec, now)
    troubles = before.troubles
    if trouble != was:
        troubles = {**troubles, name: trouble}
        if trouble == NO_TROUBLE:
            del troubles[name]
    kind = _asked_for(kind, spec.alerts.on)
    told = before.told
    if not kind:
        return Alerting(troubles, told), []
    count = 1
    if kind == CRASH_LOOP and not was.looping:
        told, more = _take(told, name, (CRASH, OOM))
        count += more
    elif kind == ERRORED:
        # Its reason says how often it had crashed.
        told, _ = _take(told, name, (CRASH, OOM, CRASH_LOOP))
    one = _hold(told.get(kind, NOT_TOLD), name, count, happened)
    messages: list[Message] = []
    if now >= one.pause_end:
        one, message = _send(one, kind, now)
        messages.append(message)
    return Alerting(troubles, {**told, kind: one}), messages


def tick(before: Alerting, now: float) -> Step:
    """The pauses of some kinds are over."""
    told = dict(before.told)
    messages: list[Message] = []
    for kind, one in before.told.items():
        if one.held and now >= one.pause_end:
            told[kind], message = _send(one, kind, now)
            messages.append(message)
    return Alerting(before.troubles, told), messages


def due(alerting: Alerting) -> float | None:
    """When the next tick is wanted."""
    return min((one.pause_end for one in alerting.told.values() if one.held), default=None)


def classify(was: Trouble, event: Event, spec: Spec, now: float) -> tuple[Trouble, str]:
    """What it makes of an instance, and of which kind it is; "" is none."""
    if event.kind == "oom":
        return _crashed(was, OOM, spec, now, dying=True)
    if event.kind == "crashed" or (event.kind == "exited" and _failed(event, spec)):
        if was.dying:
            # This is the end that was told of already.
            return replace(was, dying=False), ""
        return _crashed(was, CRASH, spec, now, dying=False)
    if event.kind in ("exited", "stopped", "started"):
        return replace(was, dying=False), ""
    if event.kind == "unhealthy":
        # For who is not told of that, its end is news.
        return replace(was, dying=was.dying or UNHEALTHY in spec.alerts.on), UNHEALTHY
    return was, SAME.get(event.kind, "")


def _failed(event: Event, spec: Spec) -> bool:
    """Of one that is not restarted."""
    return event.signal is not None or (
        event.exit_code is not None and event.exit_code not in (0, *spec.stop_exit_codes)
    )


def _crashed(was: Trouble, kind: str, spec: Spec, now: float, *, dying: bool) -> tuple[Trouble, str]:
    recent = tuple(at for at in was.crashes if now - at < spec.restart_window_secs)
    looping = (was.looping and bool(recent)) or len(recent) + 1 >= LOOP_CRASHES
    return Trouble((*recent[1 - LOOP_CRASHES :], now), looping, dying), CRASH_LOOP if looping else kind


def _asked_for(kind: str, on: "Iterable[str]") -> str:
    """Who does not want to know of a loop or of memory wants to know of crashes perhaps."""
    return kind if kind in on else CRASH if kind in (CRASH_LOOP, OOM) and CRASH in on else ""


def _hold(told: Told, name: str, count: int, happened: Happened) -> Told:
    held = dict(told.held)
    before = held.pop(name, (0, happened))[0]
    held[name] = before + count, happened
    return replace(told, held=held)


def _send(told: Told, kind: str, now: float) -> tuple[Told, Message]:
    """All that is held."""
    quiet = told.pause < 0 or now - told.pause_end >= PAUSES[told.pause]
    pause = 0 if quiet else min(told.pause + 1, len(PAUSES) - 1)
    last = [happened for _, happened in told.held.values()][-1]
    counts = {name: count for name, (count, _) in told.held.items()}
    return Told(now + PAUSES[pause], pause), Message(kind, last, counts)


def _take(told: dict[str, Told], name: str, kinds: "Iterable[str]") -> tuple[dict[str, Told], int]:
    """Without what is held of that instance, and how much that was."""
    after, taken = dict(told), 0
    for kind in kinds:
        one = told.get(kind, NOT_TOLD)
        if name in one.held:
            held = dict(one.held)
            taken += held.pop(name)[0]
            after[kind] = replace(one, held=held)
    return after, taken


def summary(message: Message) -> str:
    """In one line."""
    event = message.last.event
    count = message.count
    if count == 1:
        what = {
            CRASH: "crashed",
            CRASH_LOOP: "crashes in a loop",
            OOM: "ran out of memory",
            UNHEALTHY: "is unhealthy",
            LIMIT: "is restarted, for it is above a limit",
            ERRORED: "is given up",
        }[message.kind]
        return _with_reason(f"{event.instance} {what}", event)
    what = {
        CRASH: "crashed {} times",
        CRASH_LOOP: "crashes in a loop, {} times since the last message",
        OOM: "ran out of memory {} times",
        UNHEALTHY: "was unhealthy {} times",
        LIMIT: "was restarted {} times, for it was above a limit",
        ERRORED: "was given up {} times",
    }[message.kind].format(count)
    if len(message.counts) == 1:
        return _with_reason(f"{event.instance} {what}", event)
    return _with_reason(
        f"{event.app} {what}, {len(message.counts)} instances of it; the last was {event.instance}", event
    )


def _with_reason(text: str, event: Event) -> str:
    return f"{text}: {event.reason}" if event.reason else text

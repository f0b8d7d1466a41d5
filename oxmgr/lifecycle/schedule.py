"""Which time of a schedule counts now. Pure: whoever drives it brings the times, which only a helper can work out, and
the wall clock. All times are Unix times in seconds."""

from oxmgr.model.codec import Struct

LATE = 60.0
"""A time that has come so long ago counts still: somebody was busy, or another daemon took over."""

BACK = 3 * 3600.0
"""A clock that was set back by less has run ahead, and what was due is not due again; by more, it was wrong (cron's
own measure, cron(8) of Debian)."""


class Times(Struct, frozen=True, gc=False):
    """What is known of a line: the last time that was not later than `at` (0: there was none), and the next ones."""

    at: float
    last: int
    coming: list[int]


class Look(Struct, frozen=True, gc=False):
    """`due` counts now, `missed` has come too long ago and does not; at the most one of them is there. `done`: up to
    then all is done. `next` is when to look again; None: the times that are known are used up, or are of another
    clock."""

    done: float
    due: int | None = None
    missed: int | None = None
    next: int | None = None


def look(times: Times, done: float, now: float, *, catch_up: bool) -> Look:
    """Several times that have come since `done` count as one, the latest. `catch_up`: however late it is."""
    if done > now + BACK:
        done = now
    if times.at > now + BACK:
        return Look(done)
    past = max((time for time in (times.last, *times.coming) if done < time <= now), default=None)
    done = done if past is None else past
    ahead = [time for time in times.coming if time > now]
    # Behind a clock that was set back, nothing that is known may be left to be due: more is known later.
    coming = next((time for time in ahead if time > done), ahead[-1] if ahead else None)
    if past is None:
        return Look(done, next=coming)
    if catch_up or now - past <= LATE:
        return Look(done, due=past, next=coming)
    return Look(done, missed=past, next=coming)

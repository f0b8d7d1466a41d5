"""Which time of a schedule counts, with a clock that runs, jumps and is set."""

from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from oxmgr.lifecycle.schedule import BACK, LATE, Look, Times, look

MINUTES = [60 * number for number in range(1, 100_000)]


def known(now: float, times: list[int] = MINUTES, count: int = 8) -> Times:
    """What a helper says at that moment."""
    at = bisect_right(times, now)
    return Times(now, times[at - 1] if at else 0, times[at : at + count])


def test_nothing_is_due_before_its_time() -> None:
    assert look(known(100), 100, 100, catch_up=True) == Look(100, next=120)
    assert look(known(100), 100, 119.9, catch_up=True) == Look(100, next=120)


def test_a_time_that_has_come_is_due_once() -> None:
    assert look(known(100), 100, 120, catch_up=False) == Look(120, due=120, next=180)
    assert look(known(100), 120, 120, catch_up=False) == Look(120, next=180)


def test_a_little_late_is_in_time() -> None:
    """As after the death of a daemon, which the next one follows in a tenth of a second."""
    assert look(known(180 + LATE - 1, [60, 180]), 100, 180 + LATE, catch_up=False).due == 180
    assert look(known(181 + LATE, [60, 180]), 100, 181 + LATE, catch_up=False) == Look(180, missed=180)


def test_what_was_missed_is_caught_up_with_once_if_at_all() -> None:
    day = [24 * 3600 * number for number in range(1, 30)]
    now = 5.5 * 24 * 3600
    caught = look(known(now, day), day[0], now, catch_up=True)
    assert caught == Look(day[4], due=day[4], next=day[5])
    assert look(known(now, day), caught.done, now, catch_up=True).due is None
    assert look(known(now, day), day[0], now, catch_up=False) == Look(day[4], missed=day[4], next=day[5])


def test_a_clock_that_is_set_back_a_little_makes_nothing_due_again() -> None:
    """By NTP, a moment after a run."""
    times = known(100)
    assert look(times, 120, 118, catch_up=True) == Look(120, next=180)
    assert look(times, 120, 121, catch_up=True).due is None


def test_a_clock_that_was_far_ahead_is_forgotten() -> None:
    wrong = 10**6
    assert look(known(wrong), wrong, 100, catch_up=True) == Look(100), "what is known is of the wrong clock"
    assert look(known(100), wrong, 100, catch_up=True) == Look(100, next=120)


def test_the_end_of_what_is_known_is_told() -> None:
    assert look(Times(100, 60, [120, 180]), 120, 180, catch_up=False) == Look(180, due=180, next=None)


steps = st.lists(
    st.tuples(st.sampled_from(["run", "sleep", "set"]), st.floats(0.1, 4000, allow_nan=False)), min_size=1, max_size=40
)


def drive(steps: list[tuple[str, float]], *, catch_up: bool) -> tuple[list[tuple[float, Look]], list[float]]:
    """A daemon, which is woken at `next` and when the clock was set; "sleep" is time without a daemon. What it found, and
    every time of the clock that it was awake at."""
    now = done = 50_000.5
    times = known(now)
    found: list[tuple[float, Look]] = []
    clock = [now]

    def wake() -> None:
        nonlocal done, times
        for _ in range(3):
            seen = look(times, done, now, catch_up=catch_up)
            done = seen.done
            found.append((now, seen))
            if seen.next is not None:
                return
            times = known(now)
        raise AssertionError("nothing comes, though it is every minute")

    wake()
    for what, amount in steps:
        if what == "run":
            end = now + amount
            while (coming := found[-1][1].next or end) <= end:
                now = max(now, float(coming))
                clock.append(now)
                wake()
            now = end
        elif what == "sleep":
            now += amount
            times = known(now)
            wake()
        else:
            now = max(1000.0, now + (amount if amount < 2000 else -3 * amount))
            wake()
        clock.append(now)
    return found, clock


@given(steps)
@settings(max_examples=300, deadline=None)
def test_no_time_is_run_twice_unless_the_clock_was_wrong(steps: list[tuple[str, float]]) -> None:
    found, clock = drive(steps, catch_up=True)
    runs = [seen.due for _, seen in found if seen.due is not None]
    if all(max(clock[: at + 1]) - now < BACK for at, now in enumerate(clock)):
        assert runs == sorted(set(runs))


@given(steps)
@settings(max_examples=300, deadline=None)
def test_while_a_daemon_is_there_each_time_is_run_when_it_comes(steps: list[tuple[str, float]]) -> None:
    found, _ = drive([step for step in steps if step[0] == "run"], catch_up=False)
    runs = [seen.due for _, seen in found if seen.due is not None]
    end = found[-1][0]
    assert runs == [time for time in MINUTES if 50_000.5 < time <= end]
    assert all(now == seen.due for now, seen in found if seen.due is not None)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_nothing_that_is_late_is_run_without_catching_up(steps: list[tuple[str, float]]) -> None:
    found, _ = drive(steps, catch_up=False)
    assert all(0 <= now - seen.due <= LATE for now, seen in found if seen.due is not None)
    assert all(now - seen.missed > LATE for now, seen in found if seen.missed is not None)
    assert all(seen.next > now for now, seen in found if seen.next is not None)

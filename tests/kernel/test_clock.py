"""Schedules on a clock that is set. Only here is it nobody else's."""

import time
from collections.abc import Iterator

import pytest

from oxmgr.client.saved import read_saved_events
from tests.conftest import Home, wait_until

YEAR = 365 * 24 * 3600


@pytest.fixture
def clock() -> Iterator[None]:
    """Set right again at the end."""
    wall, steady = time.time(), time.monotonic()
    yield
    time.clock_settime(time.CLOCK_REALTIME, wall + time.monotonic() - steady)


def set_clock(seconds: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def next_run(home: Home) -> int:
    found = home.views()["job"].next_run
    assert found is not None
    return found


def test_a_clock_that_comes_to_the_time_by_being_set_has_the_job_run(home: Home, clock: None) -> None:
    home.apply(home.sh("job", "echo ran", schedule="@yearly", restart="never"))
    due = next_run(home)
    set_clock(due - 1)
    wait_until(lambda: home.log("job") == "ran\n", "a second later it is time")
    assert 0 <= time.time() - due < 30
    wait_until(lambda: next_run(home) > due, "the next one is in a year")


def test_what_the_clock_is_set_over_was_missed_and_is_caught_up_with(home: Home, clock: None) -> None:
    jobs = [
        home.sh(name, "echo ran", schedule="@yearly", restart="never", catch_up=name == "job")
        for name in ("job", "lost")
    ]
    home.apply(*jobs)
    due = next_run(home)
    set_clock(due + 3 * YEAR + YEAR // 2)
    wait_until(lambda: home.log("job") == "ran\n", "it is run once, at once")
    wait_until(lambda: next_run(home) > time.time(), "the next one is told")
    wait_until(
        lambda: "missed" in [event.kind for event in read_saved_events(home.places) if event.app == "lost"],
        "so is what was missed",
    )
    assert home.log("lost") == ""


def test_a_clock_that_was_far_ahead_does_not_keep_a_job_from_running(home: Home, clock: None) -> None:
    now = time.time()
    set_clock(now + 5 * YEAR)
    home.apply(home.sh("job", "echo ran", schedule="*/2 * * * * *", restart="never"))
    wait_until(lambda: home.log("job"), "it runs by the wrong clock")
    set_clock(now)
    before = home.log("job")
    wait_until(lambda: len(home.log("job")) > len(before) + 4, "and by the right one")
    wait_until(lambda: next_run(home) < now + 3600, "the next one is told by it")

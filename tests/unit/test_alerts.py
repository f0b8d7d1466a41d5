"""Which events become messages: by themselves, with a clock that is made up."""

import itertools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxmgr.lifecycle.alerts import (
    LOOP_CRASHES,
    NOTHING,
    PAUSES,
    Alerting,
    Happened,
    Message,
    due,
    hear,
    summary,
    tick,
)
from oxmgr.model.messages import Event
from oxmgr.model.spec import ALERT_KINDS, Alerts, Spec

URL = "http://h/"


class App:
    """Hears what happens to it; every tick comes when it is due."""

    def __init__(self, on: tuple[str, ...] = ALERT_KINDS, **keys: Any) -> None:
        self.spec = Spec("api", "x", ["x"], "/", alerts=Alerts(on, URL), **keys)
        self.state: Alerting = NOTHING
        self.now = 1000.0
        self.seq = 0
        self.told: list[tuple[float, Message]] = []

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (when := due(self.state)) is not None and when <= end:
            assert when > self.now or seconds == 0
            self.now = max(self.now, when)
            self.state, messages = tick(self.state, self.now)
            assert messages
            self.told += [(self.now, one) for one in messages]
        self.now = end

    def __call__(self, kind: str, instance: str = "api", **fields: Any) -> list[Message]:
        self.seq += 1
        event = Event(self.seq, self.now, kind, "api", instance, **fields)
        self.state, messages = hear(self.state, Happened(event, self.seq), self.spec, self.now)
        self.told += [(self.now, one) for one in messages]
        return messages

    @property
    def kinds(self) -> list[str]:
        return [one.kind for _, one in self.told]

    @property
    def counts(self) -> list[int]:
        return [one.count for _, one in self.told]


@pytest.mark.parametrize(
    ("event", "kind"),
    [("crashed", "crash"), ("oom", "oom"), ("limit", "limit"), ("unhealthy", "unhealthy"), ("errored", "errored")],
)
def test_the_first_of_each_kind_is_told_at_once(event: str, kind: str) -> None:
    app = App()
    [message] = app(event, reason="why")
    assert (message.kind, message.count, message.last.event.reason) == (kind, 1, "why")
    assert "api" in summary(message) and "why" in summary(message)
    assert App(tuple(set(ALERT_KINDS) - {kind, "crash"}))(event) == []


def test_what_is_no_trouble_is_not_told() -> None:
    app = App()
    for kind in ("started", "waiting", "backoff", "stopping", "stopped", "killed", "adopted", "reset", "signalled"):
        assert app(kind) == []
    assert app("exited", exit_code=0) == app("exited") == []
    assert app.state == NOTHING


def test_a_job_that_fails_and_is_not_restarted_has_crashed() -> None:
    app = App(stop_exit_codes=[7])
    assert app("exited", exit_code=7) == []
    [message] = app("exited", exit_code=1)
    assert message.kind == "crash"
    assert App()("exited", signal="SIGSEGV")


def test_a_storm_of_a_thousand_crashes_is_a_handful_of_messages() -> None:
    app = App()
    for _ in range(1000):
        app("crashed")
        app("started")
        app.wait(0.005)
    app.wait(100_000)
    assert app.kinds == ["crash", "crash_loop", "crash_loop"]
    assert app.counts == [1, LOOP_CRASHES - 1, 1000 - LOOP_CRASHES]


def test_a_loop_without_end_is_told_less_and_less_often() -> None:
    app = App()
    for number in range(24 * 120):
        app("crashed")
        app.wait(0.1 if number < LOOP_CRASHES else 30)
    app.wait(10_000)
    assert app.kinds[0] == "crash" and set(app.kinds[1:]) == {"crash_loop"}
    assert len(app.told) < 30 and sum(app.counts) == 24 * 120


def test_a_thousand_instances_that_crash_together_are_two_messages() -> None:
    app = App()
    for number in range(1000):
        app("crashed", f"api:{number}", reason="killed by SIGKILL")
    app.wait(1000)
    assert app.kinds == ["crash", "crash"] and app.counts == [1, 999]
    last = app.told[1][1]
    assert summary(last) == "api crashed 999 times, 999 instances of it; the last was api:999: killed by SIGKILL"


def test_a_crash_now_and_then_is_no_loop_and_each_is_told() -> None:
    app = App()
    for _ in range(50):
        app("crashed")
        app.wait(2 * PAUSES[0] + 1)
    assert app.kinds == ["crash"] * 50 and app.counts == [1] * 50


def test_a_second_crash_is_told_when_the_pause_is_over() -> None:
    app = App()
    app("crashed")
    app.wait(10)
    app("crashed", reason="again")
    app.wait(PAUSES[0] - 11)
    assert len(app.told) == 1
    app.wait(1)
    when, message = app.told[1]
    assert when == 1000 + PAUSES[0] and message.count == 1 and message.last.event.reason == "again"


def test_the_loop_begins_at_once_and_takes_with_it_what_was_held_of_that_instance() -> None:
    app = App()
    app("crashed", "api:0")
    for _ in range(LOOP_CRASHES - 1):
        app("crashed", "api:1")
    app("crashed", "api:2")
    [message] = app("crashed", "api:1", reason="exit code 1")
    assert message.kind == "crash_loop" and message.counts == {"api:1": LOOP_CRASHES}
    app.wait(PAUSES[0])
    assert app.told[-1][1].counts == {"api:2": 1} and app.told[-1][1].last.event.instance == "api:2"


def test_a_loop_is_over_when_it_has_not_crashed_for_its_window() -> None:
    app = App(restart_window_secs=20.0)
    for _ in range(LOOP_CRASHES):
        app("crashed")
    assert app.state.troubles["api"].looping
    app.wait(10_000)
    assert [one.kind for one in app("crashed")] == ["crash"]
    assert not app.state.troubles["api"].looping


def test_what_ran_out_of_memory_is_told_once_and_counts_as_a_crash() -> None:
    app = App()
    for _ in range(LOOP_CRASHES):
        app("oom")
        app("crashed")
        app("started")
    assert app.kinds == ["oom", "crash_loop"] and app.counts == [1, LOOP_CRASHES - 1]
    app = App(("crash",))
    app("oom")
    app("crashed")
    app.wait(100)
    assert (app.kinds, app.counts) == (["crash"], [1])


def test_what_is_unhealthy_is_told_once_and_is_no_crash() -> None:
    app = App()
    for _ in range(LOOP_CRASHES + 1):
        app("unhealthy", reason="exit code 1, 3 times in a row")
        app("crashed", reason="exit code 1, 3 times in a row")
        app("started")
    app.wait(PAUSES[0])
    assert (app.kinds, app.counts) == (["unhealthy", "unhealthy"], [1, LOOP_CRASHES])
    app("crashed")
    assert app.kinds[2:] == ["crash"]
    app = App(("crash",))
    app("unhealthy")
    app("crashed")
    assert app.kinds == ["crash"], "who is not told of the one is told of the other"


def test_who_wants_no_loops_has_them_told_as_crashes_and_no_oftener() -> None:
    app = App(("crash",))
    for _ in range(1000):
        app("crashed")
    app.wait(100)
    assert (app.kinds, app.counts) == (["crash", "crash"], [1, 999])
    app = App(("crash_loop",))
    for _ in range(LOOP_CRASHES):
        app("crashed")
    assert app.kinds == ["crash_loop"]


def test_one_that_is_given_up_is_told_at_once_and_its_crashes_not_again() -> None:
    app = App()
    for _ in range(3):
        app("crashed")
    app("errored", reason="failed 3 times in a row")
    app.wait(100_000)
    assert app.kinds == ["crash", "errored"]


events = st.sampled_from(["crashed", "oom", "limit", "unhealthy", "errored", "exited", "started", "stopped", "backoff"])
histories = st.lists(
    st.tuples(
        events,
        st.sampled_from(["api:0", "api:1", "api:2"]),
        st.sampled_from([0.0, 0.01, 1.0, 30.0, 61.0, 700.0, 4000.0, 20_000.0]),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(histories, st.sets(st.sampled_from(ALERT_KINDS)), st.sampled_from([0.0, 1.0, 60.0, 86_400.0]))
def test_whatever_happens_all_is_told_and_never_often(
    history: list[tuple[str, str, float]], on: set[str], window: float
) -> None:
    app = App(tuple(sorted(on)), restart_window_secs=window)
    for kind, instance, wait in history:
        app(kind, instance)
        app.wait(wait)
    app.wait(1e6)
    assert set(app.kinds) <= on
    for kind in ALERT_KINDS:
        at = [when for when, one in app.told if one.kind == kind]
        assert all(later - earlier >= PAUSES[0] for earlier, later in itertools.pairwise(at))
        assert len(at) <= 2 + (app.now - 1000.0) / PAUSES[0]
    for kind in ("limit", "unhealthy", "errored"):
        assert sum(one.count for _, one in app.told if one.kind == kind) == (kind in on) * sum(
            event == kind for event, _, _ in history
        )
    if "crash" in on and "errored" not in on:
        assert sum(one.count for _, one in app.told if one.kind in ("crash", "crash_loop", "oom")) == _ends(history, on)
    assert due(app.state) is None
    for _, message in app.told:
        assert message.last.event.instance in message.counts and summary(message)


def _ends(history: list[tuple[str, str, float]], on: set[str]) -> int:
    """Crashes, where one that ran out of memory is told as that, and one that is unhealthy as that alone."""
    dying: dict[str, bool] = {}
    count = 0
    for kind, instance, _ in history:
        if kind == "oom":
            count, dying[instance] = count + 1, True
        elif kind == "unhealthy":
            dying[instance] = dying.get(instance, False) or "unhealthy" in on
        elif kind == "crashed":
            count += not dying.get(instance)
            dying[instance] = False
        elif kind in ("exited", "started", "stopped"):
            dying[instance] = False
    return count


def test_a_storm_costs_little() -> None:
    app = App()
    begun = time.process_time()
    for number in range(1000):
        app("crashed", f"api:{number}")
    assert time.process_time() - begun < 1.0

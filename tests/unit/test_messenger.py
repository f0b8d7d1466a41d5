"""What waits to be sent: tried again, in order, bounded, and no receiver at another's cost."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oxmgr.model.messages import Alert, SendAlert
from oxmgr.supervisor import messenger
from oxmgr.supervisor.cgroup import Cgroups
from oxmgr.supervisor.health import Health
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.messenger import HELPERS, RETRIES, WAITING, WAITING_EACH, Messenger
from oxmgr.supervisor.spare import Spare
from tests.unit.store import KeepsFds

TREES = SimpleNamespace(cgroups=Cgroups())


class Clock:
    """A loop whose time is made up."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[tuple[float, Any, Any]] = []

    def at(self, when: float, callback: Any) -> Any:
        timer = type("Timer", (), {"cancelled": False, "cancel": lambda self: setattr(self, "cancelled", True)})()
        self.due.append((max(when, self.now), callback, timer))
        return timer

    def run(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while True:
            self.due = [entry for entry in self.due if not entry[2].cancelled]
            first = min(self.due, key=lambda entry: entry[0], default=None)
            if first is None or first[0] > end:
                break
            self.due.remove(first)
            self.now = first[0]
            first[1]()
        self.now = end


class Sent:
    """What would be sent, until it is said how it went."""

    def __init__(self, loop: Any, trees: Any, letter: Any, serial: int, done: Any) -> None:
        self.letter, self.done = letter, done
        Post.under_way.append(self)
        Post.history.append((letter.receiver[0], letter.order.alert.seq))

    def ends(self, said: str) -> None:
        Post.under_way.remove(self)
        self.done(self, said)

    def let_go(self) -> None:
        Post.under_way.remove(self)


class Post:
    under_way: list[Sent] = []
    history: list[tuple[str, int]] = []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    Post.under_way, Post.history = [], []
    monkeypatch.setattr(messenger, "_Sending", Sent)
    monkeypatch.setattr(messenger, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def health(tmp_path: Path) -> Health:
    return Health(str(tmp_path), Log(str(tmp_path / "log")))


@pytest.fixture
def guard() -> Iterator[KeepsFds]:
    guard = KeepsFds(0)
    yield guard
    for name in list(guard.kept):
        guard.forget(name)


@pytest.fixture
def post(clock: Clock, told: list[tuple[str, str]], health: Health, guard: KeepsFds) -> Iterator[Messenger]:
    post = Messenger(clock, TREES, health, Spare("alerts", guard), lambda app, why: told.append((app, why)))  # type: ignore[arg-type]
    yield post
    post.end()


def order(seq: int = 1, url: str = "http://me:s3cr3t@a:80/s3cr3t?s3cr3t#s3cr3t", **keys: Any) -> SendAlert:
    alert = Alert("", "crash", "api", "api", "default", "", "", seq, "", None, None, 0, 1, {}, [], [], "")
    return SendAlert(alert, 0.0, webhook=url, **keys)


def test_what_fails_is_tried_again_later_and_later_and_then_given_up(
    post: Messenger, clock: Clock, told: list[tuple[str, str]], health: Health
) -> None:
    post.send("api", order())
    clock.run()
    for seconds in RETRIES:
        Post.under_way[0].ends("again: it answers 500")
        clock.run(seconds - 0.1)
        assert not Post.under_way
        clock.run(0.1)
    Post.under_way[0].ends("again: it answers 500")
    clock.run(10_000)
    assert len(Post.history) == len(RETRIES) + 1 == 5
    assert told == [("api", "the webhook at a:80 got no alert of crash: it answers 500, tried 5 times")]
    assert health.warnings() == ["api: the webhook at a:80 got no alert: it answers 500, tried 5 times"]
    post.send("api", order(2))
    clock.run()
    Post.under_way[0].ends("ok")
    assert health.warnings() == [] and len(told) == 1


@pytest.mark.parametrize("said", ["never: it answers 404", "nonsense"])
def test_what_is_of_no_use_is_not_tried_again(
    post: Messenger, clock: Clock, told: list[tuple[str, str]], said: str
) -> None:
    post.send("api", order(url="", command=["/bin/notify", "s3cr3t"]))
    clock.run()
    Post.under_way[0].ends(said)
    clock.run(10_000)
    assert len(Post.history) == 1
    assert told == [("api", f"the command of its alerts got no alert of crash: {said.removeprefix('never: ')}")]


def test_each_receiver_gets_them_in_order_and_one_that_hangs_keeps_no_other_waiting(
    post: Messenger, clock: Clock
) -> None:
    for seq in range(3):
        post.send("a", order(seq, "http://a/"))
        post.send("b", order(10 + seq, "http://b/"))
    clock.run()
    assert Post.history == [("http://a/", 0), ("http://b/", 10)]
    hangs, answers = Post.under_way
    for _ in range(2):
        answers.ends("ok")
        clock.run()
        answers = Post.under_way[-1]
    assert Post.history[2:] == [("http://b/", 11), ("http://b/", 12)]
    hangs.ends("again: no answer")
    answers.ends("ok")
    clock.run(0.5)
    assert not Post.under_way
    clock.run(1)
    Post.under_way[0].ends("ok")
    clock.run()
    assert Post.history[4:] == [("http://a/", 0), ("http://a/", 1)]


def test_there_are_never_more_helpers_than_a_few(post: Messenger, clock: Clock) -> None:
    for number in range(50):
        post.send("api", order(url=f"http://{number}/"))
    clock.run()
    while Post.under_way:
        assert len(Post.under_way) <= HELPERS
        Post.under_way[0].ends("ok")
        clock.run()
    assert len(Post.history) == 50


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(
    post: Messenger, clock: Clock, told: list[tuple[str, str]]
) -> None:
    for seq in range(100):
        post.send("deaf", order(seq, "http://deaf/"))
    clock.run()
    post.send("api", order(0, "http://a/"))
    clock.run()
    assert Post.history == [("http://deaf/", 0), ("http://a/", 0)]
    Post.under_way[0].ends("never: no")
    assert told[1] == ("deaf", f"{100 - WAITING_EACH} alerts were dropped, for too many were waiting to be sent")
    for number in range(1000):
        post.send("api", order(number, f"http://{number}/"))
    assert len(post._waiting) == WAITING
    post.end()
    assert not Post.under_way and not post._waiting


def test_what_was_not_sent_is_sent_by_the_next_daemon(
    post: Messenger, clock: Clock, guard: KeepsFds, health: Health
) -> None:
    for seq in range(3):
        post.send("api", order(seq))
    clock.run()
    Post.under_way[0].ends("again: it answers 500")
    Post.under_way, Post.history = [], []
    heir = Messenger(clock, TREES, health, Spare("alerts", guard), lambda app, why: None)  # type: ignore[arg-type]
    # The dead one does nothing any more.
    clock.due = clock.due[-1:]
    for seq in range(3):
        clock.run(RETRIES[0])
        assert [one.letter.order for one in Post.under_way] == [order(seq)]
        assert Post.under_way[0].letter.tries == (2 if seq == 0 else 1)
        Post.under_way[0].ends("ok")
    clock.run()
    assert guard.kept == {}
    heir.end()


def test_a_helper_that_cannot_be_started_is_a_try_that_failed(
    post: Messenger, clock: Clock, told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(11, os.strerror(11))

    monkeypatch.setattr(messenger, "_Sending", fails)
    post.send("api", order())
    clock.run(sum(RETRIES) + 1)
    assert told and "its helper cannot be started: Resource temporarily unavailable, tried 5 times" in told[0][1]

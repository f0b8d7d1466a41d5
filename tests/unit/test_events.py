"""Events as they are kept and handed on: numbered for ever, none lost or doubled, at the pace of whoever reads."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from oxmgr.model.codec import Decoder, encode
from oxmgr.model.frames import frame
from oxmgr.model.messages import Event, EventsEnd, EventsLost, GetEvents, Reply
from oxmgr.supervisor import eventfile
from oxmgr.supervisor.eventfile import RECORD_MOST, EventFile
from oxmgr.supervisor.events import KEPT, REASON_LIMIT, Events
from oxmgr.supervisor.feed import Feed
from oxmgr.supervisor.health import Health
from oxmgr.supervisor.logfile import Log


class Loop:
    """Calls what is due, when asked to."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def at(self, when: float, callback: Any) -> object:
        self.due.append(callback)
        return callback

    def run(self) -> None:
        while self.due:
            self.due.pop(0)()


class Daemon:
    """The events of one after the other over the same files."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events"
        self.start()

    def start(self) -> None:
        log = Log(str(self.path.parent / "log"))
        self.events = Events(
            EventFile(str(self.path), Loop(), Health(str(self.path.parent), log)),  # type: ignore[arg-type]
            log,
        )

    def tell(self, count: int, reason: str = "") -> None:
        for _ in range(count):
            self.events.tell("started", app="app", reason=reason)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


class Client:
    """Takes nothing, as long as `room` frames are waiting for it."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.got: list[bytes] = []
        self.waiting = 0
        self.most = 0
        self.finished = False
        self.on_close: list[Any] = []
        self.on_room: Any = None

    @property
    def full(self) -> bool:
        return self.waiting >= self.room

    def send_frame(self, data: bytes) -> None:
        self.got.append(data)
        self.waiting += 1
        self.most = max(self.most, self.waiting)

    def send(self, reply: Reply) -> None:
        self.send_frame(frame(encode(reply)))

    def finish(self, reply: Reply) -> None:
        self.send(reply)
        self.finished = True

    def take(self, loop: Loop) -> None:
        """All that has been sent, until nothing more comes."""
        while self.waiting:
            self.waiting = 0
            if self.on_room is not None:
                self.on_room()
            loop.run()

    @property
    def replies(self) -> list[Any]:
        decoder = Decoder(Reply)
        return [decoder.decode(data[4:]) for data in self.got]

    @property
    def numbers(self) -> list[int]:
        return [one.seq for one in self.replies if isinstance(one, Event)]


def feed(daemon: Daemon, client: Client, loop: Loop, **wanted: Any) -> Feed:
    made = Feed(daemon.events, client, loop, GetEvents(**wanted))  # type: ignore[arg-type]
    loop.run()
    return made


# --- numbers ---


def test_numbers_go_on_from_daemon_to_daemon(daemon: Daemon) -> None:
    for _ in range(5):
        daemon.tell(7)
        daemon.start()
    assert daemon.events.last == 35


def full(fd: int, data: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_number_is_given_twice_when_the_events_could_not_be_written(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.tell(3)
    with monkeypatch.context() as patch:
        patch.setattr(eventfile, "append", full)
        daemon.tell(4)
    daemon.start()
    daemon.tell(1)
    assert daemon.events.last == 8
    assert [event.seq for event in daemon.events.file.recent()] == [1, 2, 3, 8]


def test_numbers_go_on_where_the_sequence_is_missing_or_nonsense(daemon: Daemon) -> None:
    daemon.tell(3)
    counter = daemon.path.parent / "sequence"
    for text in (b"", b"nonsense", b"\xff" * 20):
        counter.write_bytes(text)
        daemon.start()
        daemon.tell(1)
    counter.unlink()
    daemon.start()
    assert daemon.events.last == 6


def test_numbers_go_on_when_a_kill_came_between_two_files(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.tell(10)
    os.rename(daemon.path, f"{daemon.path}.1")
    (daemon.path.parent / "sequence").unlink()
    daemon.start()
    daemon.tell(1)
    assert daemon.events.last == 11


def test_a_torn_record_costs_that_event_alone(daemon: Daemon) -> None:
    daemon.tell(5)
    os.truncate(daemon.path, daemon.path.stat().st_size - 3)
    daemon.start()
    daemon.tell(2)
    # It was told to nobody either, so another one has its number.
    assert daemon.events.last == 6
    client, loop = Client(), Loop()
    feed(daemon, client, loop, limit=100)
    assert client.numbers == [1, 2, 3, 4, 5, 6]


def test_ten_thousand_are_kept_and_no_more_than_twice_that(daemon: Daemon) -> None:
    client, loop = Client(), Loop()
    daemon.tell(3 * eventfile.KEPT_EVENTS + 500)
    feed(daemon, client, loop, limit=1_000_000)
    assert client.numbers == list(range(client.numbers[0], 3 * eventfile.KEPT_EVENTS + 501))
    assert eventfile.KEPT_EVENTS <= len(client.numbers) <= 2 * eventfile.KEPT_EVENTS
    assert len(daemon.events.recent) <= 2 * KEPT
    daemon.start()
    client = Client()
    feed(daemon, client, loop, limit=eventfile.KEPT_EVENTS)
    assert len(client.numbers) == eventfile.KEPT_EVENTS and client.finished


def test_no_record_is_larger_than_the_reader_takes_it_to_be(daemon: Daemon) -> None:
    daemon.tell(1, "\U0001f600" * 100_000)
    assert daemon.path.stat().st_size < RECORD_MOST
    [event] = daemon.events.file.recent()
    assert len(event.reason) == REASON_LIMIT + 1


# --- feeds ---


def test_a_feed_goes_from_the_files_through_memory_to_what_comes(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventfile, "KEPT_EVENTS", 2000)
    daemon.tell(3500)
    client, loop = Client(), Loop()
    Feed(daemon.events, client, loop, GetEvents(limit=1 << 62, follow=True))  # type: ignore[arg-type]
    while loop.due:
        loop.due.pop(0)()
        # The files change their names while they are read.
        daemon.tell(20)
    end = next(at for at, one in enumerate(client.replies) if isinstance(one, EventsEnd))
    daemon.tell(10)
    assert client.numbers == list(range(1, daemon.events.last + 1))
    assert end > 3500


@pytest.mark.parametrize(
    ("after", "limit", "first"), [(0, 5, 2996), (2990, 100, 2991), (2990, 3, 2998), (7, 1 << 40, 8)]
)
def test_a_feed_begins_where_it_is_asked_to(daemon: Daemon, after: int, limit: int, first: int) -> None:
    daemon.tell(3000)
    client, loop = Client(), Loop()
    feed(daemon, client, loop, after=after, limit=limit)
    assert client.numbers == list(range(first, 3001))
    assert not any(isinstance(one, EventsLost) for one in client.replies) and client.finished


@pytest.mark.parametrize("after", [3000, 10**6])
def test_there_may_be_nothing_behind_it_yet(daemon: Daemon, after: int) -> None:
    daemon.tell(3000)
    client, loop = Client(), Loop()
    feed(daemon, client, loop, after=after, follow=True)
    daemon.tell(2)
    assert client.numbers == [3001, 3002]


def test_a_slow_client_costs_little_and_misses_nothing_that_is_kept(daemon: Daemon) -> None:
    client, loop = Client(room=10), Loop()
    feed(daemon, client, loop, limit=0, follow=True)
    client.take(loop)
    daemon.tell(5000)
    loop.run()
    assert client.waiting == 10
    client.take(loop)
    assert client.numbers == list(range(1, 5001))
    # Of a slice of a file it gets all.
    assert client.most < 1000


def test_a_client_that_is_too_slow_is_told_how_many_it_misses(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventfile, "KEPT_EVENTS", 1000)
    client, loop = Client(room=10), Loop()
    feed(daemon, client, loop, limit=0, follow=True)
    daemon.tell(9500)
    client.take(loop)
    lost = [one.count for one in client.replies if isinstance(one, EventsLost)]
    assert len(lost) == 1 and lost[0] + len(client.numbers) == 9500
    assert client.numbers[-1] == 9500


def test_who_comes_too_late_is_told_but_not_who_never_had_any(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventfile, "KEPT_EVENTS", 1000)
    daemon.tell(5000)
    late, fresh, loop = Client(), Client(), Loop()
    feed(daemon, late, loop, after=1000, limit=1 << 62)
    feed(daemon, fresh, loop, limit=1 << 62)
    assert late.replies[0] == EventsLost(late.numbers[0] - 1001)
    assert fresh.numbers == late.numbers and not any(isinstance(one, EventsLost) for one in fresh.replies)


def test_events_that_could_not_be_written_are_told_as_lost(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.tell(10)
    client, loop = Client(room=5), Loop()
    feed(daemon, client, loop, after=1, limit=1 << 62, follow=True)
    monkeypatch.setattr(eventfile, "append", full)
    daemon.tell(3 * KEPT)
    client.take(loop)
    lost = sum(one.count for one in client.replies if isinstance(one, EventsLost))
    assert lost > 0 and lost + len(client.numbers) == daemon.events.last - 1


def test_a_client_that_goes_takes_its_feed_and_its_files_with_it(daemon: Daemon) -> None:
    daemon.tell(5000)
    before = len(os.listdir("/proc/self/fd"))
    client, loop = Client(room=10), Loop()
    feed(daemon, client, loop, limit=1 << 62, follow=True)
    assert len(os.listdir("/proc/self/fd")) > before
    for callback in client.on_close:
        callback()
    daemon.tell(1)
    loop.run()
    assert len(os.listdir("/proc/self/fd")) == before and not daemon.events.feeds

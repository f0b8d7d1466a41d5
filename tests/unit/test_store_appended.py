"""The files that are appended to: a torn end is cut, damage is passed over, and what cannot be written is written later."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxmgr.model.messages import Event, Observed
from oxmgr.model.records import MARK, Newer
from oxmgr.supervisor.eventfile import KEPT, RECENT
from oxmgr.supervisor.journal import JOURNAL_LIMIT
from tests.unit.store import KeepsFds, Killed, Store, nothing_open, told_of_calls

__all__ = ["nothing_open"]

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE)
APPS = [Observed(name, 0, "running", pid=number + 1, reason=name * 9) for number, name in enumerate("abcd")]
EVENTS = [Event(number + 1, 1.5, "started", "app", "app", reason="x" * number) for number in range(5)]
fixture_is_fine = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a record of each of APPS and EVENTS."""
    store = Store(tmp_path / "state")
    store.journal.open(list)
    for seen in APPS:
        store.journal.add(seen)
    for event in EVENTS:
        store.events.add(event)
    return tmp_path / "state"


def journaled(store: Store) -> list[Observed]:
    return list(store.journal.load().seen.values())


def numbers(store: Store) -> list[int]:
    return [event.seq for event in store.events.recent()]


def hurt(path: Path, data: st.DataObject) -> bytes:
    """Cut it off or have bytes of it rot, anywhere; what was there."""
    good = path.read_bytes()
    bad = bytearray(good)
    if data.draw(st.booleans()):
        del bad[data.draw(st.integers(0, len(bad) - 1)) :]
    else:
        for at in data.draw(st.sets(st.integers(0, len(bad) - 1), min_size=1, max_size=3)):
            bad[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bad)
    return good


def is_told(store: Store, good: bytes, bad: bytes) -> bool:
    """A file that ends with a record is as it was at an earlier time, and so is not damaged."""
    return bool(store.health.warnings()) or (good.startswith(bad) and good[len(bad) :].startswith(MARK))


@fixture_is_fine
@given(data=st.data())
def test_a_hurt_journal_gives_records_that_were_written_tells_of_it_and_goes_on(
    folder: Path, data: st.DataObject
) -> None:
    state = Path(shutil.copytree(folder, folder.parent / "hurt"))
    try:
        good = hurt(state / "journal", data)
        bad = (state / "journal").read_bytes()
        store = Store(state)
        try:
            found = journaled(store)
        except Newer:
            assert bad[:16] != b"oxmgr journal 1\n"
            return
        assert all(one in APPS for one in found)
        assert is_told(store, good, bad)
        if store.health.warnings():
            (aside,) = state.glob("journal.damaged-*")
            assert aside.read_bytes() == bad
        store.journal.open(lambda: found)
        fresh = Observed("fresh", 0, "running")
        store.journal.add(fresh)
        again = Store(state)
        assert journaled(again) == [*found, fresh]
        again.journal.open(lambda: [*found, fresh])
        assert len(list(state.glob("journal.*"))) <= 1, "what is written anew is whole"
    finally:
        shutil.rmtree(state)


@pytest.mark.parametrize("which", range(4))
def test_a_damaged_record_of_the_journal_costs_that_one_and_is_told(folder: Path, which: int) -> None:
    path = folder / "journal"
    data = bytearray(path.read_bytes())
    ends = [at for at in range(len(data)) if data[at:].startswith(MARK)] + [len(data)]
    data[ends[which + 2] - 1] ^= 1
    path.write_bytes(data)
    store = Store(folder)
    assert journaled(store) == [one for one in APPS if one is not APPS[which]]
    (aside,) = folder.glob("journal.damaged-*")
    assert any(str(aside) in text for text in store.health.warnings())


@fixture_is_fine
@given(data=st.data())
def test_hurt_events_are_those_that_were_written_and_later_ones_are_not_lost(folder: Path, data: st.DataObject) -> None:
    state = Path(shutil.copytree(folder, folder.parent / "hurt"))
    try:
        good = hurt(state / "events", data)
        bad = (state / "events").read_bytes()
        store = Store(state)
        found = store.events.recent()
        assert all(one in EVENTS for one in found)
        for number in range(100, 103):
            store.events.add(Event(number, 2.5, "stopped"))
        assert is_told(store, good, bad)
        if store.health.warnings():
            (aside,) = [*state.glob("events.damaged-*"), *state.glob("events.newer-*")]
            assert aside.read_bytes() == bad
        again = Store(state)
        assert numbers(again) == [*(event.seq for event in found), 100, 101, 102]
        again.events.add(EVENTS[0])
        assert len(list(state.glob("events.*"))) <= 1
    finally:
        shutil.rmtree(state)


def test_of_long_events_the_end_is_read_and_all_that_is_good_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(1000):
        store.events.add(Event(number, 1.5, "started", reason="x" * 100))
    path = tmp_path / "events"
    assert path.stat().st_size > 3 * RECENT
    with open(path, "ab") as file:
        file.write(MARK + b"\0\0\0\x50torn")
    store = Store(tmp_path)
    store.events.add(Event(1000, 1.5, "started"))
    assert [text for text in store.health.warnings() if "events.damaged-" in text]
    store = Store(tmp_path)
    assert numbers(store)[-3:] == [998, 999, 1000] and store.health.warnings()
    store.events.add(Event(1001, 1.5, "started"))
    whole = path.read_bytes()
    assert whole.count(MARK) == 1002 and b"torn" not in whole


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("good", range(12))
def test_an_error_at_any_call_loses_nothing_that_is_written_later(folder: Path, number: int, good: int) -> None:
    store = Store(folder)
    fds = len(os.listdir("/proc/self/fd"))
    last = {one.app: one for one in journaled(store)}
    made = 0

    def fail(name: str, args: Any) -> None:
        nonlocal made
        made += 1
        if made > good:
            raise OSError(number, os.strerror(number))

    def see(one: Observed) -> None:
        last[one.app] = one
        store.journal.add(one)

    with told_of_calls(folder, fail):
        store.journal.open(last.values)
        store.events.add(Event(6, 1.5, "started"))
        for count in range(10):
            see(Observed("e", 0, "running", restarts=count))
            store.events.add(Event(7 + count, 1.5, "crashed"))
        assert made > good
        told = " ".join(store.health.warnings())
        assert f"journal cannot be written ({os.strerror(number)}): apps are supervised all the same" in told
        assert f"events cannot be written ({os.strerror(number)})" in told
    store.times.pass_by()
    assert store.health.warnings() == []
    again = Store(folder)
    assert journaled(again) == list(last.values())
    assert numbers(again) == list(range(1, 17))
    assert again.health.warnings() == []
    assert len(os.listdir("/proc/self/fd")) == fds + 2


def test_while_it_cannot_be_written_it_is_tried_by_the_clock_alone(folder: Path) -> None:
    """Writing all of it anew at each crash would make a full disk slow as well."""
    store = Store(folder)
    calls = 0

    def fail(name: str, args: Any) -> None:
        nonlocal calls
        calls += 1
        raise OSError(errno.ENOSPC, "")

    with told_of_calls(folder, fail):
        store.journal.open(list)
        store.events.add(EVENTS[0])
        first = calls
        for number in range(2 * KEPT):
            store.journal.add(APPS[0])
            store.events.add(Event(10 + number, 1.5, "crashed"))
        assert calls == first
    store.times.pass_by()
    assert numbers(Store(folder))[-KEPT:] == list(range(10 + KEPT, 10 + 2 * KEPT))


def test_a_short_write_is_taken_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(folder)
    store.journal.open(lambda: APPS)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:-3]))
        patch.setattr(os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        store.journal.add(APPS[0])
        store.events.add(Event(6, 1.5, "started"))
    # It could not even be taken back, so what comes is not appended to it.
    store.times.pass_by()
    again = Store(folder)
    assert journaled(again) == APPS and numbers(again) == [1, 2, 3, 4, 5, 6]


def test_what_an_earlier_daemon_journaled_stays_until_all_of_it_is_known(folder: Path) -> None:
    store = Store(folder)
    journaled(store)
    store.journal.add(Observed("a", 0, "stopped"))
    assert journaled(Store(folder)) == APPS


def test_a_kill_at_any_call_leaves_a_journal_and_events_that_are_whole(folder: Path) -> None:
    for call in range(12):
        state = Path(shutil.copytree(folder, folder.parent / f"at{call}"))
        store = Store(state)
        seen = journaled(store)
        made = 0

        def kill(name: str, args: Any, call: int = call) -> None:
            nonlocal made
            made += 1
            if made > call:
                raise Killed

        with told_of_calls(state, kill):
            try:
                store.journal.open(lambda seen=seen: seen)  # type: ignore[misc]
                store.events.add(Event(6, 1.5, "started"))
                store.journal.add(APPS[0])
            except Killed:
                pass
        again = Store(state)
        assert journaled(again) == APPS and numbers(again)[:5] == [1, 2, 3, 4, 5]
        again.events.add(Event(7, 1.5, "started"))
        assert again.health.warnings() == []


def test_a_journal_of_a_later_version_is_not_read_and_events_of_one_are_kept_aside(folder: Path) -> None:
    for name in ("journal", "events"):
        path = folder / name
        path.write_bytes(path.read_bytes().replace(f"oxmgr {name} 1\n".encode(), f"oxmgr {name} 2\n".encode()))
    later = (folder / "events").read_bytes()
    store = Store(folder)
    with pytest.raises(Newer, match="start a later version, or move this file away"):
        store.journal.load()
    assert store.events.recent() == []
    store.events.add(EVENTS[0])
    (aside,) = folder.glob("events.newer-*")
    assert aside.read_bytes() == later and any(str(aside) in text for text in store.health.warnings())
    assert numbers(Store(folder)) == [1]


def test_a_journal_that_cannot_be_written_is_with_the_guard_for_the_next_daemon(folder: Path) -> None:
    guard = KeepsFds(0)
    on_disk = (folder / "journal").read_bytes()

    def full(name: str, args: Any) -> None:
        raise OSError(errno.ENOSPC, "")

    with told_of_calls(folder, full):
        store = Store(folder, guard)
        store.journal.open(lambda: APPS)
        for number in range(3):
            store.journal.add(Observed("late", 0, "running", pid=100 + number))
        expected = [*APPS, Observed("late", 0, "running", pid=102)]
        for _ in range(2):
            store = Store(folder, guard)
            assert journaled(store) == expected
            store.journal.open(lambda: expected)
    assert (folder / "journal").read_bytes() == on_disk
    store.times.pass_by()
    assert journaled(Store(folder)) == expected and guard.kept == {}


def test_a_journal_in_memory_does_not_grow_for_ever(folder: Path) -> None:
    guard = KeepsFds(0)
    store = Store(folder, guard)

    def full(name: str, args: Any) -> None:
        raise OSError(errno.ENOSPC, "")

    with told_of_calls(folder, full):
        store.journal.open(lambda: APPS)
        for _ in range(10_000):
            store.journal.add(APPS[0])
    assert os.fstat(guard.kept["state/journal"]).st_size < JOURNAL_LIMIT + 1000

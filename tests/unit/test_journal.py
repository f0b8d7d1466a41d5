"""The files that are appended to: they stay small, and the last word counts."""

import os
from pathlib import Path

import pytest

from oxmgr.model.messages import Event, Observed
from oxmgr.supervisor.eventfile import EventFile
from oxmgr.supervisor.guard import Guard
from oxmgr.supervisor.health import Health
from oxmgr.supervisor.journal import JOURNAL_LIMIT, Journal
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.loop import Loop
from oxmgr.supervisor.spare import Spare


@pytest.fixture
def health(tmp_path: Path) -> Health:
    return Health(str(tmp_path), Log(str(tmp_path / "log")))


@pytest.fixture
def loop() -> Loop:
    def failed(error: Exception) -> None:
        raise error

    return Loop(failed)


def test_the_journal_does_not_grow_for_ever_and_keeps_the_last_of_each(
    tmp_path: Path, loop: Loop, health: Health
) -> None:
    path = tmp_path / "journal"
    last = {("app", index): Observed("app", index, "running", pid=1, restarts=0) for index in range(10)}
    journal = Journal(str(path), loop, health, Spare("journal", Guard(-1)))
    journal.open(lambda: last.values())
    largest = 0
    for count in range(20_000):
        seen = Observed("app", count % 10, "running", pid=count + 1, restarts=count)
        last["app", count % 10] = seen
        journal.add(seen)
        largest = max(largest, path.stat().st_size)
    assert JOURNAL_LIMIT < largest < JOURNAL_LIMIT + 2000
    past = Journal(str(path), loop, health, Spare("journal", Guard(-1))).load()
    assert (past.seen, past.others, past.same_boot) == (last, [], True)
    assert health.warnings() == []


def test_with_many_instances_it_is_not_written_anew_all_the_time(tmp_path: Path, loop: Loop, health: Health) -> None:
    """Else a thousand crashes would write a thousand instances each."""
    many = [Observed("app" * 10, index, "running", reason="x" * 100) for index in range(5000)]
    calls = 0

    def everything() -> list[Observed]:
        nonlocal calls
        calls += 1
        return many

    journal = Journal(str(tmp_path / "journal"), loop, health, Spare("journal", Guard(-1)))
    journal.open(everything)
    for one in many:
        journal.add(one)
    assert calls <= 2


def test_what_was_deleted_is_forgotten(tmp_path: Path, loop: Loop, health: Health) -> None:
    journal = Journal(str(tmp_path / "journal"), loop, health, Spare("journal", Guard(-1)))
    journal.open(list)
    journal.add(Observed("a", 0, "running"))
    journal.add(Observed("b", 0, "running"))
    journal.add(Observed("a", 0, "stopped", gone=True))
    assert list(Journal(str(tmp_path / "journal"), loop, health, Spare("journal", Guard(-1))).load().seen) == [("b", 0)]


def test_the_recent_events_are_the_last(tmp_path: Path, loop: Loop, health: Health) -> None:
    path = tmp_path / "events"
    events = EventFile(str(path), loop, health)
    count = 1000
    for seq in range(1, count + 1):
        events.add(Event(seq, 0.0, "started", "app", "app:1", reason="x" * 200))
    recent = EventFile(str(path), loop, health).recent()
    assert len(recent) > 100
    assert [event.seq for event in recent] == list(range(count - len(recent) + 1, count + 1))


def test_the_daemons_own_log_is_two_files_of_a_bounded_size(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "own.log"))
    for _ in range(6000):
        log("x" * 1000)
    assert sorted(os.listdir(tmp_path)) == ["own.log", "own.log.1"]
    assert all((tmp_path / name).stat().st_size <= 4 * 1024 * 1024 for name in os.listdir(tmp_path))
    log.close()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_daemons_own_log_goes_on_where_it_should_be_when_somebody_has_removed_it(tmp_path: Path, what: str) -> None:
    path = tmp_path / "logs" / "own.log"
    log = Log(str(path))
    log("before")
    path.unlink()
    if what == "folder":
        path.parent.rmdir()
    log("after")
    log.close()
    assert [line.split(" ", 2)[2] for line in path.read_text().splitlines()] == ["after"]


def test_and_when_somebody_has_renamed_it(tmp_path: Path) -> None:
    path = tmp_path / "own.log"
    log = Log(str(path))
    log("before")
    path.rename(tmp_path / "aside")
    log("after")
    # logrotate's `create`.
    path.rename(tmp_path / "aside.2")
    path.touch()
    log("last")
    log.close()
    assert [(tmp_path / name).read_text().split()[2:] for name in ("aside", "aside.2", "own.log")] == [
        *(["before"], ["after"], ["last"])
    ]


def test_lines_that_cannot_be_written_are_counted_and_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    path = folder / "own.log"
    log = Log(str(path))
    log("before")
    folder.rename(tmp_path / "aside")
    folder.touch()
    # Its name is taken, but the file is still there under another one.
    log("aside")
    assert (tmp_path / "aside" / "own.log").read_text().count("\n") == 2
    (tmp_path / "aside" / "own.log").unlink()
    for _ in range(3):
        log("to nobody")
    folder.unlink()
    log("after")
    log.close()
    told = [line.split(" ", 2)[2] for line in path.read_text().splitlines()]
    assert told == ["3 lines before this one could not be written", "after"]


def test_a_log_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = Log(str(tmp_path / "file" / "own.log"))
    log("to nobody")

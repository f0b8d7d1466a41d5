"""Files of the state folder that are there and cannot be read: that is no damage."""

import errno
import os
from pathlib import Path

import pytest

from oxmgr.model.messages import Observed
from oxmgr.supervisor import health
from oxmgr.supervisor.native import read_whole
from tests.unit.store import Store, nothing_open

__all__ = ["nothing_open"]

ERRORS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`ab` were desired, and `bcd` are; of one app the journal tells."""
    store = Store(tmp_path)
    store.put("a", "b")
    store.put("b", "c", "d")
    store.journal.open(list)
    store.journal.add(Observed("a", 0, "running", pid=7))
    return tmp_path


def fail(patch: pytest.MonkeyPatch, path: Path, number: int, times: int) -> None:
    """So many readings of that file."""
    left = times

    def reads(name: str) -> bytes:
        nonlocal left
        if name == str(path) and left > 0:
            left -= 1
            raise OSError(number, os.strerror(number))
        return read_whole(name)

    patch.setattr(health, "read_whole", reads)
    patch.setattr(health, "READ_PATIENCE", 0.2)


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.__getitem__)
def test_what_cannot_be_read_for_a_moment_is_read_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = Store(folder)
    for name in ("desired", "journal"):
        fail(monkeypatch, folder / name, number, 2)
        if name == "desired":
            assert store.desired.load() and store.names() == "bcd"
        else:
            assert store.journal.load().seen["a", 0].pid == 7
    assert store.health.warnings() == [] and not list(folder.glob("*.damaged-*"))


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.__getitem__)
def test_what_cannot_be_known_to_be_desired_is_not_guessed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = (folder / "desired").read_bytes()
    store = Store(folder)
    fail(monkeypatch, folder / "desired", number, 1_000_000)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        store.desired.load()
    assert raised.value.filename == str(folder / "desired")
    assert store.health.warnings() == [] and (folder / "desired").read_bytes() == whole
    monkeypatch.undo()
    again = Store(folder)
    assert again.desired.load() and again.names() == "bcd"


def test_of_a_journal_it_is_known_whether_another_try_may_help(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(folder)
    for number in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        fail(monkeypatch, folder / "journal", number, 1_000_000)
        with pytest.raises(OSError, match=os.strerror(number)):
            store.journal.load()
    assert store.health.warnings() == []
    fail(monkeypatch, folder / "journal", errno.EIO, 1_000_000)
    past = store.journal.load()
    assert past.unread == os.strerror(errno.EIO) and past.seen == {}
    assert [text for text in store.health.warnings() if "journal.damaged-" in text]

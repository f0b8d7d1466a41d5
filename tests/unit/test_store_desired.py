"""The state folder at its worst: what is desired is kept, whatever is cut off, rots, fails or is killed."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxmgr.model.records import MARK, Newer
from tests.unit.store import KeepsFds, Killed, Store, nothing_open, told_of_calls

__all__ = ["nothing_open"]

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE)


def snapshots(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "desired").read_bytes(), (folder / "desired.1").read_bytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ab` were desired, and `bcd` are."""
    folder = tmp_path_factory.mktemp("state")
    store = Store(folder)
    assert store.put("a", "b") is None and store.put("b", "c", "d") is None
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "state"))


def test_the_snapshot_before_is_kept(folder: Path) -> None:
    store = Store(folder)
    assert store.desired.load() and store.names() == "bcd"
    shutil.copy(folder / "desired.1", folder / "desired")
    store = Store(folder)
    assert store.desired.load() and store.names() == "ab"


@pytest.mark.parametrize("damage", ["cut", "rot", "empty", "folder", "missing", "other"])
def test_what_cannot_be_read_whole_falls_back_to_the_one_before_and_both_are_kept(folder: Path, damage: str) -> None:
    path = folder / "desired"
    whole, before = snapshots(folder)
    bad = {"cut": whole[:-5], "rot": whole[:-1] + b"\xff", "empty": b"", "other": b"oxmgr events 1\n"}.get(damage)
    if bad is None:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    else:
        path.write_bytes(bad)
    store = Store(folder)
    assert not store.desired.load(), "apps that it alone knew must not be killed"
    assert store.names() == "ab"
    assert any("desired before the last change" in text for text in store.health.warnings())
    aside = list(folder.glob("desired.damaged-*"))
    assert len(aside) == (damage != "missing")
    if bad is not None:
        assert aside[0].read_bytes() == bad
    # It is on the disk again at once, and the one before is not written over.
    assert snapshots(folder) == (before, before)
    # Whoever comes next goes on being careful until somebody has looked.
    again = Store(folder)
    assert again.desired.load() == (damage == "missing") and again.names() == "ab"
    assert [str(kept) in text for kept in aside for text in again.health.warnings()] == [True] * len(aside)


def test_without_a_whole_one_the_good_records_are_taken(folder: Path) -> None:
    whole, before = snapshots(folder)
    (folder / "desired").write_bytes(whole[:-1] + b"\xff")
    (folder / "desired.1").write_bytes(before[:-1] + b"\xff")
    store = Store(folder)
    assert not store.desired.load() and store.names() == "bc"
    assert len(list(folder.glob("desired.*damaged-*"))) == 2


def test_an_empty_one_before_is_no_better_than_good_records(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("x")
    store.put()
    store.put("a", "b")
    whole, _ = snapshots(tmp_path)
    (tmp_path / "desired").write_bytes(whole[:-1] + b"\xff")
    store = Store(tmp_path)
    assert not store.desired.load() and store.names() == "a"


@pytest.mark.parametrize("name", ["desired", "desired.1"])
def test_what_a_later_version_wrote_is_neither_read_nor_touched(folder: Path, name: str) -> None:
    if name == "desired.1":
        (folder / "desired").write_bytes(b"")
    (folder / name).write_bytes(b"oxmgr desired 7\n" + os.urandom(100))
    before = snapshots(folder)
    with pytest.raises(Newer, match=r"has format 7, .* up to 1: start a later version, or move this file away"):
        Store(folder).desired.load()
    assert snapshots(folder) == before


@pytest.mark.parametrize("record", range(7))
def test_a_cut_between_two_records_is_seen(folder: Path, record: int) -> None:
    """Else the apps behind it would be taken for deleted, and killed."""
    path = folder / "desired"
    whole = path.read_bytes()
    starts = [at for at in range(len(whole)) if whole[at:].startswith(MARK)]
    assert len(starts) == 7, "their number, three environments, three apps"
    path.write_bytes(whole[: starts[record]])
    store = Store(folder)
    assert not store.desired.load() and store.names() == "ab" and len(store.health.warnings()) == 2


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_cut_off_or_rots_gives_the_last_snapshot_or_the_one_before(
    saved: Path, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(saved, saved.parent / "hurt", dirs_exist_ok=False))
    try:
        whole = bytearray((folder / "desired").read_bytes())
        if data.draw(st.booleans()):
            del whole[data.draw(st.integers(0, len(whole) - 1)) :]
        else:
            for at in data.draw(st.sets(st.integers(0, len(whole) - 1), min_size=1, max_size=3)):
                whole[at] ^= data.draw(st.integers(1, 255))
        (folder / "desired").write_bytes(whole)
        store = Store(folder)
        try:
            assert not store.desired.load()
        except Newer:
            # A digit of the format that became another one.
            assert whole[:16] != b"oxmgr desired 1\n"
            return
        assert store.names() == "ab"
        assert len(store.health.warnings()) == 2, "the file kept aside, and what was done"
    finally:
        shutil.rmtree(folder)


def count_calls(folder: Path) -> int:
    calls: list[str] = []
    with told_of_calls(folder, lambda name, args: calls.append(name)):
        Store(folder).put("e")
    assert {"makedirs", "open", "write", "fsync", "link", "unlink", "rename"} == set(calls)
    return len(calls)


def test_a_kill_at_any_call_of_a_write_leaves_the_old_or_the_new_snapshot_whole(saved: Path, tmp_path: Path) -> None:
    total = count_calls(Path(shutil.copytree(saved, tmp_path / "count")))
    seen = []
    for call in range(total + 1):
        folder = Path(shutil.copytree(saved, tmp_path / f"at{call}"))
        store = Store(folder)
        store.desired.load()
        made = 0

        def kill(name: str, args: Any, call: int = call) -> None:
            nonlocal made
            made += 1
            if made == call + 1:
                if name == "write":
                    # Some of it is there.
                    with open(f"/proc/self/fd/{args[0]}", "ab") as file:
                        file.write(args[1][:-7])
                raise Killed

        with told_of_calls(folder, kill):
            try:
                store.put("e")
            except Killed:
                pass
        again = Store(folder)
        assert again.desired.load(), "nothing is damaged"
        assert again.health.warnings() == [] and not list(folder.glob("*.new"))
        seen.append(again.names())
    assert seen == sorted(seen) and set(seen) == {"bcd", "e"}


def test_the_data_are_on_the_disk_before_they_have_the_name_and_the_name_before_it_is_told(folder: Path) -> None:
    calls: list[str] = []

    def note(name: str, args: Any) -> None:
        where = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else args[0]
        calls.append(f"{name} {os.path.basename(where)}")

    store = Store(folder)
    store.desired.load()
    with told_of_calls(folder, note):
        store.put("e")
    assert [call for call in calls if call.split()[0] not in ("makedirs", "open")] == [
        "write desired.new",
        "fsync desired.new",
        "unlink desired.1",
        "link desired",
        "rename desired.new",
        f"fsync {folder.name}",
    ]


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.__getitem__)
def test_an_error_at_any_call_leaves_it_in_memory_and_it_is_written_as_soon_as_it_can_be(
    saved: Path, tmp_path: Path, number: int
) -> None:
    for call in range(count_calls(Path(shutil.copytree(saved, tmp_path / "count")))):
        folder = Path(shutil.copytree(saved, tmp_path / f"at{call}"))
        store = Store(folder)
        store.desired.load()
        made = 0

        def fail(name: str, args: Any, call: int = call) -> None:
            nonlocal made
            made += 1
            if made > call:
                raise OSError(number, os.strerror(number))

        fds = len(os.listdir("/proc/self/fd"))
        with told_of_calls(folder, fail):
            error = store.put("e")
            assert error is not None and error.errno == number
            assert store.names() == "e" and not store.desired.saved and store.desired.idle
            assert any(os.strerror(number) in text and "lost if" in text for text in store.health.warnings())
            store.times.pass_by()
            assert not store.desired.saved
        assert Store(folder).desired.load(), "one of them is whole"
        store.times.pass_by()
        assert store.desired.saved and store.health.warnings() == []
        assert len(os.listdir("/proc/self/fd")) == fds
        again = Store(folder)
        assert again.desired.load() and again.names() == "e"


def test_where_a_file_can_have_one_name_only_the_one_before_is_kept_too(folder: Path) -> None:
    def no_links(name: str, args: Any) -> None:
        if name == "link":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    store = Store(folder)
    store.desired.load()
    with told_of_calls(folder, no_links):
        store.put("e")
    (folder / "desired").unlink()
    again = Store(folder)
    assert not again.desired.load() and again.names() == "bcd"


def test_a_folder_that_was_not_there_is_made_when_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "mount").write_text("in the way")
    store = Store(tmp_path / "mount" / "state")
    assert store.desired.load() is False
    assert store.put("a") is not None and store.names() == "a"
    (tmp_path / "mount").unlink()
    store.times.pass_by()
    again = Store(tmp_path / "mount" / "state")
    assert again.desired.load() and again.names() == "a"


def test_what_cannot_be_kept_aside_yet_is_when_it_is_written_over(folder: Path) -> None:
    (folder / "desired").write_bytes(b"rotten")

    def full(name: str, args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with told_of_calls(folder, full):
        store = Store(folder)
        assert not store.desired.load() and store.names() == "ab"
        assert any("cannot be kept aside yet" in text for text in store.health.warnings())
    assert (folder / "desired").read_bytes() == b"rotten"
    store.times.pass_by()
    (aside,) = folder.glob("desired.damaged-*")
    assert aside.read_bytes() == b"rotten" and any(str(aside) in text for text in store.health.warnings())
    assert store.desired.saved


def test_what_could_not_be_written_is_with_the_guard_for_the_next_daemon(folder: Path) -> None:
    def full(name: str, args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guard = KeepsFds(0)
    with told_of_calls(folder, full):
        store = Store(folder, guard)
        store.desired.load()
        store.put("e")
        store.put("f")
        # It is killed, and so is the next.
        for _ in range(2):
            store = Store(folder, guard)
            assert store.desired.load() and store.names() == "f" and not store.desired.saved
            assert any("lost if" in text for text in store.health.warnings())
    store.times.pass_by()
    assert store.desired.saved and guard.kept == {}
    again = Store(folder)
    assert again.desired.load() and again.names() == "f"
    shutil.copy(folder / "desired.1", folder / "desired")
    again = Store(folder)
    assert again.desired.load() and again.names() == "bcd"

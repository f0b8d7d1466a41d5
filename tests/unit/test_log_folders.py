"""A log in a folder that its app's user owns, who can put there what he likes: root is not led elsewhere by it. As root."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxmgr.folders import open_folder
from oxmgr.helpers.compress import compress
from oxmgr.model.logindex import pack_entry, pack_head
from oxmgr.model.spec import Logs
from oxmgr.supervisor.archive import Archive, prune, prune_all
from oxmgr.supervisor.logtimes import first_line_ns
from oxmgr.supervisor.rawlog import RawLog
from tests.unit.logs import AppPipe, move_all, raw_log, rotated_files

NOBODY = 65534
SMALL = Logs(max_size_mb=64 / 1024, max_files=1)
LINES = b"x" * 63 + b"\n"
STAMPS = [f"2026010{day}T000000.000000000Z" for day in range(1, 6)]


@pytest.fixture
def app() -> Iterator[AppPipe]:
    pipe = AppPipe()
    yield pipe
    pipe.close()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of the user's in another one of the user's."""
    folder = tmp_path / "home" / "logs"
    folder.mkdir(parents=True)
    for one in (folder, folder.parent):
        os.chown(one, NOBODY, NOBODY)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder with files that look like those of the log; it is the same afterwards."""
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in ("app.log", "app.log.idx", *(f"app.log~{stamp}" for stamp in STAMPS)):
        (folder / name).write_text(f"precious {name}")
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))
    before = state_of(folder)
    yield folder
    assert state_of(folder) == before


def state_of(folder: Path) -> list[tuple[object, ...]]:
    return sorted(
        (one.name, one.read_bytes(), found.st_ino, found.st_mode, found.st_uid, found.st_mtime_ns)
        for one in folder.iterdir()
        for found in [one.lstat()]
    )


def swap(folder: Path, to: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.symlink_to(to)


def put_link(place: Path, kind: str, to: Path) -> None:
    if kind == "hard":
        place.hardlink_to(to)
    else:
        place.symlink_to(to)


@pytest.mark.parametrize("path", ["log", "logs/new", "hard"])
def test_no_link_is_followed_that_an_apps_user_could_have_put_there(theirs: Path, precious: Path, path: str) -> None:
    (theirs / "log").symlink_to(precious / "app.log")
    (theirs / "logs").symlink_to(precious)
    (theirs / "hard").hardlink_to(precious / "app.log")
    log = raw_log(theirs / path)
    with pytest.raises(OSError) as caught:
        log.open()
    assert not log.passes(caught.value)
    (theirs / "hard").unlink()


def test_links_that_only_root_can_have_put_there_are_followed_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to("real")
    log = raw_log(tmp_path / "to" / "one" / "two" / "log")
    log.open()
    log.close()
    assert (tmp_path / "real" / "one" / "two" / "log").exists()


def test_no_folder_is_made_behind_a_link_of_the_users(theirs: Path, precious: Path) -> None:
    (theirs / "to").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link that others than root can change"):
        raw_log(theirs / "to" / "one" / "two" / "log").open()


def test_a_folder_swapped_before_a_rotation_keeps_its_lines_and_the_rotation_waits(
    app: AppPipe, theirs: Path, precious: Path
) -> None:
    log = raw_log(theirs / "app.log", SMALL)
    app.write(LINES)
    move_all(log, app.pipe)
    swap(theirs, precious)
    for _ in range(8):
        app.write(LINES * 512)
        move_all(log, app.pipe, 4096)
    assert "cannot be rotated" in log.trouble and "symbolic link" in log.trouble
    log.close()
    assert (theirs.with_name("away") / "app.log").read_bytes() == LINES * (8 * 512 + 1)


def test_a_folder_swapped_after_a_rotation_has_nothing_removed_behind_the_link(
    app: AppPipe, theirs: Path, precious: Path
) -> None:
    later: list[Callable[[], None]] = []
    log = RawLog(str(theirs / "app.log"), SMALL, Archive(lambda files: None, later.append))
    for _ in range(8):
        app.write(LINES * 512)
        move_all(log, app.pipe, 4096)
    log.close()
    assert len(rotated_files(log.path)) == len(later) == 3
    swap(theirs, precious)
    for work in later:
        work()
    prune(log.path, SMALL)
    prune_all({log.path: SMALL})
    assert first_line_ns(log.path) == 0
    assert len(rotated_files(str(theirs.with_name("away") / "app.log"))) == 3


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_an_index_that_is_a_link_is_done_without(app: AppPipe, theirs: Path, precious: Path, kind: str) -> None:
    put_link(theirs / "app.log.idx", kind, precious / "app.log")
    log = raw_log(theirs / "app.log")
    app.write(LINES)
    move_all(log, app.pipe)
    log.close()
    assert (theirs / "app.log").read_bytes() == LINES
    # Nor are times taken from there.
    found = (theirs / "app.log").stat()
    assert first_line_ns(log.path) == found.st_mtime_ns
    (theirs / "app.log.idx").unlink()


def test_an_index_that_is_a_fifo_holds_nobody_up(app: AppPipe, theirs: Path) -> None:
    os.mkfifo(theirs / "app.log.idx")
    log = raw_log(theirs / "app.log")
    app.write(LINES)
    move_all(log, app.pipe)
    log.close()
    assert first_line_ns(log.path) == (theirs / "app.log").stat().st_mtime_ns


def test_an_index_left_behind_by_a_rotation_is_not_given_to_a_link(app: AppPipe, theirs: Path, precious: Path) -> None:
    rotated = theirs / f"app.log~{STAMPS[0]}"
    rotated.symlink_to(precious / "app.log")
    inode = (precious / "app.log").stat().st_ino
    (theirs / "app.log.idx").write_bytes(pack_head(inode) + pack_entry(0, 1))
    log = raw_log(theirs / "app.log")
    log.open()
    log.close()
    assert not Path(f"{rotated}.idx").exists()


# --- compression ---


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "hard", "symbolic"])
def test_what_is_no_file_of_the_logs_alone_is_not_compressed(theirs: Path, precious: Path, kind: str) -> None:
    name = f"app.log~{STAMPS[0]}"
    if kind == "fifo":
        os.mkfifo(theirs / name)
    elif kind == "device":
        os.mknod(theirs / name, 0o600 | 0o020000, os.makedev(1, 5))
    elif kind == "folder":
        (theirs / name).mkdir()
    else:
        put_link(theirs / name, kind, precious / "app.log")
    within = open_folder(str(theirs))
    with pytest.raises(OSError):
        compress(within, name)
    os.close(within)
    assert os.listdir(theirs) == [name]
    if kind == "hard":
        (theirs / name).unlink()


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_what_lies_in_the_place_of_the_compressed_one_is_not_written_to(
    theirs: Path, precious: Path, kind: str
) -> None:
    name = f"app.log~{STAMPS[0]}"
    (theirs / name).write_bytes(LINES)
    put_link(theirs / f"{name}.gz.part", kind, precious / "app.log")
    put_link(theirs / f"{name}.gz", kind, precious / "app.log.idx")
    within = open_folder(str(theirs))
    swap(theirs, precious)
    compress(within, name)
    os.close(within)
    away = theirs.with_name("away")
    assert os.listdir(away) == [f"{name}.gz"]
    assert gzip.decompress((away / f"{name}.gz").read_bytes()) == LINES

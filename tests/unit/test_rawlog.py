"""The very bytes of an app in a file, whatever becomes of the file."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.client.logindex import Index
from oxmgr.model.logindex import ENTRY_SIZE, HEAD_SIZE, pack_entry, pack_head
from oxmgr.model.spec import Logs
from oxmgr.supervisor import rawlog
from oxmgr.supervisor.rawlog import MIB, RawLog
from tests.unit.logs import AppPipe, WithOs, history, killed_at, move_all, raw_log, rotated_files

SMALL = Logs(max_size_mb=64 / 1024, max_files=1000)


@pytest.fixture
def app() -> Iterator[AppPipe]:
    pipe = AppPipe()
    yield pipe
    pipe.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "api.out.log"


def numbered(first: int, count: int, width: int = 20) -> bytes:
    return b"".join(b"%0*d\n" % (width, number) for number in range(first, first + count))


def index_of(path: Path) -> Index:
    return Index(Path(f"{path}.idx").read_bytes())


def test_bytes_arrive_as_they_were_in_a_file_that_only_its_group_may_read(app: AppPipe, path: Path) -> None:
    old = os.umask(0o077)
    log = raw_log(path)
    data = bytes(range(256)) * 300 + b"no newline at the end"
    app.write(data)
    move_all(log, app.pipe)
    os.umask(old)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o640
    log.close()


def test_it_goes_on_at_the_end_of_what_is_there(app: AppPipe, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"old\n")
    log = raw_log(path)
    app.write(b"new\n")
    move_all(log, app.pipe)
    log.close()
    assert path.read_bytes() == b"old\nnew\n"


def test_the_index_tells_when_a_byte_was_written(app: AppPipe, path: Path) -> None:
    log = raw_log(path)
    times = []
    for number in range(3):
        times.append(time.time_ns())
        app.write(b"line %d\n" % number)
        move_all(log, app.pipe)
        # The next entry is one of its own only after its least distance.
        end = time.monotonic() + 0.006
        while time.monotonic() < end:
            pass
    log.close()
    index = index_of(path)
    assert len(index) == 3
    assert [index.offset_since(when) for when in times] == [0, 7, 14]


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "link", "socket", "another's", "below a file"])
def test_what_is_no_log_is_refused_and_nothing_is_taken(app: AppPipe, path: Path, kind: str) -> None:
    path.parent.mkdir()
    holder = raw_log(path)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    elif kind == "link":
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "socket":
        os.mknod(path, 0o600 | 0o140000)
    elif kind == "another's":
        holder.open()
    else:
        path.write_bytes(b"")
        path = path / "api.log"
    app.write(b"line\n")
    log = raw_log(path)
    with pytest.raises(OSError) as caught:
        log.move(app.pipe, 1000)
    assert not log.passes(caught.value)
    assert app.pipe.waiting() == 5
    assert not (path.parent / "elsewhere").exists()
    holder.close()


def test_a_removed_file_is_made_anew_and_so_is_its_folder(app: AppPipe, path: Path) -> None:
    log = raw_log(path)
    app.write(b"one\n")
    move_all(log, app.pipe)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    app.write(b"two\n")
    move_all(log, app.pipe)
    log.close()
    assert path.read_bytes() == b"two\n"
    assert len(index_of(path)) == 1


def test_copytruncate_goes_on_at_the_new_end(app: AppPipe, path: Path) -> None:
    log = raw_log(path)
    app.write(b"one\n")
    move_all(log, app.pipe)
    os.truncate(path, 0)
    app.write(b"two\n")
    move_all(log, app.pipe)
    log.close()
    assert path.read_bytes() == b"two\n"
    assert index_of(path).offset(0) == 0


def test_rename_and_reopen_is_a_fresh_file(app: AppPipe, path: Path) -> None:
    log = raw_log(path)
    app.write(b"one\n")
    move_all(log, app.pipe)
    path.rename(f"{path}.1")
    app.write(b"two\n")
    move_all(log, app.pipe)
    log.close()
    app.write(b"three\n")
    move_all(log, app.pipe)
    log.close()
    assert Path(f"{path}.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_what_somebody_adds_is_not_overwritten(app: AppPipe, path: Path) -> None:
    log = raw_log(path)
    app.write(b"one\n")
    move_all(log, app.pipe)
    with open(path, "ab") as file:
        file.write(b"added\n")
    app.write(b"two\n")
    move_all(log, app.pipe)
    log.close()
    assert path.read_bytes() == b"one\nadded\ntwo\n"


def test_empty_leaves_rotated_files_alone(app: AppPipe, path: Path) -> None:
    log = raw_log(path, SMALL)
    app.write(numbered(0, 8000))
    move_all(log, app.pipe, 30_000)
    kept = [Path(file).read_bytes() for file in rotated_files(str(path))]
    assert kept
    log.empty()
    assert path.read_bytes() == b""
    assert [Path(file).read_bytes() for file in rotated_files(str(path))] == kept
    log.close()


@pytest.mark.parametrize("fault", ["missing", "garbage", "torn", "ahead", "another's", "a folder"])
def test_a_bad_index_costs_no_line(app: AppPipe, path: Path, fault: str) -> None:
    path.parent.mkdir()
    path.write_bytes(b"old\n")
    inode = path.stat().st_ino
    index = Path(f"{path}.idx")
    now = time.time_ns()
    good = pack_head(inode) + pack_entry(0, now)
    if fault == "garbage":
        index.write_bytes(os.urandom(1000))
    elif fault == "torn":
        index.write_bytes(good + b"torn")
    elif fault == "ahead":
        index.write_bytes(good + pack_entry(500, now) + pack_entry(900, now))
    elif fault == "another's":
        index.write_bytes(pack_head(inode + 1) + pack_entry(0, now))
    elif fault == "a folder":
        index.mkdir()
    log = raw_log(path)
    app.write(b"new\n")
    move_all(log, app.pipe)
    log.close()
    assert path.read_bytes() == b"old\nnew\n"
    if fault != "a folder":
        entries = index_of(path)
        assert (index.stat().st_size - HEAD_SIZE) % ENTRY_SIZE == 0
        last = len(entries) - 1
        assert entries.offset(last) == 4 and entries.time_ns(last) >= now


def test_a_file_system_that_takes_no_splice_gets_copies(app: AppPipe, path: Path) -> None:
    log = raw_log(path)
    log.open()
    # Since Linux 2.6 splice(2) refuses a file that is open to append.
    fcntl.fcntl(log.fd, fcntl.F_SETFL, os.O_APPEND)
    data = numbered(0, 20_000)
    app.write(data)
    move_all(log, app.pipe)
    log.close()
    assert path.read_bytes() == data


# --- rotation ---


@pytest.mark.parametrize("width", [5, 1000, 9000])
def test_each_file_ends_with_a_line(app: AppPipe, path: Path, width: int) -> None:
    log = raw_log(path, SMALL)
    written = b""
    for turn in range(8):
        data = numbered(turn * 1000, 300_000 // width, width)
        app.write(data)
        written += data
        move_all(log, app.pipe, 10_000)
    log.close()
    files = rotated_files(str(path))
    assert len(files) > 10
    for file in files:
        data = Path(file).read_bytes()
        assert data.endswith(b"\n") and len(data) <= 64 * 1024 + 10_000 + width
    assert history(path) == written


def test_a_line_without_an_end_is_cut_at_the_hard_cap(app: AppPipe, path: Path) -> None:
    log = raw_log(path, SMALL)
    for _ in range(10):
        app.write(b"x" * 64 * 1024)
        move_all(log, app.pipe, 16 * 1024)
    log.close()
    assert all(os.stat(file).st_size == 128 * 1024 for file in rotated_files(str(path)))
    assert history(path) == b"x" * 10 * 64 * 1024


def test_a_file_whose_first_line_is_old_is_rotated(app: AppPipe, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"old\n")
    two_days_ago = time.time_ns() - 2 * 24 * 3600 * 10**9
    Path(f"{path}.idx").write_bytes(pack_head(path.stat().st_ino) + pack_entry(0, two_days_ago))
    told: list[str] = []
    log = raw_log(path, Logs(max_days=1), told)
    app.write(b"new\n")
    move_all(log, app.pipe)
    log.close()
    (rotated,) = rotated_files(str(path))
    assert (Path(rotated).read_bytes(), path.read_bytes()) == (b"old\n", b"new\n")
    assert told == [rotated]
    assert Index(Path(f"{rotated}.idx").read_bytes()).time_ns(0) == two_days_ago


def test_rotated_files_that_are_too_many_or_too_old_go_compressed_ones_as_well(app: AppPipe, path: Path) -> None:
    path.parent.mkdir()
    stamps = [f"2026010{day}T000000.000000000Z" for day in range(1, 8)]
    for number, stamp in enumerate(stamps):
        file = Path(f"{path}~{stamp}" + (".gz" if number % 2 else ""))
        file.write_bytes(b"x")
        Path(f"{path}~{stamp}.idx").write_bytes(b"x")
        days = 20 if number == 5 else 1
        os.utime(file, (time.time() - days * 86400,) * 2)
    other = Path(f"{path.parent}/api:1.out.log~{stamps[0]}")
    other.write_bytes(b"x")
    log = raw_log(path, Logs(max_files=3, max_days=14))
    app.write(b"new\n")
    move_all(log, app.pipe)
    log.close()
    left = [Path(file).name for file in rotated_files(str(path))]
    assert left == [f"{path.name}~{stamps[4]}", f"{path.name}~{stamps[6]}"]
    assert len(list(path.parent.glob(f"{path.name}~*.idx"))) == 2
    assert other.exists()


def test_what_cannot_be_rotated_still_takes_lines_and_says_so(app: AppPipe, tmp_path: Path) -> None:
    """The file may be written to, its folder may not."""
    path = tmp_path / "api.log"
    log = raw_log(path, SMALL)
    data = numbered(0, 4000)
    os.mkdir(f"{path}~next")
    app.write(data)
    move_all(log, app.pipe, 10_000)
    assert path.read_bytes() == data
    assert "cannot be rotated" in log.trouble
    log.close()


@pytest.mark.parametrize("step", range(250))
def test_a_kill_at_any_step_of_a_rotation_loses_nothing(app: AppPipe, path: Path, step: int) -> None:
    data = numbered(0, 8000)
    app.write(data)

    def work() -> None:
        log = raw_log(path, SMALL)
        move_all(log, app.pipe, 30_000)

    killed_at(step, work)
    log = raw_log(path, SMALL)
    app.write(b"end\n")
    move_all(log, app.pipe, 30_000)
    log.close()
    assert history(path) == data + b"end\n"
    # Each index is beside the file that it is of.
    for file in [*rotated_files(str(path)), str(path)]:
        index = Path(f"{file}.idx")
        if index.exists():
            assert Index(index.read_bytes()).inode == os.stat(file).st_ino
    assert not list(path.parent.glob("*~next"))


def test_the_kills_reach_the_end_of_the_rotation(app: AppPipe, path: Path) -> None:
    """The number of steps above is enough for the first one."""
    app.write(numbered(0, 8000))

    def work() -> None:
        log = raw_log(path, SMALL)
        while not list(path.parent.glob("*~*Z")):
            log.move(app.pipe, 30_000)

    assert not killed_at(250, work)
    assert len(rotated_files(str(path))) == 1


def test_max_size_is_in_mib() -> None:
    assert MIB == 1 << 20
    assert isinstance(raw_log(Path("/x")), RawLog)


def test_a_notice_is_there_whole_or_not_at_all(app: AppPipe, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = raw_log(path)
    app.write(b"one\n")
    move_all(log, app.pipe)
    before = path.read_bytes()

    def short(fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data[:9], offset)

    # A disk that has room for nine bytes.
    monkeypatch.setattr(rawlog, "os", WithOs(pwrite=short))
    with pytest.raises(OSError, match="No space left") as caught:
        log.notice("oxmgr: 5 bytes were dropped here")
    assert caught.value.filename == str(path) and log.passes(caught.value)
    assert path.read_bytes() == before
    monkeypatch.undo()
    log.notice("oxmgr: 5 bytes were dropped here")
    log.close()
    whole = path.read_bytes()
    assert whole.startswith(before) and whole.endswith(b"oxmgr: 5 bytes were dropped here\n")
    assert whole.count(b"\n") == 2

"""Formatted lines in a file: each once, whatever is killed when and whatever becomes of the file."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.model.codec import replace
from oxmgr.model.spec import Logs
from oxmgr.supervisor import native, rawlog
from oxmgr.supervisor.spool import GIVEN_BACK, Block, Spool, pack, unpack
from tests.unit.logs import AppPipe, WithOs, history, killed_at, line_log, move_all, rotated_files

CRI = Logs(format="cri", max_days=0)
SMALL = Logs(format="cri", max_size_mb=16 / 1024, max_files=1000)


@pytest.fixture
def app() -> Iterator[AppPipe]:
    pipe = AppPipe()
    yield pipe
    pipe.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.out.log"


def texts(data: bytes) -> list[bytes]:
    """The lines' own text; pieces are put together."""
    found, line = [], bytearray()
    assert not data or data.endswith(b"\n")
    for one in data.split(b"\n")[:-1]:
        _, stream, tag, text = one.split(b" ", 3)
        assert stream == b"stdout"
        line += text
        if tag == b"F":
            found.append(bytes(line))
            line.clear()
    return found


def numbered(first: int, count: int) -> bytes:
    return b"".join(b"line %06d\n" % number for number in range(first, first + count))


def test_lines_get_times_and_the_last_one_when_its_app_has_ended(app: AppPipe, path: Path) -> None:
    log = line_log(path, CRI)
    app.write(b"one\ntwo\nthr")
    move_all(log, app.pipe)
    assert texts(path.read_bytes()) == [b"one", b"two"] and log.behind
    app.write(b"ee")
    move_all(log, app.pipe)
    assert texts(path.read_bytes()) == [b"one", b"two"]
    log.finish()
    assert texts(path.read_bytes()) == [b"one", b"two", b"three"] and not log.behind
    log.close()


def test_a_short_line_after_a_long_block_that_came_in_pieces_does_not_wait(app: AppPipe, path: Path) -> None:
    log = line_log(path, CRI)
    app.write(numbered(0, 10_000) + b"a pie")
    move_all(log, app.pipe)
    app.write(b"ce\n")
    move_all(log, app.pipe)
    assert not log.behind
    app.write(b"next\n")
    move_all(log, app.pipe)
    assert texts(path.read_bytes())[-2:] == [b"a piece", b"next"] and not log.behind
    log.close()


def test_a_line_of_100_mb_passes_and_its_room_is_given_back(app: AppPipe, path: Path) -> None:
    log = line_log(path, replace(CRI, max_size_mb=0))
    spool = path.parent / "pipe.spool"
    most = 0
    for _ in range(100):
        app.write(b"x" * (1 << 20))
        move_all(log, app.pipe, 256 * 1024)
        most = max(most, spool.stat().st_blocks * 512)
    app.write(b"\n")
    move_all(log, app.pipe)
    log.close()
    assert most < 4 * GIVEN_BACK
    assert [len(text) for text in texts(path.read_bytes())] == [100 << 20]


@pytest.mark.parametrize("form", ["raw", "cri", "json"])
def test_a_kill_at_any_step_neither_loses_nor_doubles(app: AppPipe, path: Path, form: str) -> None:
    """The whole way is walked with a kill at each of its steps; each goes on where the one before it was killed."""
    logs = replace(SMALL, format=form, rate_limit=10**9 if form == "raw" else None)
    written, step, count = b"", 0, 0
    while True:
        data = numbered(count, 600) + b"cut"
        count += 600
        app.write(data)
        written += data

        def work() -> None:
            log = line_log(path, logs)
            move_all(log, app.pipe, 6000)
            log.finish()
            log.close()

        if not killed_at(step, work):
            break
        # A kill may come before the last line was finished: then it goes on in the next one.
        step += 1
    assert step > 60
    log = line_log(path, logs)
    move_all(log, app.pipe)
    log.finish()
    log.close()
    made = history(path)
    if form == "raw":
        assert made == written
    elif form == "cri":
        assert b"".join(texts(made)) == written.replace(b"\n", b"")
    else:
        assert made.count(b"line ") == count
        assert [made.count(b"line %06d" % number) for number in range(0, count, 97)] == [1] * len(range(0, count, 97))


def test_a_part_of_a_block_that_was_written_before_a_kill_is_written_over(app: AppPipe, path: Path) -> None:
    log = line_log(path, CRI)
    app.write(numbered(0, 1000))
    log.close()
    spool = Spool(str(path.parent / "pipe"))
    spool.open()
    spool.take(app.pipe, 1 << 20)
    path.write_bytes(b"")
    block = Block(start=0, end=spool.end, offset=0, inode=path.stat().st_ino, time_ns=10**18)
    spool.note(block)
    spool.close()
    log = line_log(path, CRI)
    log.move(app.pipe, 1000)
    log.close()
    whole = path.read_bytes()
    assert texts(whole) == numbered(0, 1000).split(b"\n")[:-1] and whole.startswith(b"2001-09-09T01:46:40.000000000Z ")
    for cut in (0, 1, 5000, len(whole)):
        os.truncate(path, cut)
        spool.open()
        spool.note(block)
        spool.close()
        log = line_log(path, CRI)
        log.move(app.pipe, 1000)
        log.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("what", ["removed", "emptied", "renamed", "renamed away"])
def test_a_block_goes_on_when_its_file_was_changed_under_it(app: AppPipe, path: Path, what: str) -> None:
    log = line_log(path, CRI)
    app.write(b"before\n")
    move_all(log, app.pipe)
    log.close()
    # A daemon that was killed when it had written a part of a block.
    spool = Spool(str(path.parent / "pipe"))
    spool.open()
    app.write(numbered(0, 3))
    spool.take(app.pipe, 1000)
    size = path.stat().st_size
    spool.note(Block(spool.start, spool.end, size, path.stat().st_ino, 10**18))
    spool.close()
    with open(path, "ab") as file:
        file.write(b"2001-09-09T01:46:40.000000000Z stdout F line 000")
    aside = path.parent / "aside"
    if what == "removed":
        path.unlink()
    elif what == "emptied":
        os.truncate(path, 0)
    elif what == "renamed":
        path.rename(aside)
    else:
        aside = path.parent.parent / f"{path.parent.name}-aside"
        path.rename(aside)
    log = line_log(path, CRI)
    app.write(b"after\n")
    move_all(log, app.pipe)
    log.close()
    lines = [b"line 000000", b"line 000001", b"line 000002"]
    if what == "renamed":
        assert texts(aside.read_bytes()) == [b"before", *lines]
        assert texts(path.read_bytes()) == [b"after"]
    else:
        assert texts(path.read_bytes()) == [*lines, b"after"]


def test_rotated_files_end_with_lines(app: AppPipe, path: Path) -> None:
    log = line_log(path, SMALL)
    for turn in range(20):
        app.write(numbered(turn * 500, 500))
        move_all(log, app.pipe, 7000)
    log.close()
    files = rotated_files(str(path))
    assert len(files) > 5
    assert [line for file in [*files, str(path)] for line in texts(Path(file).read_bytes())] == numbered(
        0, 10_000
    ).split(b"\n")[:-1]


def test_a_rate_limit_counts_what_it_drops_and_tells_within_the_next_second(app: AppPipe, path: Path) -> None:
    log = line_log(path, Logs(format="cri", rate_limit=10))
    app.write(numbered(0, 100))
    move_all(log, app.pipe)
    assert texts(path.read_bytes()) == numbered(0, 10).split(b"\n")[:-1]
    again = log.again()
    assert again is not None
    while time.monotonic() < again:
        pass
    log.move(app.pipe, 1000)
    assert texts(path.read_bytes())[10:] == [b"oxmgr: 90 lines were dropped here: rate_limit is 10"]
    assert log.again() is None and not log.behind
    log.close()


def test_the_count_of_dropped_lines_survives_a_kill(app: AppPipe, path: Path) -> None:
    logs = Logs(format="raw", rate_limit=5)
    log = line_log(path, logs)
    app.write(numbered(0, 20))
    move_all(log, app.pipe)
    log.close()
    log = line_log(path, logs)
    log.finish()
    log.close()
    assert path.read_bytes() == numbered(0, 5) + b"oxmgr: 15 lines were dropped here: rate_limit is 5\n"


def test_raw_lines_with_a_rate_limit_are_the_very_bytes(app: AppPipe, path: Path) -> None:
    log = line_log(path, Logs(format="raw", rate_limit=10**9))
    data = bytes(range(256)) * 700
    app.write(data)
    move_all(log, app.pipe)
    log.finish()
    log.close()
    assert path.read_bytes() == data


def test_a_damaged_record_doubles_rather_than_loses(app: AppPipe, path: Path) -> None:
    log = line_log(path, CRI)
    app.write(b"one\ntw")
    move_all(log, app.pipe)
    log.close()
    (path.parent / "pipe.at").write_bytes(b"rubbish" * 20)
    app.write(b"o\n")
    log = line_log(path, CRI)
    move_all(log, app.pipe)
    log.close()
    assert texts(path.read_bytes()) == [b"one", b"one", b"two"]


def test_a_record_is_read_as_it_was_written_or_not_at_all() -> None:
    block = Block(1, 2, 3, 2**62, 10**18, -1, 7, True, native.KEPT, True)
    data = pack(block)
    assert unpack(data) == block
    assert unpack(data[:-1]) is None
    for at in range(len(data)):
        assert unpack(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None


def test_flush_empties_the_file_and_the_next_line_is_its_first(app: AppPipe, path: Path) -> None:
    log = line_log(path, CRI)
    app.write(b"one\ntw")
    move_all(log, app.pipe)
    log.empty()
    assert path.read_bytes() == b""
    app.write(b"o\n")
    move_all(log, app.pipe)
    log.close()
    assert texts(path.read_bytes()) == [b"two"]


def test_a_notice_is_there_whole_or_not_at_all(app: AppPipe, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = line_log(path, CRI)
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

"""The ends of files, and what comes after."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxmgr.cli import tail
from oxmgr.cli.tail import Follower, last_lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.out.log"


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@given(
    st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n")),
    st.integers(0, 10),
    st.sampled_from([1, 3, 65536]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_last_lines_are_the_last_lines(log: Path, data: bytes, count: int, block: int) -> None:
    log.write_bytes(data)
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    lines = [line for line in lines if line]
    before, tail.BLOCK = tail.BLOCK, block
    try:
        assert last_lines(str(log), count) == lines[max(0, len(lines) - count) :]
    finally:
        tail.BLOCK = before


def test_what_is_no_file_has_no_lines(log: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(log), str(tmp_path), str(tmp_path / "fifo"), "/dev/null", "/dev/zero"):
        assert last_lines(path, 10) == []
        follower = Follower(path, 10)
        assert (follower.first, follower.more(), follower.flush()) == ([], [], [])
        follower.close()


def test_a_follower_gives_each_line_once_and_whole(log: Path) -> None:
    log.write_bytes(b"1\n2\n3\nhal")
    follower = Follower(str(log), 2)
    assert follower.first == [b"3\n"]
    assert follower.more() == []
    add(log, b"f\n4\n5")
    assert follower.more() == [b"half\n", b"4\n"]
    assert follower.more() == []
    assert follower.flush() == [b"5\n"] and follower.flush() == []
    follower.close()


def test_a_follower_may_begin_before_the_end(log: Path) -> None:
    log.write_bytes(b"old\nnew\n")
    follower = Follower(str(log), 0, begin=4)
    assert (follower.first, follower.more()) == ([], [b"new\n"])
    follower.close()
    follower = Follower(str(log), 5, begin=1000)
    assert (follower.first, follower.more()) == ([], [])
    follower.close()


def test_a_file_that_is_made_later_is_followed_from_its_begin(log: Path) -> None:
    follower = Follower(str(log), 5)
    assert follower.more() == []
    add(log, b"1\n")
    assert follower.more() == [b"1\n"]
    follower.close()


@pytest.mark.parametrize("after", [b"x\n", b"longer than what was there before\n", b"one\ntwo\nthree\n"])
def test_a_truncated_file_is_read_from_its_begin(log: Path, after: bytes) -> None:
    log.write_bytes(b"one\ntwo\npart")
    follower = Follower(str(log), 0)
    add(log, b"ial")
    assert follower.more() == []
    os.truncate(log, 0)
    add(log, after)
    # The line that can never end is not glued to what comes after.
    assert follower.more() == [b"ial\n", *after.splitlines(keepends=True)]
    follower.close()


def test_a_replaced_file_is_read_to_its_end_and_then_the_new_one(log: Path) -> None:
    log.write_bytes(b"1\n")
    follower = Follower(str(log), 0)
    add(log, b"2\n")
    log.rename(log.with_suffix(".1"))
    assert follower.more() == [b"2\n"]
    add(log.with_suffix(".1"), b"3\n")
    log.write_bytes(b"4\n")
    assert follower.more() == [b"3\n", b"4\n"]
    log.unlink()
    assert follower.more() == []
    log.write_bytes(b"5\n")
    assert follower.more() == [b"5\n"]
    follower.close()


steps = st.lists(
    st.one_of(st.binary(min_size=1, max_size=100).map(lambda data: data.replace(b"a", b"\n")), st.just("look")),
    max_size=30,
)


@given(steps, st.sampled_from([1, 7, 65536]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_grows_no_line_is_lost_or_doubled(log: Path, steps: list[bytes | str], block: int) -> None:
    log.write_bytes(b"")
    follower = Follower(str(log), 10)
    before, tail.BLOCK = tail.BLOCK, block
    written, seen = b"", []
    try:
        for step in steps:
            if isinstance(step, bytes):
                add(log, step)
                written += step
            else:
                seen += follower.more()
        seen += follower.more()
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in seen)
        whole = b"".join(seen + follower.flush())
        assert whole == written + (b"" if written.endswith(b"\n") or not written else b"\n")
    finally:
        tail.BLOCK = before
        follower.close()

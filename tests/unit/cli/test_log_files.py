"""Log files from any side: forwards, backwards, by time, merged, followed; every line once and in order."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxmgr.client import logfile, logfollow
from oxmgr.client.logchain import Chain, Folders, rotated_at
from oxmgr.client.logfile import LogFile, Run, Source
from oxmgr.client.logfollow import Follower
from oxmgr.client.logmerge import merge, merge_backward
from oxmgr.model.logindex import pack_entry, pack_head

SOURCE = Source("app", "app", 0, "out")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.out.log"


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def index(path: Path, entries: "list[tuple[int, int]]", inode: int | None = None) -> None:
    head = pack_head(path.stat().st_ino if inode is None else inode)
    Path(f"{path}.idx").write_bytes(head + b"".join(pack_entry(offset, time_ns) for offset, time_ns in entries))


def opened(path: Path) -> LogFile:
    return LogFile(os.open(path, os.O_RDONLY), SOURCE, (f"{path}.idx",))


def whole(runs: "list[Run]") -> bytes:
    return b"".join(piece for run in runs for piece in run.pieces())


def lines_of(runs: "list[Run]") -> list[bytes]:
    return whole(runs).splitlines(keepends=True)


some_text = st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n").replace(b"\r", b""))
LIMITS = [(1, 1, 1), (3, 7, 5), (logfile.FIRST_BLOCK, logfile.BLOCK, logfile.LINE_LIMIT)]


@pytest.fixture
def limits() -> Iterator[None]:
    """Put back what limit() has set."""
    yield
    limit(LIMITS[-1])


def limit(sizes: "tuple[int, int, int]") -> None:
    logfile.FIRST_BLOCK, LogFile.block, logfile.LINE_LIMIT = sizes
    logfile.BLOCK = logfollow.BLOCK = sizes[1]  # type: ignore[attr-defined]


@given(some_text, st.lists(st.integers(0, 220), max_size=8), st.sampled_from(LIMITS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_forwards_and_backwards_give_the_same_lines_and_times(
    log: Path, limits: None, data: bytes, cuts: list[int], sizes: "tuple[int, int, int]"
) -> None:
    limit(sizes)
    log.write_bytes(data)
    entries = [(offset, 1000 + number) for number, offset in enumerate(sorted(set(cuts)))]
    index(log, entries)
    file = opened(log)
    forward = list(file.forward(0, file.size))
    backward = list(file.backward(file.size))[::-1]
    assert whole(forward) == whole(backward) == data

    def times(runs: "list[Run]") -> "dict[int, int]":
        found = {}
        for run in runs:
            at = run.start
            for line in whole([run]).splitlines(keepends=True):
                found[at] = run.time_ns
                at += len(line)
        return found

    assert times(forward) == times(backward)
    for offset, time_ns in times(forward).items():
        before = [when for at, when in entries if at <= offset]
        assert time_ns == (before[-1] if before else entries[0][1] if entries else time_ns)
    for since in range(999, 1000 + len(entries) + 1):
        at = file.offset_since(since)
        if entries:
            assert sorted(
                when for start, when in times(forward).items() if start >= at and start >= entries[0][0]
            ) == sorted(when for start, when in times(forward).items() if when >= since and start >= entries[0][0])


@given(
    st.lists(st.tuples(st.integers(0, 5), some_text.map(lambda text: text[:20] + b"\n")), max_size=12),
    st.integers(1, 4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merging_backwards_is_merging_forwards_reversed(
    tmp_path: Path, pieces: "list[tuple[int, bytes]]", count: int
) -> None:
    chains = []
    for number in range(count):
        path = tmp_path / f"{number}.log"
        mine = [(when, text) for at, (when, text) in enumerate(pieces) if at % count == number]
        mine.sort(key=lambda one: one[0])
        offset, entries = 0, []
        for when, text in mine:
            entries.append((offset, 1000 + when))
            offset += len(text)
        path.write_bytes(b"".join(text for _, text in mine))
        index(path, entries)
        chains.append(Chain(str(path), Source(str(number), rank=number), Folders()))
    forward = list(merge(chain.forward() for chain in chains))
    backward = list(merge_backward(chain.backward() for chain in chains))
    assert whole(forward) == whole(backward[::-1])
    order = [(run.time_ns, run.file.source.rank) for run in forward]
    assert order == sorted(order)


def test_a_rotated_files_name_says_when_it_was() -> None:
    assert rotated_at("/logs/app.out.log~19700101T001640.000000005Z") == 1000 * 10**9 + 5
    assert rotated_at("/logs/app.out.log~next") is None


@pytest.mark.parametrize("damage", ["none", "cut", "garbage behind", "two members"])
def test_of_a_damaged_compressed_file_what_can_be_read_is(log: Path, damage: str) -> None:
    data = b"".join(b"%d\n" % number for number in range(100_000))
    packed = gzip.compress(data)
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "garbage behind":
        packed += b"garbage"
    elif damage == "two members":
        packed = gzip.compress(data[:100_000]) + gzip.compress(data[100_000:])
    Path(f"{log}~19700101T001640.000000005Z.gz").write_bytes(packed)
    found = whole(list(Chain(str(log), SOURCE, Folders()).forward()))
    assert data.startswith(found) and len(found) > 1000
    assert (found == data) == (damage != "cut")


def test_what_is_no_file_has_no_lines(log: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(log), str(tmp_path), str(tmp_path / "fifo"), "/dev/null", "/dev/zero"):
        chain = Chain(path, SOURCE, Folders())
        assert list(chain.backward()) == list(chain.forward()) == []
        assert Follower.of(chain).more() == []


# --- followed ---


def follow(log: Path) -> Follower:
    chain = Chain(str(log), SOURCE, Folders())
    chain.hold_partial()
    return Follower.of(chain)


def more(follower: Follower) -> list[bytes]:
    """Shown at once, as the command does: a file that was read to its end may be closed."""
    found = lines_of(follower.more())
    while follower.behind:
        found += lines_of(follower.more())
    return found


def rotate(log: Path, number: int, how: str = "plain") -> None:
    aside = Path(f"{log}~19700101T0016{number:02}.000000000Z")
    log.rename(aside)
    if Path(f"{log}.idx").exists():
        Path(f"{log}.idx").rename(f"{aside}.idx")
    if how in ("compressed", "compressed, index lost"):
        Path(f"{aside}.gz").write_bytes(gzip.compress(aside.read_bytes()))
        aside.unlink()
    if how == "compressed, index lost":
        Path(f"{aside}.idx").unlink(missing_ok=True)


def test_a_follower_gives_each_line_once_and_whole(log: Path) -> None:
    log.write_bytes(b"1\n2\n3\nhal")
    follower = follow(log)
    assert more(follower) == []
    add(log, b"f\n4\n5")
    assert more(follower) == [b"half\n", b"4\n"]
    assert more(follower) == []
    assert lines_of(follower.flush()) == [b"5"] and follower.flush() == []


def test_a_file_that_is_made_later_is_followed_from_its_begin(log: Path) -> None:
    follower = follow(log)
    assert more(follower) == []
    add(log, b"1\n")
    assert more(follower) == [b"1\n"]


@pytest.mark.parametrize("after", [b"x\n", b"longer than what was there before\n", b"one\ntwo\nthree\n"])
def test_a_truncated_file_is_read_from_its_begin(log: Path, after: bytes) -> None:
    log.write_bytes(b"one\ntwo\npart")
    follower = follow(log)
    add(log, b"ial")
    assert more(follower) == []
    os.truncate(log, 0)
    add(log, after)
    # The line that can never end is told as far as it came.
    runs = follower.more()
    assert [run.shown for run in runs] == [b"partial", after]


def test_the_index_tells_of_a_truncation_that_the_bytes_do_not_show(log: Path) -> None:
    log.write_bytes(b"x\n" * 100)
    index(log, [(0, 1000)])
    follower = follow(log)
    os.truncate(log, 0)
    index(log, [(0, 2000)])
    add(log, b"x\n" * 150)
    assert more(follower) == [b"x\n"] * 150


@pytest.mark.parametrize("how", ["plain", "compressed", "compressed, index lost"])
def test_over_many_rotations_between_two_looks_each_line_comes_once(log: Path, how: str) -> None:
    log.write_bytes(b"0\n")
    index(log, [(0, 1)])
    follower = follow(log)
    number = 0
    for turn in range(5):
        want = []
        for _ in range(turn):
            for _ in range(2):
                number += 1
                add(log, b"%d\n" % number)
                want.append(b"%d\n" % number)
            if not Path(f"{log}.idx").exists():
                index(log, [(0, number)])
            rotate(log, number, how)
        assert more(follower) == want
        add(log, b"end %d\n" % turn)
        assert more(follower) == [b"end %d\n" % turn]
    assert follower.lost == 0


def test_what_comes_between_the_last_look_and_the_rename_is_read_first(log: Path) -> None:
    log.write_bytes(b"1\n")
    follower = follow(log)
    add(log, b"2\n")
    log.rename(log.with_suffix(".1"))
    assert more(follower) == [b"2\n"]
    add(log.with_suffix(".1"), b"3\n")
    log.write_bytes(b"4\n")
    assert more(follower) == [b"3\n", b"4\n"]
    log.unlink()
    assert more(follower) == []
    log.write_bytes(b"5\n")
    assert more(follower) == [b"5\n"]


def test_a_rotated_file_that_went_unread_is_counted_as_lost(log: Path) -> None:
    log.write_bytes(b"1\n")
    follower = follow(log)
    rotate(log, 1)
    add(log, b"2\n")
    rotate(log, 2)
    add(log, b"3\n")
    for number in (1, 2):
        aside = f"{log}~19700101T0016{number:02}.000000000Z"
        follower.was_rotated(aside)
        os.unlink(aside)
    assert more(follower) == [b"3\n"]
    assert follower.lost == 1


steps = st.lists(st.one_of(some_text.filter(bool), st.sampled_from(["look", "rotate", "compress"])), max_size=30)


@given(steps, st.sampled_from(LIMITS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_however_it_grows_and_rotates_no_line_is_lost_or_doubled(
    log: Path, limits: None, steps: "list[bytes | str]", sizes: "tuple[int, int, int]"
) -> None:
    limit(sizes)
    for old in log.parent.iterdir():
        old.unlink()
    log.write_bytes(b"")
    follower = follow(log)
    written, seen = b"", b""
    for number, step in enumerate(steps):
        if isinstance(step, bytes):
            add(log, step)
            written += step
        elif step == "look":
            seen += b"".join(more(follower))
        else:
            rotate(log, number, "plain" if step == "rotate" else "compressed")
            log.write_bytes(b"")
    seen += b"".join(more(follower))
    seen += whole(follower.flush())
    assert seen == written and follower.lost == 0

"""Bytes into lines: nothing lost, nothing doubled, however they were cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxmgr.supervisor.native import BETWEEN, BLOCK, CRI, JSON, LINE_LIMIT, PREFIXED, RAW, Formatter

STAMP = b"2026-01-02T03:04:05.000000006Z"
LIMIT = 24
"""Small, so that the generated lines cross it."""

text = st.lists(
    st.sampled_from(
        [b"\n", b"a", b"\0", b"\xff", '"\\é€😀'.encode(), b"\xf0\x9f", b"line", b"x" * LIMIT, b"\r", b"\x1b[0m"]
    ),
    max_size=60,
).map(b"".join)
cuts = st.lists(st.integers(0, 600), max_size=8)


def run(
    kind: int, data: bytes, at: list[int], *, limit: int = LIMIT, room: int = 4 * BLOCK, allowed: int = -1
) -> bytes:
    """As the daemon does it: what has no end stays, until the app has ended."""
    formatter = Formatter(kind, b"stdout", limit)
    ends = sorted({min(end, len(data)) for end in at} | {len(data)})
    made, start, inside = [], 0, BETWEEN
    for end in ends:
        while True:
            final = end == len(data)
            formatter.begin(STAMP, final=final, inside=inside, allowed=allowed)
            made.append(formatter.text(data[start:end], room))
            start, inside = start + formatter.used, formatter.inside
            allowed -= formatter.lines if allowed >= 0 else 0
            if not formatter.used:
                break
    assert start == len(data)
    return b"".join(made)


def lines_of(kind: int, made: bytes) -> list[tuple[bytes, bool]]:
    """(text, whether it goes on) of each."""
    found = []
    for line in made.split(b"\n")[:-1]:
        if kind == CRI:
            stamp, stream, tag, rest = line.split(b" ", 3)
            assert (stamp, stream) == (STAMP, b"stdout")
            found.append((rest, tag == b"P"))
        else:
            one = json.loads(line)
            assert (one["time"], one["stream"]) == (STAMP.decode(), "stdout")
            found.append((one["message"].encode(), one.get("partial", False)))
    assert not made or made.endswith(b"\n")
    return found


@given(text, cuts, st.sampled_from([RAW, CRI, JSON, PREFIXED]), st.integers(-1, 12))
def test_any_cutting_gives_the_same_lines(data: bytes, at: list[int], kind: int, allowed: int) -> None:
    assert run(kind, data, at, allowed=allowed) == run(kind, data, [], allowed=allowed)


@given(text, st.sampled_from([RAW, CRI, JSON, PREFIXED]))
def test_little_room_gives_the_same_lines_too(data: bytes, kind: int) -> None:
    assert run(kind, data, [], room=256 + 6 * LIMIT) == run(kind, data, [])


@given(text, cuts)
def test_cri_lines_hold_every_byte_and_their_pieces_make_the_lines(data: bytes, at: list[int]) -> None:
    whole, line = [], b""
    for piece, partial in lines_of(CRI, run(CRI, data, at)):
        assert len(piece) <= LIMIT
        line += piece
        if not partial:
            whole.append(line)
            line = b""
    # A line that has no newline at the end, and no text behind its last piece, has had its end in that.
    assert [*whole, *([line] if line else [])] == data.removesuffix(b"\n").split(b"\n") or not data


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=40)))
def test_text_comes_back_from_json_as_it_was(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    made = run(JSON, data, [], limit=LINE_LIMIT)
    assert [text.decode() for text, _ in lines_of(JSON, made)] == lines


@given(text)
def test_json_lines_are_json_whatever_the_bytes(data: bytes) -> None:
    made = b"".join(piece for piece, _ in lines_of(JSON, run(JSON, data, [], limit=LINE_LIMIT)))
    assert made == data.replace(b"\n", b"").decode(errors="replace").encode() or b"\xff" in data or b"\xf0\x9f" in data


@given(text, cuts)
def test_raw_lines_are_the_very_bytes(data: bytes, at: list[int]) -> None:
    assert run(RAW, data, at) == data


@given(st.lists(st.binary(max_size=60).filter(lambda one: b"\n" not in one)), st.integers(0, 12), cuts)
def test_a_rate_limit_keeps_or_drops_whole_lines(lines: list[bytes], allowed: int, at: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    assert run(RAW, data, at, allowed=allowed) == b"".join(line + b"\n" for line in lines[:allowed])


def test_what_was_dropped_is_counted_and_the_notice_is_a_line_like_the_others() -> None:
    formatter = Formatter(CRI, b"stderr")
    formatter.begin(STAMP, allowed=1, notice=b"7 were dropped")
    made = formatter.text(b"one\ntwo\nthree")
    assert made == STAMP + b" stderr F 7 were dropped\n" + STAMP + b" stderr F one\n"
    assert (formatter.used, formatter.lines, formatter.dropped, formatter.inside) == (8, 1, 1, BETWEEN)


@pytest.mark.parametrize("length", [LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 1, 3 * LINE_LIMIT])
def test_a_line_of_the_limit_is_one_and_a_longer_one_comes_in_pieces(length: int) -> None:
    made = run(CRI, b"x" * length + b"\n", [length // 2], limit=LINE_LIMIT)
    assert made.count(b"\n") == max(1, -(-length // LINE_LIMIT))
    assert made.count(b" F ") == 1


def test_a_piece_ends_between_two_characters() -> None:
    data = ("x" * (LINE_LIMIT - 1) + "€uro\n").encode()
    first, second = lines_of(JSON, run(JSON, data, [], limit=LINE_LIMIT))
    assert first == (b"x" * (LINE_LIMIT - 1), True) and second == ("€uro".encode(), False)


@settings(max_examples=20)
@given(st.binary(max_size=3000), st.integers(0, 3))
def test_arbitrary_bytes_are_all_used(data: bytes, kind: int) -> None:
    run(kind, data, [1000, 2000])

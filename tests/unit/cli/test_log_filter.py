"""Which lines are chosen, whichever way the log is read, and how they are shown."""

import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxmgr.cli.levels import level_of
from oxmgr.cli.logfilter import Grep, Level, count_lines, last_runs
from oxmgr.cli.logprint import JSON, RAW, TEXT, Printer, protected
from oxmgr.cli.parser import Usage
from oxmgr.client.logfile import LogFile, Run, Source

PATTERNS = [
    "a",
    "^b",
    "b$",
    "a.b",
    "a[^b]",
    r"a\sb",
    r"a\s*b",
    "(?!a)b",
    "a(?!\\s*b)",
    "a|^$",
    "^$",
    r"\Aa",
    r"b\Z",
    "[^a]+b",
    "A",
    "é",
    ".",
    "",
]


def runs_of(path: Path, data: bytes, size: int = 7) -> list[Run]:
    """In pieces of whole lines."""
    path.write_bytes(data)
    file = LogFile(os.open(path, os.O_RDONLY), Source("app", "app", 0, "out"))
    file.block = size
    return list(file.forward(0, len(data)))


def joined(runs: "list[Run]") -> bytes:
    return b"".join(run.data for run in runs)


def split(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [*(part + b"\n" for part in parts[:-1]), *([parts[-1]] if parts[-1] else [])]


@given(st.text("ab \nAé", max_size=80), st.sampled_from(PATTERNS), st.booleans(), st.sampled_from([7, 100]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_grep_finds_what_a_search_of_each_line_finds(
    tmp_path: Path, text: str, pattern: str, ignore_case: bool, size: int
) -> None:
    data = text.encode()
    flags = re.IGNORECASE if ignore_case else re.NOFLAG
    want = [line for line in split(data) if re.search(pattern, line.removesuffix(b"\n").decode(), flags)]
    found = Grep(pattern, ignore_case=ignore_case)(runs_of(tmp_path / "log", data, size))
    assert split(joined(list(found))) == want


@pytest.mark.parametrize(("pattern", "where"), [("a(b", "character 2"), ("*", "character 1"), ("[z-a]", "character 2")])
def test_a_bad_pattern_is_refused_with_the_place(pattern: str, where: str) -> None:
    with pytest.raises(Usage, match=where):
        Grep(pattern, ignore_case=False)


WORDS = ["ERROR x", "INFO y", "  at z", "WARN", "plain", ""]


@given(st.lists(st.sampled_from(WORDS), max_size=20), st.sampled_from([7, 1000]), st.integers(0, 6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_level_is_the_same_forwards_and_backwards(tmp_path: Path, lines: list[str], size: int, count: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    want, last = [], 0
    for line in split(data):
        level = level_of(line)
        last = last if level is None else level
        want += [line] if last >= 40 else []
    runs = runs_of(tmp_path / "log", data, size)
    assert split(joined(list(Level(40)(runs)))) == want
    backward = last_runs(Level(40).backward(reversed(runs)), count)
    assert split(joined(backward)) == (want[-count:] if count else [])
    assert sum(map(count_lines, backward)) == min(count, len(want))


def show(runs: "list[Run]", mode: str, *, names: bool = False, protect: bool = False) -> bytes:
    out = io.BytesIO()
    printer = Printer(mode, out, protect=protect)
    printer.names = names
    printer.show(runs)
    printer.close()
    return out.getvalue()


@given(st.binary(max_size=100), st.integers(1, 100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_shown_in_every_way(tmp_path: Path, data: bytes, size: int) -> None:
    runs = runs_of(tmp_path / "log", data, size)
    ended = data + (b"\n" if data and not data.endswith(b"\n") else b"")
    assert show(runs, RAW) == data
    assert show(runs, TEXT) == ended
    assert show(runs, TEXT, names=True) == b"".join(b"app | " + line for line in split(ended))
    texts = [json.loads(line)["message"] for line in show(runs, JSON).splitlines()]
    assert texts == [line.removesuffix(b"\n").decode("utf-8", "replace") for line in split(data)]
    seen = show(runs, TEXT, protect=True).decode()
    assert all(char.isprintable() or char in "\n\t" for char in seen) and seen.count("\n") == ended.count(b"\n")


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("é ü 漢\n".encode(), "é ü 漢\n"),
        (b"\x1b[2Jgone\r\n", "^[[2Jgone^M\n"),
        (b"\xff\x00\x7f\n", "\\xff^@^?\n"),
        ("\x9b2J \u202e\n".encode(), "\\x9b2J \\u202e\n"),
    ],
)
def test_a_terminal_does_not_obey_what_an_app_prints(data: bytes, seen: str) -> None:
    assert protected(data).decode() == seen

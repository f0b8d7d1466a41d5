"""How things look."""

import fcntl
import os
import re
import struct
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.cli import output
from oxmgr.cli.output import (
    duration,
    paint,
    print_instances,
    printable,
    size,
    table,
    terminal_width,
    wants_colour,
)
from oxmgr.model.messages import InstanceView
from tests.unit.cli.conftest import view

HEADER = ["NAME", "STATUS", "PID", "WHY"]
cells = st.text(max_size=30)


@given(st.lists(st.lists(cells, min_size=4, max_size=4), max_size=4), st.integers(1, 120))
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    shown = table(HEADER, rows, width=width, flexible={0: 8, 3: 10}, droppable=[2], right=[2])
    lines = shown.split("\n")
    assert len(lines) == len(rows) + 2 and lines[-1] == ""
    assert max(map(len, lines)) <= width


@given(st.lists(st.lists(cells, min_size=4, max_size=4), max_size=4))
def test_without_a_terminal_nothing_is_cut(rows: list[list[str]]) -> None:
    shown = table(HEADER, rows, width=None, flexible={0: 8, 3: 10}, droppable=[2])
    for line, row in zip(shown.split("\n")[1:], rows, strict=False):
        for cell in row:
            assert printable(cell).rstrip() in line


def test_columns_are_left_out_in_their_order_and_then_cut() -> None:
    rows = [["n" * 20, "running", "123456", "a long reason why"]]

    def shown(width: int) -> list[str]:
        return table(HEADER, rows, width=width, flexible={0: 6, 3: 10}, droppable=[2, 1], right=[2]).splitlines()

    assert shown(80)[0].split() == HEADER
    assert shown(40) == ["NAME        STATUS      PID  WHY", "nnnnnnnnn…  running  123456  a long rea…"]
    assert shown(32) == ["NAME        STATUS   WHY", "nnnnnnnnn…  running  a long rea…"]
    assert shown(20)[0].split() == ["NAME", "WHY"]
    assert shown(5) == ["NAME", "nnnn…"]


def test_colours_change_no_width() -> None:
    rows = [["a", "running", "1", "why"]]
    plain = table(HEADER, rows, width=60)
    painted = table(HEADER, rows, width=60, colour=True, colours=[{1: "32"}])
    assert painted != plain and re.sub(r"\x1b\[[0-9]+m", "", painted).replace(" ", "") == plain.replace(" ", "")


def test_nothing_that_a_stranger_wrote_moves_the_cursor() -> None:
    assert printable("a\x1b[2J\nb\r\tc\u202e") == "a?[2J?b??c?"
    assert printable("größer → 漢字") == "größer → 漢字"


def instances(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None, *views: InstanceView
) -> str:
    monkeypatch.setattr(output, "terminal_width", lambda: width)
    print_instances(views)
    return capsys.readouterr().out


def test_on_a_narrow_terminal_the_reason_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = view(name="a-rather-long-name:10", status="backoff", reason="exit code 137", restarts=1234, namespace="site")
    for width in (60, 50, 44):
        shown = instances(capsys, monkeypatch, width, some)
        assert "exit code 137" in shown and "backoff" in shown and "CPU" not in shown
        assert max(map(len, shown.splitlines())) <= width
    assert "NAMESPACE" in instances(capsys, monkeypatch, 120, some)


def test_where_nothing_is_wrong_the_reason_is_the_first_to_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = instances(capsys, monkeypatch, 58, view(name="a" * 12, pid=None, restarts=5))
    assert "WHY" not in shown and "MEMORY" in shown


LIMIT = "limits.tasks_max cannot be enforced here: no cgroup v2 is mounted"
RIGHT = "sandbox.deny_gpu is a request to libraries only"


@pytest.mark.parametrize(
    ("warnings", "why"),
    [
        ([LIMIT], "not all limits hold, see oxmgr status app"),
        ([LIMIT, RIGHT], "not all limits hold, see oxmgr status app"),
        ([RIGHT], "the sandbox is not whole, see oxmgr status app"),
    ],
)
def test_what_does_not_hold_is_marked_where_there_is_no_other_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, warnings: list[str], why: str
) -> None:
    assert why in instances(capsys, monkeypatch, None, view(name="app:1", warnings=warnings))
    assert "see oxmgr" not in instances(capsys, monkeypatch, None, view(warnings=warnings, reason="exit code 3"))
    # It is a reason to show the column that otherwise goes first.
    assert "not all" in instances(capsys, monkeypatch, 58, view(name="a" * 12, warnings=[LIMIT]))


@pytest.mark.parametrize(("columns", "width"), [(0, None), (1, 1), (80, 80)])
def test_a_terminal_without_a_width_has_nothing_to_fit_into(columns: int, width: int | None) -> None:
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        assert terminal_width(theirs) == width
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (-3, "0s"),
        (59.9, "59s"),
        (60, "1m 0s"),
        (3599, "59m 59s"),
        (3600, "1h 0m"),
        (86399, "23h 59m"),
        (90000, "1d 1h"),
    ],
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (1536, "1.5 KB"),
        (1 << 20, "1.0 MB"),
        (5 << 30, "5.0 GB"),
        (1 << 50, "1024.0 TB"),
    ],
)
def test_sizes_are_for_people(count: int, shown: str) -> None:
    assert size(count) == shown


def test_a_pipe_wants_no_colour() -> None:
    reading, writing = os.pipe()
    assert not wants_colour(writing)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_wants_colour_unless_it_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    try:
        assert wants_colour(theirs)
        monkeypatch.setenv("NO_COLOR", "")  # no-color.org: an empty one says nothing
        assert wants_colour(theirs)
        monkeypatch.setenv(name, value)
        assert not wants_colour(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_paint_leaves_alone_what_has_no_colour() -> None:
    assert (paint("a", "32", False), paint("a", "", True), paint("", "32", True)) == ("a", "a", "")
    assert paint("a", "32", True) == "\x1b[32ma\x1b[0m"

"""When cron lines are due, on both sides of every change of the clocks."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxmgr.helpers import schedule
from oxmgr.model.cron import NICKNAMES, BadLine, due_times, last_due, line_error

VIENNA = "Europe/Vienna"


def unix(local: str, zone: str, fold: int = 0) -> int:
    return int(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


def due(line: str, zone: str, after: str, count: int) -> list[str]:
    """The next ones behind a local time, as local times with the offset from UTC."""
    where = ZoneInfo(zone)
    times = due_times(line, where, unix(after, zone))
    found = [next(times) for _ in range(count)]
    return [datetime.fromtimestamp(moment, where).isoformat(" ", "seconds") for moment in found]


def test_five_fields_are_minutes_and_six_begin_with_the_second() -> None:
    assert due("30 2 * * *", "UTC", "2026-05-01 00:00", 2) == ["2026-05-01 02:30:00+00:00", "2026-05-02 02:30:00+00:00"]
    assert due("*/20 30 2 * * *", "UTC", "2026-05-01 02:30:20", 3) == [
        "2026-05-01 02:30:40+00:00",
        "2026-05-02 02:30:00+00:00",
        "2026-05-02 02:30:20+00:00",
    ]
    assert due("* * * * * *", "UTC", "2026-05-01 23:59:58", 2) == [
        "2026-05-01 23:59:59+00:00",
        "2026-05-02 00:00:00+00:00",
    ]


def test_names_and_nicknames() -> None:
    assert due("0 12 * jan MON", "UTC", "2026-01-01 00:00", 1) == ["2026-01-05 12:00:00+00:00"]
    assert due("@weekly", "UTC", "2026-01-01 00:00", 1) == ["2026-01-04 00:00:00+00:00"]
    assert due("@Hourly", "UTC", "2026-01-01 00:00", 1) == ["2026-01-01 01:00:00+00:00"]
    assert not any(map(line_error, NICKNAMES))


def test_either_of_two_days_is_enough_as_in_every_cron() -> None:
    assert due("0 0 13 * fri", "UTC", "2026-01-01 00:00", 3) == [
        "2026-01-02 00:00:00+00:00",
        "2026-01-09 00:00:00+00:00",
        "2026-01-13 00:00:00+00:00",
    ]


# --- the clocks are changed ---


@pytest.mark.parametrize("line", ["30 2 * * *", "0 30 2 * * *"])
def test_a_time_of_day_that_does_not_exist_is_due_as_soon_as_there_is_one(line: str) -> None:
    assert due(line, VIENNA, "2026-03-28 12:00", 2) == ["2026-03-29 03:00:00+02:00", "2026-03-30 02:30:00+02:00"]


@pytest.mark.parametrize("line", ["30 2 * * *", "0 30 2 * * *"])
def test_a_time_of_day_that_is_there_twice_is_due_once(line: str) -> None:
    assert due(line, VIENNA, "2026-10-24 12:00", 2) == ["2026-10-25 02:30:00+02:00", "2026-10-26 02:30:00+01:00"]


def test_between_the_two_of_them_it_is_not_due_again() -> None:
    where = ZoneInfo(VIENNA)
    second = unix("2026-10-25 02:10", VIENNA, fold=1)
    assert next(due_times("30 2 * * *", where, second)) == unix("2026-10-26 02:30", VIENNA)
    assert last_due("30 2 * * *", where, second) == unix("2026-10-25 02:30", VIENNA)


def test_two_times_that_do_not_exist_fall_on_one() -> None:
    assert due("0,15,30 2 * * *", VIENNA, "2026-03-29 00:00", 2) == [
        "2026-03-29 03:00:00+02:00",
        "2026-03-30 02:00:00+02:00",
    ]


@pytest.mark.parametrize(("line", "apart"), [("*/30 * * * *", 1800), ("0 * * * *", 3600), ("*/10 * * * * *", 10)])
@pytest.mark.parametrize("day", ["2026-03-29 00:00", "2026-10-25 00:00"])
def test_what_is_due_every_so_often_stays_so(line: str, apart: int, day: str) -> None:
    times = due_times(line, ZoneInfo(VIENNA), unix(day, VIENNA))
    found = [next(times) for _ in range(6 * 3600 // apart)]
    assert {later - earlier for earlier, later in pairwise(found)} == {apart}


def test_a_change_of_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"
    assert due("15 2 * * *", zone, "2026-10-03 12:00", 1) == ["2026-10-04 02:30:00+11:00"]
    assert due("45 1 * * *", zone, "2026-04-04 12:00", 2) == ["2026-04-05 01:45:00+11:00", "2026-04-06 01:45:00+10:30"]


def test_a_day_that_does_not_exist() -> None:
    """Samoa had no 30 December 2011."""
    assert due("0 12 * * *", "Pacific/Apia", "2011-12-28 13:00", 3) == [
        "2011-12-29 12:00:00-10:00",
        "2011-12-31 00:00:00+14:00",
        "2011-12-31 12:00:00+14:00",
    ]


# --- lines ---


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0 30 2 *", "is never due"),
        ("0 0 31 4,jun *", "is never due"),
        ("@reboot", "is no time: @yearly"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("", "has 0 fields"),
        ("60 * * * *", "holds '60', which is no minute"),
        ("* 24 * * *", "holds '24', which is no hour"),
        ("* * 0 * *", "holds '0', which is no day of the month"),
        ("* * * 13 *", "holds '13', which is no month"),
        ("* * * * 8", "holds '8', which is no day of the week"),
        ("60 * * * * *", "holds '60', which is no second"),
        ("*/0 * * * *", "holds '*/0', which is no minute"),
        ("5-2 * * * *", "holds '5-2', which is no minute"),
    ],
)
def test_a_line_that_is_never_due_is_told_with_what_is_wrong_in_it(line: str, why: str) -> None:
    assert why in (line_error(line) or "")


fields = st.lists(st.text("0123456789*/-,LW#?mon JAN²", max_size=6), min_size=4, max_size=7)


@given(fields.map(" ".join) | st.text(max_size=30))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_line_or_a_bad_line(line: str) -> None:
    why = line_error(line)
    times = due_times(line, ZoneInfo(VIENNA), 1_800_000_000)
    if why is None:
        assert next(times) > 1_800_000_000
    else:
        with pytest.raises((BadLine, StopIteration)):
            next(times)


lines = st.sampled_from(
    ["* * * * *", "*/7 * * * * *", "30 2 * * *", "0 0 1 * *", "15,45 1-3 * 3,10 sun", "5 0 29 2 *", "0 4 * * mon#2"]
)
zones = st.sampled_from(["UTC", VIENNA, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])


@given(lines, zones, st.integers(1_700_000_000, 1_900_000_000))
@settings(max_examples=200, deadline=None)
def test_the_last_one_and_the_next_ones_have_no_gap_between_them(line: str, zone: str, now: int) -> None:
    where = ZoneInfo(zone)
    last = last_due(line, where, now)
    coming = due_times(line, where, now)
    following = [next(coming) for _ in range(3)]
    assert last is not None and last <= now < following[0] < following[1] < following[2]
    again = due_times(line, where, last)
    assert [next(again) for _ in range(3)] == following


# --- the helper's answer ---


def test_an_answer_is_the_last_time_and_the_next_ones() -> None:
    now = unix("2026-05-01 00:00:30", "UTC")
    first, *times = map(int, schedule.answer("* * * * *", "UTC", now).split())
    assert first == now - 30 and times == [now + 30 + 60 * number for number in range(schedule.COUNT)]


def test_an_answer_says_what_is_wrong() -> None:
    assert schedule.answer("0 0 30 2 *", "", 0) == "!'0 0 30 2 *' is never due: there is no such day"
    assert schedule.answer("* * * * *", "Europe/Nowhere", 0) == "!there is no time zone 'Europe/Nowhere' on this host"
    assert schedule.answer("* * * * *", "../etc/passwd", 0).startswith("!there is no time zone")


def test_a_machine_that_does_not_say_has_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "LOCALTIME", "/nonexistent")
    assert datetime.fromtimestamp(0, schedule.machine_zone()) == datetime.fromtimestamp(0, UTC)


def test_a_rare_line_has_few_times() -> None:
    answer = schedule.answer("0 0 29 2 *", VIENNA, unix("2026-05-01 00:00", "UTC"))
    assert 6 <= len(answer.split()) <= 10

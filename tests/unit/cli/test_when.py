"""Times as people say them, against a fixed now, and over changes of the clock."""

import os
import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.cli.parser import Usage
from oxmgr.cli.when import parse_when

ZONE = "Europe/Berlin"
SECOND = 10**9


@pytest.fixture(autouse=True)
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    # The rules themselves, so that it does not matter which zones this host has.
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE)).timestamp() * SECOND)


NOW = at("2026-11-24T08:01:25") / SECOND  # a Tuesday
SUMMER = at("2026-03-31T12:00:00") / SECOND  # a Tuesday, two days after the clocks went forward
WINTER = at("2026-10-27T12:00:00") / SECOND  # a Tuesday, two days after they went back


@pytest.mark.parametrize(
    ("text", "now", "want"),
    [
        ("now", NOW, "2026-11-24T08:01:25"),
        ("10m", NOW, "2026-11-24T07:51:25"),
        ("-10m", NOW, "2026-11-24T07:51:25"),
        ("10 min ago", NOW, "2026-11-24T07:51:25"),
        ("2h ago", NOW, "2026-11-24T06:01:25"),
        ("2 hours ago", NOW, "2026-11-24T06:01:25"),
        ("1h30m", NOW, "2026-11-24T06:31:25"),
        ("1 hour and 30 minutes ago", NOW, "2026-11-24T06:31:25"),
        ("1.5h", NOW, "2026-11-24T06:31:25"),
        ("90s", NOW, "2026-11-24T07:59:55"),
        ("3 days ago", NOW, "2026-11-21T08:01:25"),
        ("1w", NOW, "2026-11-17T08:01:25"),
        ("today", NOW, "2026-11-24T00:00:00"),
        ("Today 07:30", NOW, "2026-11-24T07:30:00"),
        ("yesterday", NOW, "2026-11-23T00:00:00"),
        ("yesterday 14:00", NOW, "2026-11-23T14:00:00"),
        ("yesterday at 14:00:05", NOW, "2026-11-23T14:00:05"),
        ("tuesday", NOW, "2026-11-24T00:00:00"),
        ("last tuesday", NOW, "2026-11-17T00:00:00"),
        ("last Tue 9:15", NOW, "2026-11-17T09:15:00"),
        ("wednesday", NOW, "2026-11-18T00:00:00"),
        ("last monday", NOW, "2026-11-23T00:00:00"),
        ("last week", NOW, "2026-11-17T00:00:00"),
        ("07:30", NOW, "2026-11-24T07:30:00"),
        ("2026-11-20", NOW, "2026-11-20T00:00:00"),
        ("2026-11-20 14:05", NOW, "2026-11-20T14:05:00"),
        ("2026-11-20T14:05:06", NOW, "2026-11-20T14:05:06"),
        ("2026-11-20T14:05:06.5", NOW, "2026-11-20T14:05:06.500"),
        ("2026-11-20T14:05:06Z", NOW, "2026-11-20T15:05:06"),
        ("2026-11-20 14:05 UTC", NOW, "2026-11-20T15:05:00"),
        ("2026-11-20T14:05:06+05:30", NOW, "2026-11-20T09:35:06"),
        ("2026-11-20T14:05-0800", NOW, "2026-11-20T23:05:00"),
        ("2026-11-20 24:00", NOW, "2026-11-21T00:00:00"),
        # A day of 23 and one of 25 hours, and the hour that is not there.
        ("last sunday", SUMMER, "2026-03-29T00:00:00"),
        ("3 days ago", SUMMER, "2026-03-28T11:00:00"),
        ("saturday", SUMMER, "2026-03-28T00:00:00"),
        ("2026-03-29 03:30", SUMMER, "2026-03-29T03:30:00"),
        ("2026-03-29 02:30", SUMMER, "2026-03-29T03:30:00"),
        ("sunday", WINTER, "2026-10-25T00:00:00"),
        ("saturday", WINTER, "2026-10-24T00:00:00"),
        ("3 days ago", WINTER, "2026-10-24T13:00:00"),
        ("2026-07-01 12:00", NOW, "2026-07-01T12:00:00"),
    ],
)
def test_each_form_means_what_it_says(text: str, now: float, want: str) -> None:
    assert parse_when(text, now, "--since") == at(want)


def test_unix_time_is_exact() -> None:
    assert parse_when("@1795507200", NOW, "--since") == 1795507200 * SECOND
    assert parse_when("@1795507200.123456789", NOW, "--since") == 1795507200_123456789
    assert parse_when("@-1.5", NOW, "--since") == -1_500_000_000


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "@", "@x", "@1.", "10", "m", "10 parsecs", "ago", "last", "last today", "tomorrow", "2026-13-01",
        "2026-02-30", "2026-1-1", "26-11-24", "25:00", "12:60", "12:00:61", "12", "yesterday noon", "yesterday 1:2:3:4",
        "2026-11-24T", "24:01", "10m later", "²h", "@1e3", "last tuesday 14", "@99999999999999999999", "1" * 40 + "h",
        "9999-99-99", "-", "today today",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_examples(text: str) -> None:
    with pytest.raises(Usage, match=r"--since does not understand .*'last tuesday'"):
        parse_when(text, NOW, "--since")


@given(
    st.text(max_size=20) | st.from_regex(r"(last |yesterday |@|\d{4}-\d\d-\d\d)?[0-9:.TZ+hms -]{0,12}", fullmatch=True)
)
def test_nothing_that_is_typed_makes_it_fall(text: str) -> None:
    try:
        assert isinstance(parse_when(text, NOW, "--until"), int)
    except Usage:
        pass

"""Times as people say them, `yesterday 14:00`, to Unix time in nanoseconds. Pure: now and the zone are the caller's."""

import time

from oxmgr.cli.parser import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Local = Callable[[int, int, int, int, int, int], int]

SECOND = 10**9
UNITS = {
    word: seconds
    for words, seconds in (
        ("s sec second", 1),
        ("m min minute", 60),
        ("h hr hour", 3600),
        ("d day", 86400),
        ("w week", 604800),
    )
    for word in words.split()
}
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EXAMPLES = "10m, '2h ago', today, 'yesterday 14:00', 'last tuesday', 2026-11-24, 2026-11-24T08:00:00Z, @1795507200"


def parse_when(text: str, now: float, option: str) -> int:
    """Usage when it cannot be understood, with what can be."""
    found = _parse(" ".join(text.lower().split()), now)
    if found is None or not -(2**62) < found < 2**62:
        raise Usage(f"{option} does not understand {text!r}: say it as {EXAMPLES}")
    return found


def _parse(text: str, now: float) -> int | None:
    if text.startswith("@"):
        return _decimal(text[1:], SECOND)
    if text == "now":
        return int(now * SECOND)
    ago = _ago(text.removesuffix(" ago").removeprefix("-"))
    if ago is not None:
        return int(now * SECOND) - ago
    day, _, clock = text.partition(" ")
    if day == "last":
        word, _, clock = clock.partition(" ")
        date = _last(word, now, today_counts=False)
    elif "t" in day and day[:1].isdigit():
        date_text, _, clock = text.partition("t")
        date = _date(date_text) if clock else None
    elif ":" in day:
        clock, date = text, _days_back(now, 0)
    else:
        date = _date(day) or _named(day, now)
    if date is None:
        return None
    return _moment(date, clock.removeprefix("at ").replace(" ", ""))


def _decimal(text: str, unit: int) -> int | None:
    """A number with a fraction, in units."""
    whole, dot, fraction = text.partition(".")
    digits = whole.removeprefix("-") + fraction
    if not (digits.isascii() and digits.isdigit() and len(digits) < 30 and whole) or (dot and not fraction):
        return None
    value: int = int(digits) * unit // 10 ** len(fraction)
    return -value if whole.startswith("-") else value


def _ago(text: str) -> int | None:
    """`10m`, `1h30m`, `2 hours`, `1 day 3 hours`, as a span in ns."""
    total, at = 0, 0
    text = text.replace(" ", "").replace("and", "")
    if not text or not text.isascii():
        return None
    while at < len(text):
        begin = at
        while at < len(text) and (text[at].isdigit() or text[at] == "."):
            at += 1
        number = text[begin:at]
        begin = at
        while at < len(text) and text[at].isalpha():
            at += 1
        word = text[begin:at]
        unit = UNITS.get(word) or UNITS.get(word.removesuffix("s"))
        span = None if unit is None or not number else _decimal(number, unit * SECOND)
        if span is None:
            return None
        total += span
    return total


Date = tuple[int, int, int]


def _date(text: str) -> Date | None:
    """`2026-11-24`, checked to be one."""
    from datetime import date

    parts = text.split("-")
    if [len(part) for part in parts] != [4, 2, 2] or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    year, month, day = map(int, parts)
    try:
        date(year, month, day)
    except ValueError:
        return None
    return year, month, day


def _named(word: str, now: float) -> Date | None:
    if word in ("today", "yesterday"):
        return _days_back(now, 0 if word == "today" else 1)
    return _last(word, now, today_counts=True)


def _last(word: str, now: float, *, today_counts: bool) -> Date | None:
    """The latest such day: a weekday, a week or day back; `last tuesday` is never today."""
    if word in ("week", "month", "night"):
        return _days_back(now, {"week": 7, "month": 30, "night": 1}[word])
    matching = [number for number, day in enumerate(DAYS) if word in (day, day[:3])]
    if not matching:
        return None
    back = (time.localtime(now).tm_wday - matching[0]) % 7
    return _days_back(now, back if back or today_counts else 7)


def _days_back(now: float, days: int) -> Date:
    """By the calendar, since a day may have 23 or 25 hours."""
    from datetime import date, timedelta

    here = time.localtime(now)
    found = date(here.tm_year, here.tm_mon, here.tm_mday) - timedelta(days)
    return found.year, found.month, found.day


def _moment(date: Date, clock: str) -> int | None:
    """That time of that day; without one, its beginning."""
    clock, east = _zone(clock)
    parts = clock.split(":") if clock else ["0"]
    if clock and (len(parts) not in (2, 3) or not all(len(part) <= 2 for part in parts[:2])):
        return None
    numbers = [_decimal(part, SECOND if number == 2 else 1) for number, part in enumerate(parts)]
    if any(one is None or one < 0 for one in numbers) or any("." in part for part in parts[:2]):
        return None
    hour, minute, second_ns = [one or 0 for one in [*numbers, 0, 0][:3]]
    if hour > 24 or minute > 59 or second_ns >= 61 * SECOND or (hour == 24 and (minute or second_ns)):
        return None
    second, fraction = divmod(second_ns, SECOND)
    if east is None:
        # -1: whether summer time holds then is for the zone to say.
        return int(time.mktime((*date, hour, minute, second, 0, 0, -1))) * SECOND + fraction
    from datetime import UTC, datetime, timedelta

    begin = datetime(*date, tzinfo=UTC)
    moment = begin + timedelta(hours=hour, minutes=minute, seconds=second - east)
    return int(moment.timestamp()) * SECOND + fraction


def _zone(clock: str) -> tuple[str, int | None]:
    """A clock's time, and how many seconds east of Greenwich it is meant; None: here."""
    for ending in ("z", "utc"):
        if clock.endswith(ending):
            return clock.removesuffix(ending), 0
    for sign in "+-":
        time_part, found, offset = clock.partition(sign)
        digits = offset.replace(":", "")
        if found and len(digits) in (2, 4) and digits.isdigit() and time_part:
            seconds = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
            return time_part, seconds if sign == "+" else -seconds
    return clock, None

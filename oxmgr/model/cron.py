"""Cron lines → moments. For the command and a helper process: the daemon must not load what this needs.

Five fields (minute, hour, day of the month, month, day of the week) or six, with the second first, or a nickname. What
each field may hold is cronsim's to say, which follows Debian's cron, also where the clocks are changed: a time of day
that does not exist is as soon as there is one, and one that is there twice is the first of the two; a line that runs
every hour or more often goes by the time that has passed. cronsim does so for five fields alone, hence the seconds are
done here.
"""

from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
HORIZON = timedelta(days=366 * 30)
"""Nothing is looked for behind this: there are at most 28 years between two times of a line, but for 2100."""
_BACK = (60, 3600, 24 * 3600, 32 * 24 * 3600, 366 * 24 * 3600, int(HORIZON.total_seconds()))


class BadLine(ValueError):
    """The message is the end of a sentence that began with the line."""


def due_times(line: str, zone: tzinfo, after: int) -> "Iterator[int]":
    """The Unix times, later than `after`, at which the line is due in that time zone, in order. BadLine."""
    seconds, minutes = _parse(line)
    start = datetime.fromtimestamp(after - after % 60, UTC)
    # One minute earlier: the one that `after` lies in may have seconds left.
    found = CronSim(minutes, (start - timedelta(minutes=1)).astimezone(zone))
    last = after
    try:
        for minute in found:
            if minute.astimezone(UTC) - start > HORIZON:
                return
            base = int(minute.timestamp())
            for second in seconds:
                # A time of day that does not exist can fall on one that the line names as well.
                if base + second > last:
                    last = base + second
                    yield last
    except OverflowError:
        return  # the calendar ends


def last_due(line: str, zone: tzinfo, until: int) -> int | None:
    """The latest of them that is not later than `until`."""
    for span in _BACK:
        last = None
        for moment in due_times(line, zone, until - span):
            if moment > until:
                break
            last = moment
        if last is not None:
            return last
    return None


def line_error(line: str) -> str | None:
    """Why it is no line that is ever due, as the end of a sentence; None if it is one."""
    try:
        if next(due_times(line, UTC, 0), None) is None:
            return "is never due: there is no such day"
    except BadLine as wrong:
        return str(wrong)
    return None


def _parse(line: str) -> tuple[list[int], str]:
    """The seconds of each minute, and a line of five fields for the minutes."""
    words = NICKNAMES.get(line.strip().lower(), line).split()
    if words and words[0].startswith("@"):
        raise BadLine(f"is no time: {', '.join(NICKNAMES)} are")
    if len(words) not in (5, 6):
        raise BadLine(f"has {len(words)} fields: five ({', '.join(FIELDS)}), or six with the second first")
    first, minutes = (words[0], words[1:]) if len(words) == 6 else ("0", words)
    try:
        seconds = CronSim(f"{first} * * * * *", datetime.fromtimestamp(0, UTC)).seconds
    except (CronSimError, AssertionError, IndexError, ValueError):
        raise BadLine(f"holds {first!r}, which is no second") from None
    try:
        CronSim(" ".join(minutes), datetime.fromtimestamp(0, UTC))
    except (CronSimError, AssertionError, IndexError, ValueError) as error:
        raise BadLine(_explain(minutes, error)) from None
    return sorted(seconds), " ".join(minutes)


def _explain(fields: list[str], error: Exception) -> str:
    """Which field it is: each is tried among stars."""
    for number, (field, name) in enumerate(zip(fields, FIELDS, strict=True)):
        alone = ["*"] * 5
        alone[number] = field
        try:
            CronSim(" ".join(alone), datetime.fromtimestamp(0, UTC))
        except (CronSimError, AssertionError, IndexError, ValueError):
            return f"holds {field!r}, which is no {name}"
    return "is never due: there is no such day" if str(error) == "Bad day-of-month" else str(error)

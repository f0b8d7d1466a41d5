"""Says when cron lines are due, for the daemon knows neither calendars nor time zones."""

import os
import sys
from _signal import SIGKILL
from zoneinfo import ZoneInfo

import _prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo

COUNT = 64
LOCALTIME = "/etc/localtime"


def main() -> int:
    """The words behind the first two are the daemon's pid and the time, and then each line with the name of its time
    zone ("": the machine's). For each of these goes a line to standard output, as `answer` says. Ends with the
    daemon."""
    _prctl.prctl(_prctl.PR_SET_PDEATHSIG, SIGKILL)
    daemon, now, *words = sys.argv[3:]
    if os.getppid() != int(daemon):
        # It has ended before we could hear of it.
        return 1
    for line, zone in zip(words[::2], words[1::2], strict=True):
        sys.stdout.write(f"{answer(line, zone, int(now))}\n")
    sys.stdout.flush()
    return 0


def answer(line: str, zone: str, now: int) -> str:
    """Unix times: the last one that is not later than `now` (0: there is none), and the next ones, COUNT at the most.
    Or `!` and what is wrong."""
    from oxmgr.model.cron import BadLine, due_times, last_due

    try:
        where = machine_zone() if not zone else ZoneInfo(zone)
        coming = due_times(line, where, now)
        times = [moment for _, moment in zip(range(COUNT), coming, strict=False)]
        return " ".join(map(str, [last_due(line, where, now) or 0, *times]))
    except BadLine as wrong:
        return f"!{line!r} {wrong}"
    except (OSError, ValueError, KeyError):
        return f"!there is no time zone {zone!r} on this host"


def machine_zone() -> "tzinfo":
    """UTC where the machine does not say."""
    try:
        with open(LOCALTIME, "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return ZoneInfo("UTC")

"""How things look: tables that fit the terminal, colours where they are wanted, times and sizes for people."""

import os
import select
import sys
import time

from oxmgr.cli.usage import add_usage
from oxmgr.model.codec import encode_json, format_json
from oxmgr.model.messages import InstanceView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GREEN, YELLOW, RED, BLUE, MAGENTA, CYAN, DIM, BOLD = "32", "33", "31", "34", "35", "36", "2", "1"

STDOUT = 1

STATUS_COLOURS = {
    "running": GREEN,
    "starting": YELLOW,
    "waiting": YELLOW,
    "backoff": YELLOW,
    "stopping": YELLOW,
    "stopped": DIM,
    "exited": DIM,
    "errored": RED,
}


def wants_colour(fd: int) -> bool:
    """A terminal, and nobody has asked for none (NO_COLOR, no-color.org; TERM=dumb)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, wanted: bool) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted and colour and text else text


def terminal_width(fd: int = 1) -> int | None:
    """Columns; None where there is no terminal, or one that does not know how wide it is: nothing to fit into."""
    try:
        return (os.get_terminal_size(fd).columns or None) if os.isatty(fd) else None
    except OSError:
        return None


def table(
    header: "Sequence[str]",
    rows: "Sequence[Sequence[str]]",
    *,
    width: int | None,
    flexible: "dict[int, int] | None" = None,
    droppable: "Sequence[int]" = (),
    right: "Sequence[int]" = (),
    colours: "Sequence[dict[int, str]] | None" = None,
    colour: bool = False,
) -> str:
    """Lines of columns two blanks apart. When they are wider than `width`, the `droppable` ones are left out in their
    order until the rest fits with the `flexible` ones at the widths that those map to; then these are cut, the widest
    first; and at last the line. `colours` has a dict a row: column → colour."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = {at: max(len(row[at]) for row in [header, *cells]) for at in range(len(header))}
    if width is not None:
        _fit(widths, width, flexible or {}, droppable)
    lines = [_line(header, widths, right, dict.fromkeys(widths, BOLD), colour, width)]
    for number, row in enumerate(cells):
        lines.append(_line(row, widths, right, colours[number] if colours else {}, colour, width))
    return "\n".join(lines) + "\n"


def _fit(widths: dict[int, int], width: int, flexible: dict[int, int], droppable: "Sequence[int]") -> None:
    def over(some: "Iterable[int]") -> int:
        return sum(some) + 2 * (len(widths) - 1) - width

    def least(at: int) -> int:
        return min(widths[at], flexible.get(at, widths[at]))

    for column in droppable:
        if over(map(least, widths)) <= 0:
            break
        del widths[column]
    while over(widths.values()) > 0:
        cut = [at for at in widths if widths[at] > least(at)]
        if not cut:
            break
        widths[max(cut, key=widths.__getitem__)] -= 1


def _line(
    row: "Sequence[str]",
    widths: dict[int, int],
    right: "Sequence[int]",
    colours: dict[int, str],
    colour: bool,
    width: int | None,
) -> str:
    left = width if width is not None else sum(widths.values()) + 2 * len(widths)
    parts: list[str] = []
    for at, wide in widths.items():
        cell, room = row[at], min(wide, left)
        if room <= 0:
            break
        text = cell if len(cell) <= room else cell[: room - 1] + "…"
        text = text.rjust(room) if at in right else text.ljust(room)
        if at == max(widths):
            text = text.rstrip()
        parts.append(paint(text, colours.get(at, ""), colour))
        left -= room + 2
    return "  ".join(parts).rstrip()


def printable(text: str) -> str:
    """Nothing that an app's author wrote may move the cursor or colour the terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def duration(seconds: float) -> str:
    """`1d 2h`, `3h 4m`, `5m 6s`, `7s`."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def size(count: float) -> str:
    """`812 B`, `12.3 MB`: powers of 1024, as the kernel counts memory."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KB", "MB", "GB", "TB"):
        count /= 1024
        if count < 1024 or unit == "TB":
            break
    return f"{count:.1f} {unit}"


def moment(seconds: float) -> str:
    """Unix time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def fail_unread(ready: dict[int, int]) -> None:
    """BrokenPipeError when nobody reads our standard output any more, as a poll that has STDOUT in it tells (poll(2):
    POLLERR of a pipe, POLLHUP of a terminal or socket). Who follows may have nothing to write for long."""
    if ready.get(STDOUT, 0) & (select.POLLERR | select.POLLHUP):
        raise BrokenPipeError


def print_json(value: object) -> None:
    out = format_json(encode_json(value), indent=2)
    sys.stdout.write(out.decode() + "\n")


_told: list[str] = []


def was_told(path: str) -> bool:
    """Whether a warning of this command began with it."""
    return any(text.startswith(path) for text in _told)


def warn(text: str) -> None:
    _told.append(text)
    sys.stdout.flush()
    sys.stderr.write(f"{paint('oxmgr: warning:', YELLOW, wants_colour(2))} {text}\n")


def print_instances(views: "Iterable[InstanceView]") -> None:
    """The table of `oxmgr list`."""
    views = list(views)
    if not views:
        sys.stdout.write("nothing to show: oxmgr start COMMAND starts something\n")
        return
    add_usage(views)
    named = any(view.namespace != "default" for view in views)
    header = ["NAME", "STATUS", "PID", "UPTIME", "RESTARTS", "CPU", "MEMORY", *(["NAMESPACE"] if named else []), "WHY"]
    rows = [_row(view, named) for view in views]
    colours = [{1: STATUS_COLOURS.get(view.status, "")} for view in views]
    why = len(header) - 1
    # On a narrow terminal, why something is as it is tells more than what it uses.
    droppable = [*([] if any(row[why] for row in rows) else [why]), *([7] if named else []), 6, 5, 3, 4]
    sys.stdout.write(
        table(
            header,
            rows,
            width=terminal_width(),
            flexible={0: 12, why: 20},
            droppable=droppable,
            right=(2, 3, 4, 5, 6),
            colours=colours,
            colour=wants_colour(1),
        )
    )


def _row(view: InstanceView, named: bool) -> list[str]:
    return [
        view.name,
        view.status,
        "-" if view.pid is None else str(view.pid),
        "-" if view.uptime_ms is None else duration(view.uptime_ms / 1000),
        str(view.restarts),
        "-" if view.cpu_percent is None else f"{view.cpu_percent:.1f}%",
        "-" if view.memory_bytes is None else size(view.memory_bytes),
        *([view.namespace] if named else []),
        view.reason or _what_does_not_hold(view),
    ]


def _what_does_not_hold(view: InstanceView) -> str:
    if not view.warnings:
        return ""
    what = "not all is as it was asked for"
    if all(map(is_of_sandbox, view.warnings)):
        what = "the sandbox is not whole"
    elif any(text.startswith("limits.") for text in view.warnings):
        what = "not all limits hold"
    return f"{what}, see oxmgr status {view.app}"


def is_of_sandbox(text: str) -> bool:
    return text.startswith("sandbox.")


class ProgressLine:
    """One line on the terminal that tells how far a long command is; nothing anywhere else."""

    def __init__(self) -> None:
        self._shown = False
        self.wanted = os.isatty(2)

    def show(self, text: str) -> None:
        if self.wanted:
            width = (terminal_width(2) or 80) - 1
            sys.stderr.write(f"\r\x1b[K{printable(text)[:width]}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

"""Says whose line has come: for each order, as soon as a line of one of its log files matches its regular expression.

An order is a datagram (oxmgr.model.messages.Match), and so is an answer: the number of an order, and behind a space why
it cannot be carried out, if it cannot. A file that was rotated meanwhile goes on under its name. Ends with its
standard input.
"""

import os
import re
import select
import sys
from _signal import SIGKILL

import _prctl

from oxmgr.client.inotify import FolderWatch
from oxmgr.client.logchain import open_live
from oxmgr.client.logfile import Source, open_regular
from oxmgr.model.codec import Decoder
from oxmgr.model.messages import Match

POLLED = 0.02
"""Seconds between two looks on a host that has no inotify to give."""
LINE_LIMIT = 1024 * 1024
ROOM = 1 << 20


class Tail:
    """The lines that come to a file."""

    def __init__(self, path: str, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._fd = -1
        self._rest = b""

    def lines(self) -> list[bytes]:
        found: list[bytes] = []
        while True:
            if self._fd < 0 and not self._open():
                return found
            data = os.pread(self._fd, 1 << 20, self._offset)
            if data:
                self._offset += len(data)
                *whole, self._rest = (self._rest + data).split(b"\n")
                found += whole
                self._rest = self._rest[-LINE_LIMIT:]
            elif self._is_same():
                return found
            else:
                self.close()
                self._offset = 0

    def _open(self) -> bool:
        self._fd = open_regular(self._path)
        if self._fd >= 0:
            self._offset = min(self._offset, os.fstat(self._fd).st_size)
        return self._fd >= 0

    def _is_same(self) -> bool:
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        return os.path.samestat(there, os.fstat(self._fd)) and there.st_size >= self._offset

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Wanted:
    """What an order asks for. re.error when that is no regular expression."""

    def __init__(self, order: Match) -> None:
        self._pattern = re.compile(os.fsencode(order.pattern))
        self.tails = {path: Tail(path, offset_of(path, offset, order.since)) for path, offset in order.files.items()}

    def has_come(self) -> bool:
        return any(self._pattern.search(line) for tail in self.tails.values() for line in tail.lines())

    def close(self) -> None:
        for tail in self.tails.values():
            tail.close()


def offset_of(path: str, offset: int, since: int) -> int:
    """Where what counts begins; when that is not known any more (-1), by the times that are."""
    if offset >= 0:
        return offset
    file = open_live(path, Source(""))
    return file.offset_since(since) if file is not None else 0


class Watch:
    """Of the folders of log files; without inotify, everything may have changed at any time."""

    def __init__(self) -> None:
        try:
            self._folders: FolderWatch | None = FolderWatch()
        except OSError:
            self._folders = None

    def want(self, path: str) -> None:
        try:
            if self._folders is not None:
                self._folders.want(path.rpartition("/")[0] or "/")
        except OSError:
            self._folders = None

    def changed(self, wanted: "dict[int, Wanted]") -> "list[int]":
        """Wait; the numbers of those that may have something to read."""
        if self._folders is None:
            select.select([0], [], [], POLLED)
            return list(wanted)
        select.select([0, self._folders.fd], [], [])
        events = self._folders.look()
        if any(not folder for folder, _, _ in events):
            return list(wanted)
        paths = {f"{folder.rstrip('/')}/{name}" for folder, name, _ in events}
        # Whoever rotates a log adds to its name, and what wrote to it may go on doing so.
        return [number for number, one in wanted.items() if any(path.startswith(tuple(one.tails)) for path in paths)]


def main() -> int:
    """The word behind the first two is the daemon's pid. Ends with the daemon."""
    _prctl.prctl(_prctl.PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != int(sys.argv[3]):
        return 1
    orders = Decoder(Match)
    wanted: dict[int, Wanted] = {}
    watch = Watch()
    while True:
        due = watch.changed(wanted)
        while select.select([0], [], [], 0)[0]:
            data = os.read(0, ROOM)
            if not data:
                return 0
            order = orders.decode(data)
            before = wanted.pop(order.number, None)
            if before is not None:
                before.close()
            if not order.files:
                continue
            # Watched first: what comes while it is opened is told.
            for path in order.files:
                watch.want(path)
            try:
                wanted[order.number] = Wanted(order)
            except re.error as wrong:
                say(f"{order.number} it is no regular expression: {wrong}")
                continue
            due.append(order.number)
        for number in due:
            if number in wanted and wanted[number].has_come():
                wanted.pop(number).close()
                say(f"{number}")


def say(text: str) -> None:
    # Nobody reads while the daemon does something else, and there is nothing else to do here meanwhile.
    select.select([], [1], [])
    os.write(1, text.encode(errors="replace"))

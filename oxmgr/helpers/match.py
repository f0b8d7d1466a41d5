"""Says `ok` as soon as a line of one of these log files matches a regular expression. Ends with its standard input.

Words: the expression, then for each file its path and the offset from which on it is looked at. A file that was rotated
meanwhile goes on under its name.
"""

import os
import re
import select
import sys

INTERVAL = 0.02
"""Seconds between two looks: only while an app is starting."""
LINE_LIMIT = 1024 * 1024


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
                os.close(self._fd)
                self._fd, self._offset = -1, 0

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        self._offset = min(self._offset, os.fstat(self._fd).st_size)
        return True

    def _is_same(self) -> bool:
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        return os.path.samestat(there, os.fstat(self._fd)) and there.st_size >= self._offset


def main() -> int:
    pattern = re.compile(os.fsencode(sys.argv[3]))
    words = sys.argv[4:]
    tails = [Tail(path, int(offset)) for path, offset in zip(words[::2], words[1::2], strict=True)]
    while True:
        if any(pattern.search(line) for tail in tails for line in tail.lines()):
            os.write(1, b"ok\n")
            return 0
        if select.select([0], [], [], INTERVAL)[0] and not os.read(0, 1):
            return 0

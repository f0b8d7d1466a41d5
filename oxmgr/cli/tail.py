"""The ends of log files, and what comes after. Bytes, for an app may print any."""

import os
from _stat import S_ISREG

BLOCK = 64 * 1024
MARK = 64


def last_lines(path: str, count: int) -> list[bytes]:
    """At most `count` lines with their newlines; the last one may have none. [] when there is no such file."""
    fd = _open(path)
    if fd < 0:
        return []
    try:
        return _end_of(fd, count)[0]
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """-1 when it is not there, or is no file that has an end and can be read again."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return -1
    if S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def _end_of(fd: int, count: int) -> tuple[list[bytes], int]:
    """The last lines, and where the file ended."""
    at = end = os.lseek(fd, 0, os.SEEK_END)
    found = b""
    # One newline more than lines: the one before the first of them. A last newline ends a line, it begins none.
    while count and at > 0 and found.count(b"\n", 0, -1) < count:
        at, before = max(0, at - BLOCK), at
        found = os.pread(fd, before - at, at) + found
    return _split(found)[-count:] if count else [], end


def _split(data: bytes) -> list[bytes]:
    # Not splitlines(): a carriage return ends no line here.
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


class Follower:
    """What is appended to one file, whole lines at a time, also when it is truncated, replaced, or made only later.

    `first` are the last `lines` lines that were there. With `begin`, what comes behind that offset is new.
    """

    def __init__(self, path: str, lines: int, begin: int | None = None) -> None:
        self.path = path
        self.first: list[bytes] = []
        self._fd = _open(path)
        self._offset = 0
        # The last bytes read: when they do not stand there any more, the file was truncated and has grown again.
        self._mark = b""
        self._rest = b""
        if self._fd < 0:
            return
        self.first, self._offset = _end_of(self._fd, lines)
        if begin is not None:
            self.first, self._offset = [], min(begin, self._offset)
        at = max(0, self._offset - MARK)
        self._mark = os.pread(self._fd, self._offset - at, at)
        if self.first and not self.first[-1].endswith(b"\n"):
            self._rest = self.first.pop()

    def more(self) -> list[bytes]:
        """The lines that have come since the last call. What has no end of line yet is kept until it has."""
        if self._fd < 0:
            self._fd = _open(self.path)
            if self._fd < 0:
                return []
        found = self._read()
        if self._was_replaced():
            # What came to the old one between that reading and its end.
            found += self._read()
            os.close(self._fd)
            self._fd = _open(self.path)
            found += self._start_again()
            found += self._read()
        return found

    def _was_replaced(self) -> bool:
        try:
            there = os.stat(self.path)
        except OSError:
            return False  # renamed, and the new one is not there yet
        here = os.fstat(self._fd)
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    def _read(self) -> list[bytes]:
        if self._fd < 0:
            return []
        found: list[bytes] = []
        size = os.fstat(self._fd).st_size
        if size == self._offset:
            return []
        if size < self._offset or os.pread(self._fd, len(self._mark), self._offset - len(self._mark)) != self._mark:
            found += self._start_again()
        while data := os.pread(self._fd, BLOCK, self._offset):
            self._offset += len(data)
            self._mark = (self._mark + data)[-MARK:]
            lines = _split(self._rest + data)
            self._rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
            found += lines
        return found

    def _start_again(self) -> list[bytes]:
        self._offset, self._mark = 0, b""
        return self.flush()

    def flush(self) -> list[bytes]:
        """The line that never ended, ended."""
        rest, self._rest = self._rest, b""
        return [rest + b"\n"] if rest else []

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

"""The ends of log files, and what comes after. Bytes, for an app may print any."""

import os

BLOCK = 64 * 1024


def last_lines(path: str, count: int) -> list[bytes]:
    """At most `count` lines with their newlines; the last one may have none. [] when there is no such file."""
    return _end_of(path, count)[0]


def _end_of(path: str, count: int) -> tuple[list[bytes], int]:
    """The same, and where the file ended."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return [], 0
    try:
        at = end = os.lseek(fd, 0, os.SEEK_END)
        found = b""
        # One newline more than lines: the one before the first of them. A last newline ends a line, it begins none.
        while at > 0 and found.count(b"\n", 0, -1) < count:
            at, before = max(0, at - BLOCK), at
            found = os.pread(fd, before - at, at) + found
        lines = found.splitlines(keepends=True) if b"\r" not in found else _split(found)
        return lines[-count:] if count else [], end
    except OSError:
        # A FIFO or device has no end.
        return [], 0
    finally:
        os.close(fd)


def _split(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


class Follower:
    """What is appended to one file from its end on, whole lines at a time, also when it is truncated or replaced."""

    def __init__(self, path: str, lines: int) -> None:
        self.path = path
        self.first, self._offset = _end_of(path, lines)
        self._inode = _inode(path)
        self._rest = b""
        if self.first and not self.first[-1].endswith(b"\n"):
            self._rest = self.first.pop()

    def more(self) -> list[bytes]:
        """The lines that have come since the last call. What has no end of line yet is kept until it has."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return []
        try:
            status = os.fstat(fd)
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            found: list[bytes] = []
            while data := os.pread(fd, BLOCK, self._offset):
                self._offset += len(data)
                lines = _split(self._rest + data)
                self._rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
                found += lines
            return found
        finally:
            os.close(fd)

    def flush(self) -> list[bytes]:
        """The line that never ended."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0

"""The daemon's own log: one line an entry, in its log folder, two files of 4 MB at most."""

import os
import time

from oxmgr.supervisor.files import append

_LIMIT = 4 * 1024 * 1024
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class Log:
    """Appends to the file of that name, whatever has become of the one that had it. There is nobody to tell of a line
    that cannot be written: how many there were is written with the next that can."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self._lost = 0
        self._open()

    def _open(self) -> bool:
        """Whether it is there now; else what was open stays so."""
        try:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            fd = os.open(self._path, _FLAGS, 0o600)
        except OSError:
            return False
        self.close()
        self._fd, self._size = fd, os.fstat(fd).st_size
        return True

    def __call__(self, text: str) -> None:
        line = _line(text)
        if not self._is_in_place() and not self._open() and not self._is_somewhere():
            self._lost += 1
            return
        if self._lost:
            line = _line(f"{self._lost} lines before this one could not be written") + line
        if self._size + len(line) > _LIMIT:
            self._rotate()
        try:
            append(self._fd, line)
        except OSError:
            self._lost += 1
            return
        self._size += len(line)
        self._lost = 0

    def _is_in_place(self) -> bool:
        """Nobody has removed or renamed it."""
        try:
            return self._fd >= 0 and os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return False

    def _is_somewhere(self) -> bool:
        """It has another name, at which its lines can be found."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink > 0

    @property
    def works(self) -> bool:
        return self._fd >= 0

    def _rotate(self) -> None:
        try:
            os.rename(self._path, f"{self._path}.1")
        except OSError:
            return
        self._open()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _line(text: str) -> bytes:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="surrogateescape")

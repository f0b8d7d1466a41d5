"""The daemon's own log: one line an entry, in its log folder, two files of 4 MB at most."""

import os
import time

_LIMIT = 4 * 1024 * 1024


class Log:
    """Appends; a line that cannot be written is given up, since there is nobody left to tell."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size
        except OSError:
            self._fd, self._size = -1, 0

    def __call__(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="surrogateescape")
        if self._size + len(line) > _LIMIT:
            self._rotate()
        try:
            self._size += os.write(self._fd, line)
        except OSError:
            return

    @property
    def works(self) -> bool:
        return self._fd >= 0

    def _rotate(self) -> None:
        try:
            os.rename(self._path, f"{self._path}.1")
        except OSError:
            return
        self.close()
        self._open()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

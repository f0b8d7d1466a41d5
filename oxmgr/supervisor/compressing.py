"""Has rotated log files compressed: by a helper of the lowest priority, one at a time, so that it takes no more than
one CPU from anybody and only when nobody else wants it."""

import errno
import os
import time

from oxmgr.folders import open_folder
from oxmgr.supervisor.helper import end_helper, start_helper
from oxmgr.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.loop import Loop, Timer

HELPER = "compress"
NICE = 19
AGAIN = 60.0
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What keeps a folder from being opened for a while."""
FILES = 64
"""At most so many for one helper, of one folder."""


class Compressor:
    """`say` is called with why a file is not compressed."""

    def __init__(self, loop: "Loop", say: "Callable[[str], None]") -> None:
        self._loop = loop
        self._say = say
        self._queue: dict[str, None] = {}
        self._folder = ""
        self._running: tuple[int, int] | None = None
        self._said = b""
        self._later: Timer | None = None

    def add(self, files: list[str]) -> None:
        self._queue.update(dict.fromkeys(files))
        self._start()

    def _start(self) -> None:
        while self._queue and self._running is None and self._later is None:
            self._start_one()

    def _start_one(self) -> None:
        """On files of one folder, which the helper gets by its fd."""
        self._folder = next(iter(self._queue)).rpartition("/")[0]
        files = [file for file in self._queue if file.rpartition("/")[0] == self._folder][:FILES]
        for file in files:
            del self._queue[file]
        names = [file.rpartition("/")[2] for file in files]
        fds: list[int] = []
        try:
            fds.append(open_folder(self._folder))
            fds += os.pipe2(os.O_CLOEXEC)
            fds.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            within, reading, said, null = fds
            _, pidfd = start_helper(HELPER, [str(os.getpid()), *names], [null, said, null, within], nice=NICE)
            fds.remove(reading)
        except OSError as error:
            if fds or error.errno in PASSING:
                self._try_later(files, error)
            else:
                self._say(f"not compressed: {files[0]}: {error.strerror}")
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._running = reading, pidfd
        self._said = b""
        self._loop.add(reading, READ, self._on_said)

    def _try_later(self, files: list[str], error: OSError) -> None:
        self._queue = {**dict.fromkeys(files), **self._queue}
        self._say(f"{files[0]}: it is not compressed yet: {error.strerror}")
        self._later = self._loop.at(time.monotonic() + AGAIN, self._start_again)

    def _start_again(self) -> None:
        self._later = None
        self._start()

    def _on_said(self, _: int) -> None:
        if self._running is None:
            return
        data = os.read(self._running[0], 4096)
        self._said += data
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            self._say(f"not compressed: {self._folder}/{os.fsdecode(line)}")
        if not data:
            self._let_go()
            self._start()

    def _let_go(self) -> None:
        if self._running is None:
            return
        reading, pidfd = self._running
        self._running = None
        self._loop.remove(reading)
        os.close(reading)
        end_helper(pidfd)

    def end(self) -> None:
        """The daemon ends, and no helper outlives it."""
        self._queue.clear()
        self._let_go()

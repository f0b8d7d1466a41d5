"""What an app is born with to say that it is ready: a pipe (s6's notification fd), or Node's IPC channel.

Our end of each is with the guard too, so what is said to a dead daemon is heard by the next one.
"""

import os
import time
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_STREAM, socket, socketpair

from oxmgr.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.loop import Loop, Timer

BUDGET = 64 * 1024
"""Bytes of one app for a wake-up."""
WAKES = 8
"""Of one app for each PAUSE: who sends little at a time, and all the time, would have us woken by each."""
PAUSE = 0.05
"""Seconds before who has sent more is heard again."""
READY = b'"ready"'
SHUTDOWN = b'"shutdown"\n'
"""As `process.send('ready')` and a message to `process.on('message')` are on the wire: JSON, a line each
(lib/internal/child_process/serialization.js of Node)."""


class ReadyPipe:
    """`said` is called once, at the first newline. An end without one says nothing (notification-fd of s6's service
    directories)."""

    def __init__(self, loop: "Loop", guard: "Guard", kept: str, fd: int, said: "Callable[[], object]") -> None:
        self._loop = loop
        self._guard = guard
        self._kept = kept
        self._fd = fd
        self._said = said
        loop.add(fd, READ, self._on_ready)

    def _on_ready(self, _: int) -> None:
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return
        if b"\n" in data or not data:
            self.close()
        if b"\n" in data:
            self._said()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove(self._fd)
            self._guard.forget(self._kept)
            os.close(self._fd)
            self._fd = -1


def make_pipe() -> tuple[int, int]:
    """Ours, which does not wait, and the app's: that can be read as well, so that an app which writes while nobody else
    has it open does not get SIGPIPE, and what it writes stays."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ours, False)
    try:
        both = os.open(f"/proc/self/fd/{theirs}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return ours, theirs
    os.close(theirs)
    return ours, both


class NodeChannel:
    """`said` is called with each `process.send('ready')`."""

    def __init__(self, loop: "Loop", guard: "Guard", kept: str, fd: int, said: "Callable[[], object]") -> None:
        self._loop = loop
        self._guard = guard
        self._kept = kept
        self._socket = socket(fileno=fd)
        self._said = said
        self._begun = b""
        self._since = 0.0
        self._wakes = 0
        self._pause: Timer | None = None
        loop.add(fd, READ, self._on_ready)

    @property
    def is_open(self) -> bool:
        return bool(self._socket.fileno() >= 0)

    def send_shutdown(self) -> bool:
        """False when it cannot be told: it has disconnected, or reads nothing."""
        if not self.is_open:
            return False
        try:
            return bool(self._socket.send(SHUTDOWN, MSG_DONTWAIT | MSG_NOSIGNAL) == len(SHUTDOWN))
        except OSError:
            return False

    def _on_ready(self, _: int) -> None:
        if self._pause is not None:
            # That it has gone is told of also when nothing is asked for (EPOLLHUP, epoll_ctl(2)): no more will come.
            self._pause.cancel()
            self._go_on()
        try:
            # Handles that come with a message are the kernel's to close, for there is no room for them (unix(7)).
            data = self._socket.recv(BUDGET, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, rest = (self._begun + data).split(b"\n")
        # Of a line that is longer than what is looked for, nobody needs to know more.
        self._begun = rest[: len(READY) + 1]
        now = time.monotonic()
        if now >= self._since + PAUSE:
            self._since, self._wakes = now, 0
        self._wakes += 1
        if len(data) == BUDGET or self._wakes == WAKES:
            self._loop.change(self._socket.fileno(), 0)
            self._pause = self._loop.at(now + PAUSE, self._go_on)
        if READY in lines:
            self._said()

    def _go_on(self) -> None:
        self._pause = None
        self._loop.change(self._socket.fileno(), READ)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self.is_open:
            self._loop.remove(self._socket.fileno())
            self._guard.forget(self._kept)
            self._socket.close()


def make_channel() -> tuple[int, int]:
    """Ours and the app's."""
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    return ours.detach(), theirs.detach()

"""Where lines go that do not go to a file: the daemon's own standard output, and journald.

A block is sent, and then the spool's record says so: a daemon that is killed between may send the last block twice, and
loses nothing.
"""

import errno
import os
import select
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket
from abc import abstractmethod

from oxmgr.supervisor.loop import WRITE
from oxmgr.supervisor.native import BLOCK, PREFIXED, RAW, Formatter
from oxmgr.supervisor.spooled import Spooled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.spec import Logs
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.spool import Spool

JOURNAL = "/run/systemd/journal/socket"
JOURNAL_LINE = 256 * 1024
"""Bytes of a line in one message."""
PRIORITIES = {"out": 6, "err": 3}
ATOMIC = 4096
"""A pipe that can be written to takes so many bytes without a wait (pipe(7), PIPE_BUF)."""


class Target:
    """Takes blocks; what cannot be taken now is asked for again by `waiters`, once it can."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._waiters: dict[Callable[[], object], None] = {}
        self._waits = False

    def wait(self, fd: int, resume: "Callable[[], object]") -> None:
        if not self._waits:
            self._loop.add(fd, WRITE, lambda _: self._resume(fd))
            self._waits = True
        self._waiters[resume] = None

    def forget(self, resume: "Callable[[], object]") -> None:
        self._waiters.pop(resume, None)

    def _resume(self, fd: int) -> None:
        self._loop.remove(fd)
        self._waits = False
        waiters, self._waiters = list(self._waiters), {}
        for resume in waiters:
            resume()


class Stdout(Target):
    """The daemon's own standard output. Lines of different apps are not mixed: a block goes out before the next."""

    def __init__(self, loop: "Loop") -> None:
        super().__init__(loop)
        self.fd = open_again(1)
        # Not select(2), which knows no fd from 1024 on.
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLOUT)
        self._left = b""
        self._begun = 0
        self._failed: OSError | None = None

    def send(self, block: bytes) -> int:
        """Its number, or 0 when the last one has not gone out. OSError."""
        if not self.is_out(self._begun):
            return 0
        self._left = block
        self._begun += 1
        return self._begun

    def is_out(self, number: int) -> bool:
        """Whether the block has gone out. OSError: also to whose block it was, when another one had tried."""
        if number < self._begun:
            return True
        if self._failed is not None:
            raise self._failed
        while self._left and self._poll.poll(0):
            try:
                self._left = self._left[os.write(self.fd, self._left[:ATOMIC]) :]
            except BlockingIOError:
                break
            except OSError as error:
                self._failed = error
                raise
        return not self._left


def open_again(fd: int) -> int:
    """For a pipe or a terminal: an open description of our own, so that it can be one that does not wait without being
    so for everybody who has it."""
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        pass
    return fd


class SinkLog(Spooled):
    """What both have of a log; `path` is a word for where it goes."""

    trouble = ""

    def __init__(self, logs: "Logs", spool: "Spool", path: str, formatter: Formatter, target: Target) -> None:
        super().__init__(logs, spool, formatter)
        self.path = path
        self.resume: Callable[[], object] = lambda: None
        self._target = target
        self._sent: tuple[int, int, int] | None = None

    def notice(self, text: str) -> None:
        self._open()
        self._send_notice(text)

    def empty(self) -> None:
        """What has gone out is not ours any more."""

    def forget(self) -> None:
        """It is not resumed any more."""
        self._target.forget(self.resume)

    def leave(self) -> None:
        self.forget()
        self.close()

    def close(self) -> None:
        self._spool.close()

    def _work(self, final: bool) -> None:
        spool, formatter = self._spool, self._formatter
        begun = spool.start, self._dropped
        try:
            while True:
                if self._sent is not None:
                    if not self._is_out():
                        self._wait()
                    spool.start, self._dropped, self._inside = self._sent
                    self._sent = None
                if self._can_tell(final):
                    self._send_notice(self._told(self._dropped))
                    self._sent = spool.start, 0, self._inside
                    continue
                if not spool.has_more(final):
                    return
                data = spool.read(self._block)
                formatter.begin(
                    b"",
                    final=final and len(data) == spool.end - spool.start,
                    inside=self._inside,
                    allowed=self._rate.allowed(),
                )
                took_all = self._send(data)
                self._rate.take(formatter.lines)
                self._sent = spool.start + formatter.used, self._dropped + formatter.dropped, formatter.inside
                if not took_all:
                    self._wait()
                if not formatter.used:
                    spool.looked = spool.end
                    self._sent = None
                    return
        finally:
            if (spool.start, self._dropped) != begun:
                self._settle()

    def _wait(self) -> None:
        self._target.wait(self._fd(), self.resume)
        raise BlockingIOError

    # What the two differ in:

    _block = BLOCK

    @abstractmethod
    def passes(self, error: OSError) -> bool:
        """Whether it may be better later."""

    @abstractmethod
    def _fd(self) -> int:
        """That can be written to when more is taken."""

    @abstractmethod
    def _is_out(self) -> bool:
        """Whether the last block has gone out."""

    @abstractmethod
    def _send(self, data: bytes) -> bool:
        """Whether all of its lines were taken."""

    @abstractmethod
    def _send_notice(self, text: str) -> None:
        """A line of ours."""


class StdoutLog(SinkLog):
    """`name` stands before each line."""

    def __init__(self, logs: "Logs", spool: "Spool", name: str, target: Stdout) -> None:
        super().__init__(logs, spool, "standard output", Formatter(PREFIXED, f"{name[:56]} | ".encode()), target)
        self._stdout = target
        self._number = 0

    def _fd(self) -> int:
        return self._stdout.fd

    def passes(self, error: OSError) -> bool:
        """Nobody reads it any more, and nobody will."""
        return False

    def _is_out(self) -> bool:
        return self._stdout.is_out(self._number)

    def _send(self, data: bytes) -> bool:
        self._number = self._stdout.send(self._formatter.text(data))
        if not self._number:
            self._wait()
        return True

    def _send_notice(self, text: str) -> None:
        self._formatter.begin(b"", notice=text.encode()[:256])
        self._send(b"")


class Journal(Target):
    """One connection for all apps."""

    def __init__(self, loop: "Loop", path: str = JOURNAL) -> None:
        super().__init__(loop)
        self._path = path
        self._socket: socket | None = None

    def fd(self) -> int:
        """OSError when there is no journald."""
        if self._socket is None:
            made = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
            try:
                made.connect(self._path)
            except OSError:
                made.close()
                raise
            self._socket = made
        return self._socket.fileno()

    def hang_up(self) -> None:
        if self._socket is not None and not self._waiters:
            self._socket.close()
            self._socket = None


class JournalLog(SinkLog):
    def __init__(self, logs: "Logs", spool: "Spool", fields: dict[str, str], target: Journal) -> None:
        super().__init__(logs, spool, "journald", Formatter(RAW, b"", JOURNAL_LINE), target)
        self._journal = target
        self._fields = "".join(f"{key}={value}\n" for key, value in fields.items()).encode()

    _block = 2 * JOURNAL_LINE

    def passes(self, error: OSError) -> bool:
        """That there is none, or none that we may speak to, lasts; one that has just ended is started again."""
        return error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM)

    def _fd(self) -> int:
        return self._journal.fd()

    def _is_out(self) -> bool:
        return True

    def _send(self, data: bytes) -> bool:
        try:
            return self._formatter.send(self._journal.fd(), self._fields, data)
        except OSError as error:
            # journald has gone, or has been started anew: a connection is to one of them.
            self._journal.hang_up()
            raise OSError(error.errno, error.strerror, "journald") from None

    def _send_notice(self, text: str) -> None:
        self._formatter.begin(b"")
        if not self._send(f"{text}\n".encode()):
            self._wait()

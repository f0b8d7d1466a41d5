"""The guard's end of the talk is csrc/guard.c, and what is said is in csrc/guard.h: this is the daemon's.

The guard is the daemon's parent. It keeps copies of fds under names, tells of the ends of what an earlier daemon had
started, and passes on the signals that it gets. Without one (fd -1, or once it has died) nothing is kept.
"""

import errno
import os
import select
import sys
import time
from _socket import SCM_RIGHTS, SO_PEERCRED, SOL_SOCKET, socket

from oxmgr.supervisor.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.loop import Loop

    Exit = tuple[int, int, int]
    """A pid, its status as of waitpid(2), and when it began: clock ticks after boot, 0 when that is not known."""

VERSION = 1
NAME_SIZE = 88
"""Bytes of a name, with a final NUL."""
HELLO, KEEP, FORGET, TAKEN, END, REPLACE, ANSWERS = 1, 2, 3, 4, 5, 6, 7
KEPT, LISTED, EXIT, SIGNAL, REFUSED, BEGINS = 16, 17, 18, 19, 20, 21
STOPPING = "stopping"
FD = 3
"""Ours, when it has started us."""
PATIENCE = 5.0
AGAIN = 0.05
"""Seconds until what the kernel had no memory for is tried again: no fd tells when it has."""
NOT_NOW = [getattr(errno, name) for name in ("EAGAIN", "ENOBUFS", "ENOMEM", "ETOOMANYREFS", "EMFILE", "ENOSPC", "EIO")]
DEAD = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_SIZE = 24 + NAME_SIZE
_FD_SIZE = 4


def pack(kind: int, value: int = 0, a: int = 0, name: str = "") -> bytes:
    """A message, as csrc/guard.h has it."""
    order = sys.byteorder
    head = kind.to_bytes(4, order) + value.to_bytes(4, order, signed=True) + a.to_bytes(8, order, signed=True)
    return head + bytes(8) + os.fsencode(name).ljust(NAME_SIZE, b"\0")


def unpack(data: bytes) -> tuple[int, int, int, int, str]:
    """(kind, value, a, b, name)."""
    order = sys.byteorder
    return (
        int.from_bytes(data[0:4], order),
        int.from_bytes(data[4:8], order, signed=True),
        int.from_bytes(data[8:16], order, signed=True),
        int.from_bytes(data[16:24], order),
        os.fsdecode(data[24:].split(b"\0", 1)[0]),
    )


class Guard:
    """`kept` are the fds that an earlier daemon had it keep, ours from `fetch` on; `exits` those that it told of then.
    `on_exits`, `on_signal` (a number, and whether a terminal's key has sent it) and `on_lost` are called from the
    loop. `copies` are those that it keeps, by our own numbers. `stopping`: a SIGTERM came to
    it before we were there, of which it tells again."""

    def __init__(self, fd: int) -> None:
        self.kept: dict[str, int] = {}
        self.copies: dict[str, int] = {}
        self.exits: list[Exit] = []
        self.pid = 0
        """0: there has never been one."""
        self.version = 0
        self.stopping = False
        self.on_exits: Callable[[list[Exit]], object] = lambda ends: None
        self.on_signal: Callable[[int, bool], object] = lambda number, typed: None
        self.on_lost: Callable[[], object] = lambda: None
        self._signals: list[tuple[int, bool]] = []
        self._listed = False
        self._lost = False
        self.say: Callable[[str], object] = lambda text: None
        self._loop: Loop | None = None
        self._unsent: list[tuple[bytes, int]] = []
        self._is_full = False
        """What could not be sent goes when it has read something; else there was no memory for it."""
        self._socket = None if fd < 0 else socket(fileno=fd)
        if self._socket is not None:
            # Of a socketpair, whoever has made it (unix(7)).
            self.pid = int.from_bytes(self._socket.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], sys.byteorder)

    @property
    def fd(self) -> int:
        """-1: there is none, or none any more."""
        return -1 if self._socket is None else self._socket.fileno()

    def fetch(self) -> None:
        """Ask for all that it has for us. It answers at once, or is as good as dead."""
        self._ask(0)

    def fetch_exits(self) -> None:
        """Ask again for the exits: all that it has reaped by now are in `exits` then."""
        self._ask(1)

    def _ask(self, what: int) -> None:
        self._listed = False
        self._send(pack(HELLO, what))
        end = time.monotonic() + PATIENCE
        while self._socket is not None and not self._listed:
            seconds = AGAIN if self._unsent else max(0.0, end - time.monotonic())
            if select.select([self.fd], [], [], seconds)[0]:
                end = time.monotonic() + PATIENCE
            elif time.monotonic() >= end:
                self._lose("it does not answer")
            self._send_unsent()
            self._receive()

    def join(self, loop: "Loop") -> None:
        """Hear of what it says from now on, of what it has said already, and that it has died already."""
        if self._socket is None:
            if self._lost:
                loop.at(0.0, self.on_lost)
            return
        self._loop = loop
        loop.at(0.0, self._tell_exits)
        loop.add(self.fd, READ | (WRITE if self._unsent else 0), lambda events: self._on_ready(events))
        signals, self._signals = self._signals, []
        for number, typed in signals:
            loop.at(0.0, lambda number=number, typed=typed: self.on_signal(number, typed))  # type: ignore[misc]

    # --- what is said to it ---

    def keep(self, name: str, fd: int) -> None:
        """Have it keep a copy, in the place of what it keeps under that name. As long as it does, the fd is open
        here."""
        self.copies[name] = fd
        if self._socket is not None:
            self._send(pack(KEEP, name=name), fd)

    def claim(self, name: str) -> int:
        """What it has kept for us, an fd that is the caller's from now on; -1 when there is none."""
        fd = self.kept.pop(name, -1)
        if fd >= 0:
            self.copies[name] = fd
        return fd

    def forget(self, name: str) -> None:
        """To be called before the fd is closed."""
        self.copies.pop(name, None)
        if self._socket is not None:
            self._send(pack(FORGET, name=name))

    def forget_unclaimed(self) -> None:
        """What nobody has claimed is of no use any more."""
        for name, fd in self.kept.items():
            os.close(fd)
            self.forget(name)
        self.kept.clear()

    def taken(self, count: int) -> None:
        """So many exits are on record, and need not be told again."""
        if count and self._socket is not None:
            self._send(pack(TAKEN, count))

    def answers(self) -> None:
        """We are up: should we die from now on, another is started."""
        if self._socket is not None:
            self._send(pack(ANSWERS))

    def end(self, code: int, grace: float = 0.0) -> None:
        """We end on purpose, and it ends with that code; as process 1 after `grace` seconds at most for the rest."""
        if self._socket is not None:
            self._send(pack(END, code, int(grace * 1000)))

    def replace(self, argv: list[str]) -> None:
        """Have it execute this in its place: a guard's program, and how that starts the daemon."""
        if self._socket is None:
            return
        words = memory_file("guard-words", os.fsencode("".join(f"{word}\0" for word in argv)))
        try:
            self._send(pack(REPLACE, len(argv)), words)
        finally:
            os.close(words)

    @property
    def is_told(self) -> bool:
        """Whether all that was said to it is on its way, and does not end with us."""
        return not self._unsent

    def flush(self) -> bool:
        """Wait until it is, or has not been for PATIENCE seconds; whether it is."""
        end = time.monotonic() + PATIENCE
        while self._unsent and self._socket is not None:
            if not select.select([], [self.fd], [], max(0.0, end - time.monotonic()))[1] or time.monotonic() > end:
                break
            self._send_unsent()
            if self._unsent and not self._is_full:
                time.sleep(AGAIN)
        return self.is_told

    def _send_unsent(self) -> None:
        while self._unsent and self._sends(*self._unsent[0]):
            fd = self._unsent.pop(0)[1]
            if fd >= 0:
                os.close(fd)

    def _send(self, data: bytes, fd: int = -1) -> None:
        if self._unsent or not self._sends(data, fd):
            # It reads at once, but may be stopped. The fd may be closed before it reads.
            self._unsent.append((data, os.dup(fd) if fd >= 0 else -1))
            if len(self._unsent) == 1:
                self._send_later()

    def _send_later(self) -> None:
        if self._loop is None or self._socket is None:
            return
        self._loop.change(self.fd, READ | WRITE if self._unsent and self._is_full else READ)
        if self._unsent and not self._is_full:
            self._loop.at(time.monotonic() + AGAIN, self._send_again)

    def _send_again(self) -> None:
        self._send_unsent()
        self._send_later()

    def _sends(self, data: bytes, fd: int) -> bool:
        """False: not now."""
        if self._socket is None:
            return True
        with_it = [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(_FD_SIZE, sys.byteorder))] if fd >= 0 else []
        try:
            self._socket.sendmsg([data], with_it)
        except OSError as error:
            if error.errno in DEAD:
                # Which is heard of by reading.
                return True
            if error.errno not in NOT_NOW:
                self.say(f"the guard cannot be told: {error.strerror}")
                return True
            self._is_full = error.errno == errno.EAGAIN
            if not self._is_full and not self._unsent:
                self.say(f"the guard cannot be told yet: {error.strerror}")
            return False
        return True

    # --- what it says ---

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._send_again()
        if events & ~WRITE:
            self._receive()
            self._tell_exits()
            signals, self._signals = self._signals, []
            for number, typed in signals:
                self.on_signal(number, typed)

    def _tell_exits(self) -> None:
        exits, self.exits = self.exits, []
        if exits:
            self.on_exits(exits)
            self.taken(len(exits))

    def _receive(self) -> None:
        """All that has come."""
        while self._socket is not None:
            try:
                data, with_it, _, _ = self._socket.recvmsg(_SIZE, 64, 0x40000000)  # MSG_CMSG_CLOEXEC of recvmsg(2)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE):
                    return  # not now: the loop hears of it again
                self._lose(error.strerror or "")
                return
            if not data:
                self._lose("it has died")
                return
            fds = [
                int.from_bytes(fds[at : at + _FD_SIZE], sys.byteorder)
                for _, _, fds in with_it
                for at in range(0, len(fds), _FD_SIZE)
            ]
            self._take(data, fds)

    def _take(self, data: bytes, fds: list[int]) -> None:
        kind, value, a, b, name = unpack(data)
        if kind == KEPT and fds:
            self.kept[name] = fds.pop()
        elif kind == BEGINS:
            # Those before were told to whom we were executed in the place of, and are told again.
            self.exits.clear()
        elif kind == LISTED:
            self._listed, self.version, self.pid, self.stopping = True, a, b, name == STOPPING
            if value > len(self.kept):
                self.say(f"the guard keeps {value} fds, but only {len(self.kept)} of them fit in here")
        elif kind == EXIT:
            self.exits.append((value, a, b))
        elif kind == SIGNAL:
            self._signals.append((value, a == 1))
        elif kind == REFUSED:
            what = "make way for another" if a == REPLACE else f"keep {name}"
            self.say(f"the guard does not {what}: {os.strerror(value)}")
        for fd in fds:
            os.close(fd)

    def _lose(self, why: str) -> None:
        if self._socket is None:
            return
        if self._loop is not None:
            self._loop.remove(self.fd)
        self._socket.close()
        self._socket = None
        self._lost = True
        for _, fd in self._unsent:
            if fd >= 0:
                os.close(fd)
        self._unsent.clear()
        self.say(f"the guard is lost: {why}")
        if self._loop is not None:
            self._loop.at(0.0, self.on_lost)


def memory_file(name: str, data: bytes) -> int:
    """An fd of a file in memory that holds the data, at its beginning."""
    fd = os.memfd_create(name)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def state(kept: dict[str, int], given: list[int], oom_score_adj: bytes) -> bytes:
    """For a guard that begins in the daemon's place and starts a daemon anew: struct ox_guard_head of csrc/guard.h, and
    what is kept. `given` is the limit on open files that the daemon is to have, as a triple for a start."""
    order = sys.byteorder
    head = b"oxguard1" + (0).to_bytes(4, order) + (-1).to_bytes(4, order, signed=True)
    head += given[1].to_bytes(8, order) + given[2].to_bytes(8, order)
    head += len(kept).to_bytes(4, order) + bytes(4) + bytes(8)
    head += oom_score_adj.strip()[:15].ljust(16, b"\0") + bytes(8)
    return head + b"".join(_kept_record(name, fd) for name, fd in kept.items())


def _kept_record(name: str, fd: int) -> bytes:
    value = 2166136261
    for byte in os.fsencode(name):
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    order = sys.byteorder
    return value.to_bytes(4, order) + fd.to_bytes(4, order) + os.fsencode(name).ljust(NAME_SIZE, b"\0")

"""Asks an app over TCP or HTTP/1.1 whether it answers, once, without waiting: the loop tells of what comes.

The answer counts only when this very instance gives it, and not the one that it replaces, another of the same app, or a
stranger: who has accepted the connection is known before there is anything to answer. What comes is bounded in size and
time, and nothing is followed.
"""

import errno
import os
import sys
import time
from _socket import (
    AF_INET,
    AF_INET6,
    MSG_PEEK,
    SO_ERROR,
    SO_LINGER,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_pton,
    socket,
)

from oxmgr.model.urls import LOCAL, LOCALS, address, endpoint
from oxmgr.supervisor.loop import READ, WRITE
from oxmgr.supervisor.native import HAS, HAS_NOT, HIDDEN, UNKNOWN
from oxmgr.supervisor.owners import ESTABLISHED, NO_FAULT, SHORT, SYN_RECV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.sockdiag import SockDiag

HEAD_LIMIT = 16 * 1024
"""Bytes of an answer that are looked at: the status line, and headers that nobody reads."""
STRANGER = "somebody else answers at that port"
OTHERS = "others take the connections at that port"
"""It listens there too, but this time it was not asked."""
CLOSED = "the connection is closed before it is known by whom"
FIRST_LOOK, LAST_LOOK = 0.001, 0.05
"""Seconds between two looks who has accepted: twice as many each time."""
_LINGER = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
"""struct linger: closing resets the connection, and nothing of it stays in TIME_WAIT (socket(7)). Only once the other
end has closed it: a server that reads on from a connection that was reset would fail."""
REST_LIMIT, REST_TIME = 64 * 1024, 0.02
"""Bytes and seconds for a server to close it, as it was asked to; who serves one at a time waits for us meanwhile."""
_ANY = {"0.0.0.0": LOCALS[0], "::": LOCALS[1]}
"""To any address of this host is to this one (ip(7), ipv6(7))."""
_SOURCES = 4
"""Ports that are tried, for one that is not the very port that is asked."""


class Asked:
    """An instance, for who asks it. `holds` calls back with whether a process of it has one of these sockets, one of
    HAS, HAS_NOT, HIDDEN and UNKNOWN; `born_with` gives the inodes of those that it was given."""

    __slots__ = ("born_with", "holds")

    def __init__(
        self, holds: "Callable[[list[int], Callable[[str], None]], None]", born_with: "Callable[[], set[int]]"
    ) -> None:
        self.holds = holds
        self.born_with = born_with


class Asking:
    """`done` is called once, and not before this is made: with "" when it has answered as it should, else with what was
    wrong. OTHERS, CLOSED and what begins with NO_FAULT say nothing of the instance."""

    def __init__(
        self, loop: "Loop", diag: "SockDiag", probe: str, timeout: float, asked: Asked, done: "Callable[[str], object]"
    ) -> None:
        self._loop = loop
        self._diag = diag
        self._asked = asked
        self._done = done
        self._timeout = timeout
        self._request = b""
        self._answer = b""
        self._rest = REST_LIMIT
        self._socket: socket | None = None
        self._registered = False
        self._over = False
        self._alone = False
        """Nobody but the instance can take the connection, for it has opened the socket that listens itself."""
        self._accepted = False
        self._look = FIRST_LOOK
        self._later: Timer = loop.at(0.0, lambda: self._step(self._begin))
        self._timer = loop.at(time.monotonic() + timeout, self._on_timeout)
        if probe.startswith("http://"):
            host, self._port, path, name = endpoint(probe)
            words = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: oxmgr\r\nAccept: */*\r\nConnection: close\r\n"
            self._request = f"{words}\r\n".encode()
        else:
            host, self._port = address(probe.removeprefix("tcp:"))
        self._is_http = bool(self._request)
        self._hosts = list(LOCALS) if host == LOCAL else [_ANY.get(host, host)]

    def close(self) -> None:
        """It is not asked any more."""
        self._done = lambda why: None
        self._end("")

    # --- who would answer ---

    def _begin(self) -> None:
        """At the first of the hosts that are left."""
        self._hang_up()
        self._alone = False
        self._remote = self._hosts.pop(0), self._port
        try:
            inet_pton(AF_INET6 if ":" in self._remote[0] else AF_INET, self._remote[0])
        except OSError:
            # Whoever connected to it would look it up, and wait.
            self._end(f"{self._remote[0]} is no address")
            return
        self._socket = self._bound()
        local = self._socket.getsockname()[:2]
        takers = self._diag.takers(self._remote, local) if local[1] else []
        if not takers:
            # Nobody, or they are in another network namespace.
            self._connect()
            return

        def on_beside(answer: str) -> None:
            self._end(STRANGER if answer == HAS_NOT else OTHERS)

        def on_taker(answer: str) -> None:
            if answer == HAS_NOT:
                self._find([inode for one in takers for inode in self._diag.beside(one)], on_beside)
                return
            self._alone = answer == HAS and len(takers) == 1 and takers[0].inode not in self._asked.born_with()
            self._connect()

        self._find([one.inode for one in takers], on_taker)

    def _find(self, inodes: list[int], then: "Callable[[str], None]") -> None:
        """Whether the instance has one of these, if that can be found out."""

        def found(answer: str) -> None:
            if answer == UNKNOWN:
                self._end(f"{NO_FAULT}no file descriptors are left to look at its own")
            elif not self._over:
                self._step(lambda: then(answer))

        self._asked.holds(inodes, found)

    def _step(self, work: "Callable[[], None]") -> None:
        """One that cannot be taken for want of something of ours is no result."""
        try:
            work()
        except OSError as error:
            self._end(f"{NO_FAULT}{error.strerror}")

    def _bound(self) -> socket:
        """A socket whose own end is known before it connects; of an address that is not this host's, without. OSError:
        there is not enough of something."""
        host = self._remote[0]
        for _ in range(_SOURCES):
            made = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
            try:
                # What earlier probes have in TIME_WAIT takes no port.
                made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                made.bind((host, 0))
            except OSError as error:
                if error.errno in (*SHORT, errno.EADDRINUSE):
                    made.close()
                    raise
                return made
            if made.getsockname()[1] != self._port:
                return made
            # It would connect to itself where nobody listens.
            made.close()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    # --- who has accepted ---

    def _connect(self) -> None:
        assert self._socket is not None
        error = self._socket.connect_ex(self._remote)
        if error in (0, errno.EINPROGRESS):
            self._hear(WRITE, self._on_connected)
        else:
            self._on_refused(error)

    def _on_refused(self, error: int) -> None:
        if error == errno.ECONNREFUSED and self._hosts:
            self._step(self._begin)
        elif error in (*SHORT, errno.EADDRNOTAVAIL):
            self._end(f"{NO_FAULT}{os.strerror(error)}")
        else:
            self._end(os.strerror(error))

    def _on_connected(self, _: int) -> None:
        assert self._socket is not None
        error = self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            self._on_refused(error)
            return
        local = self._socket.getsockname()[:2]
        if local == self._remote:
            self._on_refused(errno.ECONNREFUSED)
        elif self._alone and not self._is_http:
            self._end("")
        else:
            self._local = local
            self._hear(READ, lambda _: self._step(self._look_who))
            self._step(self._look_who)

    def _look_who(self) -> None:
        """Until somebody has accepted: not a byte goes to who is not to answer."""
        self._later.cancel()
        found = self._diag.connection(self._remote, self._local)
        if found is None and self._is_closed():
            self._end(CLOSED)
        elif found is None:
            # Its other end is in another network namespace: the answer is taken on trust.
            self._on_owner(HIDDEN)
        elif found.inode:
            # What comes meanwhile is read once it is known from whom.
            self._silence()
            self._find([found.inode], self._on_owner)
        elif found.state in (ESTABLISHED, SYN_RECV):
            # TCP_DEFER_ACCEPT of tcp(7): nobody accepts before something comes. All but the end of it does.
            if found.state == SYN_RECV and self._is_http and not self._send(keep=2):
                return
            self._later = self._loop.at(time.monotonic() + self._look, lambda: self._step(self._look_who))
            self._look = min(LAST_LOOK, self._look * 2)
        else:
            self._end("the connection is closed at once" if self._alone else CLOSED)

    def _is_closed(self) -> bool:
        assert self._socket is not None
        try:
            return not self._socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _on_owner(self, answer: str) -> None:
        if answer == HAS_NOT:
            self._end(OTHERS)
        elif not self._is_http:
            self._end("")
        else:
            self._accepted = True
            self._hear(WRITE, self._on_room)

    # --- what it answers ---

    def _on_room(self, _: int) -> None:
        if self._send() and not self._request:
            self._hear(READ, self._on_answer)

    def _send(self, keep: int = 0) -> bool:
        """What is left of the request, but for the last bytes; False when that has ended it."""
        assert self._socket is not None
        data = self._request[: max(0, len(self._request) - keep)]
        try:
            sent = self._socket.send(data) if data else 0
        except BlockingIOError:
            return True
        except OSError as failed:
            self._end((failed.strerror or "") if self._accepted else CLOSED)
            return False
        self._request = self._request[sent:]
        return True

    def _on_answer(self, _: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(HEAD_LIMIT - len(self._answer))
        except BlockingIOError:
            return
        except OSError as failed:
            self._end(failed.strerror or "")
            return
        self._answer += data
        line, end, _rest = self._answer.partition(b"\n")
        if end:
            self._over = True
            self._timer.cancel()
            self._timer = self._loop.at(time.monotonic() + REST_TIME, self._hang_up)
            self._hear(READ, self._on_rest)
            self._done(_judge(line.split()))
        elif not data:
            self._end("the connection was closed before an answer came" if not self._answer else "that is not HTTP")
        elif len(self._answer) >= HEAD_LIMIT:
            self._end("that is not HTTP")

    def _on_rest(self, _: int) -> None:
        """The server is given the time to close it first."""
        assert self._socket is not None
        try:
            data = self._socket.recv(HEAD_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._rest -= len(data)
        if not data:
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, _LINGER)
        if not data or self._rest < 0:
            self._timer.cancel()
            self._hang_up()

    def _on_timeout(self) -> None:
        what = "no answer" if self._accepted else "nobody accepts the connection"
        self._end(f"{what} within {self._timeout:g} s")

    # --- its socket ---

    def _hear(self, events: int, callback: "Callable[[int], object]") -> None:
        self._silence()
        if self._socket is not None:
            self._loop.add(self._socket.fileno(), events, callback)
            self._registered = True

    def _silence(self) -> None:
        if self._registered and self._socket is not None:
            self._loop.remove(self._socket.fileno())
        self._registered = False

    def _hang_up(self) -> None:
        self._silence()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        self._later.cancel()
        self._hang_up()
        self._done(why)


def _judge(words: list[bytes]) -> str:
    """What is wrong with a status line: only 2xx and 3xx are well."""
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not (len(words[1]) == 3 and words[1].isdigit()):
        return "that is not HTTP"
    return "" if 200 <= int(words[1]) < 400 else f"status {int(words[1])}"

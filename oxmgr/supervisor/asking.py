"""Asks an app over TCP or HTTP/1.1 whether it answers, once, without waiting: the loop tells of what comes.

The answer counts only when this very instance gives it, and not the one that it replaces, another of the same app, or a
stranger. What comes is bounded in size and time, and nothing is followed.
"""

import errno
import os
import time
from _socket import AF_INET, AF_INET6, SO_ERROR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket

from oxmgr.model.urls import address, endpoint
from oxmgr.supervisor import owners
from oxmgr.supervisor.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.loop import Loop

HEAD_LIMIT = 16 * 1024
"""Bytes of an answer that are looked at: the status line, and headers that nobody reads."""
OTHERS = "somebody else answers at that port"


class Asking:
    """`pids` gives the processes of the instance, the main one first. `done` is called once, with "" when it has
    answered as it should, else with what was wrong."""

    def __init__(
        self,
        loop: "Loop",
        probe: str,
        timeout: float,
        pids: "Callable[[], list[int]]",
        done: "Callable[[str], object]",
    ) -> None:
        self._loop = loop
        self._pids = pids
        self._done = done
        self._answer = b""
        self._registered = False
        if probe.startswith("http://"):
            host, port, path, name = endpoint(probe)
            words = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: oxmgr\r\nAccept: */*\r\n\r\n"
            self._request = words.encode()
        else:
            host, port = address(probe.removeprefix("tcp:"))
            self._request = b""
        self._port = port
        family = AF_INET6 if ":" in host else AF_INET
        self._socket = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        self._timer = loop.at(time.monotonic() + timeout, lambda: self._end(f"no answer within {timeout:g} s"))
        error = self._socket.connect_ex((host, port))
        if error in (0, errno.EINPROGRESS):
            self._registered = True
            loop.add(self._socket.fileno(), WRITE, self._on_connected)
        else:
            loop.at(0.0, lambda: self._end(os.strerror(error)))

    def close(self) -> None:
        """It is not asked any more."""
        self._done = lambda why: None
        self._end("")

    def _on_connected(self, _: int) -> None:
        error = self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            self._end(os.strerror(error))
        elif not self._request:
            self._end("" if self._is_its_port() else OTHERS)
        else:
            try:
                sent = self._socket.send(self._request)
            except OSError as failed:
                self._end(failed.strerror or "")
                return
            self._request = self._request[sent:]
            if not self._request:
                self._loop.remove(self._socket.fileno())
                self._loop.add(self._socket.fileno(), READ, self._on_answer)

    def _on_answer(self, _: int) -> None:
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
            self._judge(line.split())
        elif not data:
            self._end("the connection was closed before an answer came" if not self._answer else "that is not HTTP")
        elif len(self._answer) >= HEAD_LIMIT:
            self._end("that is not HTTP")

    def _judge(self, words: list[bytes]) -> None:
        """By the status line alone: 2xx and 3xx are well."""
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not (len(words[1]) == 3 and words[1].isdigit()):
            self._end("that is not HTTP")
        elif not 200 <= int(words[1]) < 400:
            self._end(f"status {int(words[1])}")
        else:
            self._end("" if self._is_its_answer() else OTHERS)

    def _is_its_port(self) -> bool:
        """Whether a process of the instance has the socket that listens there."""
        pids = self._pids()
        there = owners.port_listeners(self._port)
        # Those of another network namespace, or where /proc hides them, cannot be looked at.
        return not there or owners.has_any(pids, there)

    def _is_its_answer(self) -> bool:
        """Whether one of its processes has accepted this connection. When it is over already, by who listens."""
        try:
            local, remote = self._socket.getsockname()[:2], self._socket.getpeername()[:2]
        except OSError:
            return self._is_its_port()
        inode = owners.answerer(local, remote)
        return owners.has_any(self._pids(), {inode}) if inode else self._is_its_port()

    def _end(self, why: str) -> None:
        if self._timer.callback is None and not self._registered and self._socket.fileno() < 0:
            return
        self._timer.cancel()
        if self._socket.fileno() >= 0:
            if self._registered:
                self._registered = False
                self._loop.remove(self._socket.fileno())
            self._socket.close()
            done, self._done = self._done, lambda why: None
            done(why)

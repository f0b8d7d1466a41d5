"""The control socket: who may speak, what a frame is, and how much one client may cost.

Answers the owner, root, and a group if the administrator names one (SO_PEERCRED, unix(7)). A client that breaks the
protocol, does not introduce itself in time, or does not read what it is sent is dropped; nobody else notices.
"""

import errno
import os
import sys
import time
from _socket import (
    AF_UNIX,
    SO_PEERCRED,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

from oxmgr import __version__
from oxmgr.model.codec import DecodeError, Decoder, encode
from oxmgr.model.frames import FRAME_LIMIT, PROTOCOL, frame
from oxmgr.model.messages import Failed, Hello, Progress, Reply, Request
from oxmgr.supervisor.loop import HANGUP, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.commands import Commands
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.logfile import Log
    from oxmgr.supervisor.loop import Loop

CLIENTS_LIMIT = 128
HELLO_PATIENCE = 10.0
READ_SIZE = 65536
BACKLOG = 64
# linux/socket.h; the `socket` module does not have it.
SO_PEERGROUPS = 59
GROUPS_SIZE = 1024  # bytes: 256 groups, the most that getsockopt of Python can take

_hello = Decoder(Hello)
_request = Decoder(Request)


class Client:
    """One connection. It has one request at a time; what it sends before the answer waits in its buffer."""

    def __init__(self, server: "Server", sock: socket) -> None:
        self._server = server
        self._sock = sock
        self._in = bytearray()
        self._out = bytearray()
        self._known = False
        self._busy = False
        self._following: list[Callable[[bytes], None]] | None = None
        self._closed = False
        self._events = READ | HANGUP
        server.loop.add(sock.fileno(), self._events, self._on_ready)
        self._introduction = server.loop.at(
            time.monotonic() + HELLO_PATIENCE, lambda: self._drop("it did not introduce itself")
        )

    # --- what commands use ---

    def send(self, reply: Reply) -> None:
        """One of several replies to a request."""
        try:
            data = frame(encode(reply))
        except ValueError as error:
            data = frame(encode(Failed(f"{error}: ask for fewer apps at a time")))
        self.send_frame(data)

    def send_frame(self, data: bytes) -> None:
        if self._closed:
            return
        self._out += data
        self._flush()
        if len(self._out) > FRAME_LIMIT:
            self._drop("it does not read what it asked for")

    def finish(self, reply: Reply) -> None:
        """The last reply to a request."""
        self._busy = False
        self.send(reply)
        self._handle_input()

    def progress(self, instance: "Instance") -> None:
        state = instance.state
        self.send(Progress(instance.name, state.status, state.reason))

    def follow(self, followers: "list[Callable[[bytes], None]]") -> None:
        """Send each event from now on, until the client hangs up."""
        if not self._closed:
            self._following = followers
            followers.append(self.send_frame)

    # --- the connection ---

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & READ:
            self._receive()
        elif events & HANGUP:
            self.close()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._in += data
        if len(self._in) > FRAME_LIMIT + READ_SIZE:
            self._drop("it sends more than it may")
            return
        self._handle_input()

    def _handle_input(self) -> None:
        while not self._closed and not self._busy and len(self._in) >= 4:
            size = int.from_bytes(self._in[:4], "big")
            if size > FRAME_LIMIT:
                self._drop(f"a frame of {size} bytes, {FRAME_LIMIT} are the most")
                return
            if len(self._in) < 4 + size:
                return
            payload = bytes(self._in[4 : 4 + size])
            del self._in[: 4 + size]
            try:
                self._handle(payload)
            except DecodeError as error:
                self.finish(Failed(f"the daemon does not understand this request: {error}"))
                self._drop(f"not a message: {error}")

    def _handle(self, payload: bytes) -> None:
        if not self._known:
            hello = _hello.decode(payload)
            if hello.protocol != PROTOCOL:
                self.send(Failed(f"this daemon is oxmgr {__version__} and you are {hello.version}: restart the daemon"))
                self._drop(f"it speaks protocol {hello.protocol}")
                return
            self._known = True
            self._introduction.cancel()
            self.send(Hello(PROTOCOL, __version__, os.getpid()))
            return
        request = _request.decode(payload)
        self._busy = True
        try:
            self._server.commands.handle(request, self)
        except Exception as fault:
            # The loop tells the log of it; whoever asked must not wait for an answer for ever.
            self.finish(Failed(f"a fault in the daemon, {type(fault).__name__}: its log has it, please report it"))
            raise

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return
        wanted = READ | HANGUP | (WRITE if self._out else 0)
        if wanted != self._events:
            self._events = wanted
            self._server.loop.change(self._sock.fileno(), wanted)

    def _drop(self, why: str) -> None:
        if not self._closed:
            self._server.log(f"client dropped: {why}")
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._introduction.cancel()
        if self._following is not None:
            self._following.remove(self.send_frame)
        self._server.clients.discard(self)
        self._server.loop.remove(self._sock.fileno())
        self._sock.close()


class Server:
    """Listens at `path`. `group` may speak as well when it is not -1."""

    def __init__(self, path: str, group: int, loop: "Loop", log: "Log") -> None:
        self.loop = loop
        self.log = log
        self.clients: set[Client] = set()
        self.commands: Commands
        self._group = group
        # Given up for a moment when there are no fds left, so that a client can be taken and turned away.
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._sock = _listen(path, group)
        loop.add(self._sock.fileno(), READ, self._on_connection)

    def _on_connection(self, _: int) -> None:
        try:
            fd, _address = self._sock._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return
        sock = socket(fileno=fd)
        sock.setblocking(False)
        if len(self.clients) >= CLIENTS_LIMIT or not self._may_speak(sock):
            sock.close()
            return
        self.clients.add(Client(self, sock))

    def _turn_away(self) -> None:
        os.close(self._spare)
        try:
            fd, _ = self._sock._accept()  # type: ignore[attr-defined]
            os.close(fd)
        except OSError:
            pass
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.log("a client was turned away: there are no file descriptors left")

    def _may_speak(self, sock: socket) -> bool:
        credentials = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        if uid in (0, os.getuid()):
            return True
        if self._group >= 0:
            try:
                groups = sock.getsockopt(SOL_SOCKET, SO_PEERGROUPS, GROUPS_SIZE)
            except OSError:
                groups = b""
            groups += credentials[8:12]
            if self._group in {int.from_bytes(groups[at : at + 4], sys.byteorder) for at in range(0, len(groups), 4)}:
                return True
        self.log(f"user {uid} was turned away")
        return False

    def stop_listening(self) -> None:
        self.loop.remove(self._sock.fileno())
        self._sock.close()

    def hang_up(self) -> None:
        """On every client: to one that waits for the daemon's end, this is it."""
        for client in list(self.clients):
            client.close()


def _listen(path: str, group: int) -> socket:
    """The caller holds the home's lock, so a socket that is there already is a dead daemon's."""
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # sun_path has 108 bytes (unix(7)); a home may have a longer name.
        sock.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}" if len(os.fsencode(path)) > 107 else path)
    finally:
        os.close(folder)
    if group >= 0:
        os.chown(path, -1, group)
        os.chmod(path, 0o660)
    sock.listen(BACKLOG)
    return sock

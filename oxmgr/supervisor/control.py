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
from resource import RLIMIT_NOFILE, getrlimit

from oxmgr import __version__
from oxmgr.model.codec import UNREADABLE, Decoder, encode
from oxmgr.model.frames import FRAME_LIMIT, PROTOCOL, TooLarge, frame
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
"""And at most a third of the fds that this daemon may have: the others are for the apps."""
HELLO_PATIENCE = 10.0
HELLO_LIMIT = 64 * 1024
"""Bytes of a frame, as long as nobody knows who sends it."""
BUFFERS_LIMIT = 64 * 1024 * 1024
"""Bytes that all clients together may have in their buffers."""
READ_SIZE = 65536
FULL = 32 * 1024
"""Bytes that wait for a client to take them: what can wait elsewhere is not sent then."""
TURN = 0.005
"""Seconds for one client's requests, before it is the others' turn."""
PAUSE = 0.1
BACKLOG = 64
# linux/socket.h; the `socket` module does not have it.
SO_PEERGROUPS = 59
GROUPS_SIZE = 1024  # bytes: 256 groups, the most that getsockopt of Python can take

_hello = Decoder(Hello)
_request = Decoder(Request)


class Client:
    """One connection. It has one request at a time; what it sends before the answer waits in its buffer.

    `on_close` are called once, should it hang up or be dropped before the last reply to its request: what waits for it
    can be taken back. `on_room` is called whenever it has taken all that it was sent.
    """

    def __init__(self, server: "Server", sock: socket) -> None:
        self._server = server
        self._sock = sock
        self._in = bytearray()
        self._out = bytearray()
        self._known = False
        self._busy = False
        self._handling = False
        self._closed = False
        self.on_close: list[Callable[[], None]] = []
        self.on_room: Callable[[], None] | None = None
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
        except TooLarge as error:
            data = frame(encode(Failed(f"{error}: ask for fewer apps at a time")))
        except UnicodeEncodeError as error:
            shown = error.object[:256].encode(errors="backslashreplace").decode()
            data = frame(encode(Failed(f"the answer holds what is not UTF-8 text, {shown}: rename it")))
        self.send_frame(data)

    def send_frame(self, data: bytes) -> None:
        if self._closed:
            return
        self._out += data
        self._flush()
        if len(self._out) > FRAME_LIMIT:
            self._drop("it does not read what it asked for")
        elif len(self._out) > READ_SIZE:
            self._server.bound_buffers()

    def finish(self, reply: Reply) -> None:
        """The last reply to a request."""
        self._busy = False
        self.on_close.clear()
        self.send(reply)
        # What is finished within `_handle` is followed by the next one there, and not ever deeper.
        if not self._handling:
            self._handle_input()

    def progress(self, instance: "Instance") -> None:
        state = instance.state
        self.send(Progress(instance.name, state.status, state.reason))

    @property
    def full(self) -> bool:
        return len(self._out) > FULL

    # --- the connection ---

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
            if not self._out and self.on_room is not None:
                self.on_room()
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
        if len(self._in) > (FRAME_LIMIT if self._known else HELLO_LIMIT) + READ_SIZE:
            self._drop("it sends more than it may")
            return
        self._handle_input()
        if len(self._in) > READ_SIZE:
            self._server.bound_buffers()

    @property
    def buffered(self) -> int:
        """Bytes that it costs."""
        return len(self._in) + len(self._out)

    def _handle_input(self) -> None:
        end = time.monotonic() + TURN
        while not self._closed and not self._busy and len(self._in) >= 4:
            size, limit = int.from_bytes(self._in[:4], "big"), FRAME_LIMIT if self._known else HELLO_LIMIT
            if size > limit:
                self._drop(f"a frame of {size} bytes, {limit} are the most")
                return
            if len(self._in) < 4 + size:
                return
            if time.monotonic() > end:
                self._server.loop.at(time.monotonic(), self._handle_input)
                return
            payload = bytes(self._in[4 : 4 + size])
            del self._in[: 4 + size]
            self._handling = True
            try:
                self._handle(payload)
            except Exception:
                # The loop tells the log of it. What this client has sent besides is not to wait for its next word.
                self._server.loop.at(time.monotonic(), self._handle_input)
                raise
            finally:
                self._handling = False

    def _handle(self, payload: bytes) -> None:
        if not self._known:
            self._greet(payload)
            return
        try:
            request = _request.decode(payload)
        except UNREADABLE as error:
            self.send(Failed(f"the daemon does not understand this request: {error}"))
            self._drop(f"not a message: {error}")
            return
        self._busy = True
        try:
            self._server.commands.handle(request, self)
        except Exception as fault:
            # Whoever asked must not wait for an answer for ever.
            self.finish(Failed(f"a fault in the daemon, {type(fault).__name__}: its log has it, please report it"))
            raise

    def _greet(self, payload: bytes) -> None:
        try:
            hello = _hello.decode(payload)
        except UNREADABLE as error:
            self.send(Failed(f"the daemon does not understand this request: {error}"))
            self._drop(f"not a message: {error}")
            return
        if hello.protocol != PROTOCOL:
            self.send(
                Failed(
                    f"this daemon is oxmgr {__version__} and you are {hello.version}, which do not understand "
                    f"each other: kill -9 {os.getpid()}, and its guard starts what is installed; apps run on"
                )
            )
            self._drop(f"it speaks protocol {hello.protocol}")
            return
        self._known = True
        self._introduction.cancel()
        self.send(Hello(PROTOCOL, __version__, os.getpid()))

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
        self._server.clients.discard(self)
        self._server.loop.remove(self._sock.fileno())
        self._sock.close()
        self._in.clear()
        self._out.clear()
        callbacks, self.on_close = self.on_close, []
        for callback in callbacks:
            self._server.loop.call(callback)


class Server:
    """Listens at `path`, on the socket of an earlier daemon (`fd`) where that is still there: then whoever has come
    meanwhile has waited. `group` may speak as well when it is not -1."""

    def __init__(self, path: str, group: int, loop: "Loop", log: "Log", fd: int = -1) -> None:
        self.loop = loop
        self.log = log
        self.clients: set[Client] = set()
        self.commands: Commands
        self._group = group
        # Given up for a moment when there are no fds left, so that a client can be taken and turned away.
        self._spare = _open_spare()
        self._most = min(CLIENTS_LIMIT, max(1, getrlimit(RLIMIT_NOFILE)[0] // 3))
        self._full = False
        self._listening = True
        if fd >= 0 and not os.path.exists(path):
            os.close(fd)
            fd = -1
        self._sock = socket(fileno=fd) if fd >= 0 else _listen(path, group)
        loop.add(self._sock.fileno(), READ, self._on_connection)

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    def _on_connection(self, _: int) -> None:
        try:
            fd, _address = self._sock._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return
        sock = socket(fileno=fd)
        sock.setblocking(False)
        if len(self.clients) >= self._most:
            sock.close()
            if not self._full:
                self._full = True
                self.log(f"clients are turned away: there are {self._most}, which is all that there may be")
            return
        self._full = False
        if not self._may_speak(sock):
            sock.close()
            return
        self.clients.add(Client(self, sock))

    def _turn_away(self) -> None:
        # Until there is another, the number is not ours: it may be given to anything.
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)
        try:
            fd, _ = self._sock._accept()  # type: ignore[attr-defined]
            os.close(fd)
            self.log("a client was turned away: there are no file descriptors left")
        except OSError:
            # It stays at the door, and epoll would tell of it without end.
            self.loop.change(self._sock.fileno(), 0)
            self.loop.at(time.monotonic() + PAUSE, self._listen_again)
        self._spare = _open_spare()

    def _listen_again(self) -> None:
        if self._listening:
            self.loop.change(self._sock.fileno(), READ)

    def bound_buffers(self) -> None:
        """Together they are too large: whoever has the most loses it."""
        while sum(client.buffered for client in self.clients) > BUFFERS_LIMIT:
            largest = max(self.clients, key=lambda client: client.buffered)
            largest._drop(
                f"all clients together have more than {BUFFERS_LIMIT} bytes in their buffers, it has the most"
            )

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
        self._listening = False
        self.loop.remove(self._sock.fileno())
        self._sock.close()

    def hang_up(self) -> None:
        """On every client: to one that waits for the daemon's end, this is it."""
        for client in list(self.clients):
            client.close()


def _open_spare() -> int:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


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

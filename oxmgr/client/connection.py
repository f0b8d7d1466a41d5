"""A connection to the daemon of a home."""

import errno
import os
import select
import sys
from _socket import AF_UNIX, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

from oxmgr import __version__
from oxmgr.model.codec import DecodeError, Decoder, encode
from oxmgr.model.frames import FRAME_LIMIT, PROTOCOL, frame
from oxmgr.model.messages import (
    Event,
    EventsEnd,
    EventsLost,
    Failed,
    GetDaemon,
    GetEnv,
    GetEvents,
    GetInstances,
    Hello,
    Progress,
    Reply,
    Request,
)
from oxmgr.model.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_reply = Decoder(Reply)

QUIET = 0.3
PATIENCE = 4.0
"""Seconds without a byte, after which a daemon that only has to look something up is taken to hang: together with a
command's own start, less than 5."""
LOOKS_UP = (GetDaemon, GetEnv, GetEvents, GetInstances)


class NoDaemon(Exception):
    """Nobody answers at this home's socket; the text says so and what to do."""


class NotRunning(NoDaemon):
    """There is no daemon, so one may be started; with a plain NoDaemon there is one, and something is wrong."""


class Silent(NoDaemon):
    """It is there, and says nothing."""


class Refused(Exception):
    """The daemon answered Failed. `code` is the exit code that belongs to it."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.code = failed.code


class Connection:
    """One request at a time. `daemon` is how it introduced itself."""

    def __init__(self, sock: socket, timeout: float, places: Places) -> None:
        self._sock = sock
        self._places = places
        self._buffer = bytearray()
        sock.settimeout(timeout)
        self._send(Hello(PROTOCOL, __version__, os.getpid()))
        hello = self._receive(self._give_up)
        if isinstance(hello, Failed):
            raise Refused(hello)
        if not isinstance(hello, Hello):
            raise NoDaemon("what answers at the socket is not an oxmgr daemon")
        self.daemon = hello
        sock.settimeout(PATIENCE)

    def request(
        self,
        request: Request,
        progress: "Callable[[Progress], None] | None" = None,
        quiet: "Callable[[], None] | None" = None,
        hangs: "Callable[[str], None] | None" = None,
    ) -> Reply:
        """The final reply. Raises Refused, or NoDaemon when the daemon ends before it has answered. `quiet` is called
        when it has said nothing for QUIET seconds.

        What is only looked up is answered within PATIENCE, or the daemon hangs: Silent. Anything else is answered when
        it has happened, however long that takes; `hangs` is called once, with why, should the daemon not answer
        anybody meanwhile."""
        self._send(request)
        wait = self._give_up if isinstance(request, LOOKS_UP) else _Watch(self._places, hangs)
        if quiet is not None and not select.select([self._sock], [], [], QUIET)[0]:
            quiet()
        while True:
            reply = self._receive(wait)
            if isinstance(reply, Failed):
                raise Refused(reply)
            if not isinstance(reply, Progress):
                return reply
            if progress is not None:
                progress(reply)

    def stream(
        self, request: GetEvents, idle: "Callable[[], None]" = lambda: None
    ) -> "Iterator[Event | EventsLost | EventsEnd]":
        """The past events, EventsEnd, and with `follow` the events to come, until the daemon ends. `idle` is
        called when none of these is here yet."""
        self._send(request)
        wait: Callable[[], object] = self._give_up
        while True:
            if wait is _go_on and not self._buffer:
                idle()
            reply = self._receive(wait)
            if isinstance(reply, Failed):
                raise Refused(reply)
            if isinstance(reply, EventsEnd):
                wait = _go_on
            if isinstance(reply, Event | EventsLost | EventsEnd):
                yield reply
                if isinstance(reply, EventsEnd) and not request.follow:
                    return

    def follow_events(self) -> None:
        """Ask for the events to come; arrived() has them."""
        self._send(GetEvents(limit=0, follow=True))

    def arrived(self) -> "list[Reply]":
        """The replies that are there, without waiting for more than the rest of one."""
        found = [self._receive()]
        while len(self._buffer) >= 4 and len(self._buffer) - 4 >= int.from_bytes(self._buffer[:4], "big"):
            found.append(self._receive())
        return found

    def wait_for_end(self, timeout: float | None = None) -> None:
        """Until the daemon has hung up, which it does as the last thing before its end, or has said nothing for that
        many seconds."""
        self._sock.settimeout(timeout)
        try:
            while True:
                self._receive()
        except NoDaemon:
            pass

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def _send(self, message: Hello | Request) -> None:
        try:
            self._sock.sendall(frame(encode(message)))
        except TimeoutError:
            self._give_up()
        except OSError as error:
            raise NoDaemon(f"the daemon has hung up: {error.strerror}") from None

    def _give_up(self) -> None:
        raise Silent(_why_silent(self._places))

    def _receive(self, wait: "Callable[[], object] | None" = None) -> Reply:
        """`wait` is called each time that nothing has come for PATIENCE seconds."""
        wait = wait or _go_on
        size = int.from_bytes(self._read(4, wait), "big")
        if size > FRAME_LIMIT:
            raise NoDaemon(f"the daemon sent a frame of {size} bytes: it is not an oxmgr daemon")
        try:
            reply: Reply = _reply.decode(self._read(size, wait))
            return reply
        except DecodeError as error:
            raise NoDaemon(f"the daemon's answer cannot be read, is it another version? {error}") from None

    def _read(self, size: int, wait: "Callable[[], object]") -> bytes:
        while len(self._buffer) < size:
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                wait()
                continue
            except OSError as error:
                raise NoDaemon(f"the daemon has hung up: {error.strerror}") from None
            if not data:
                raise NoDaemon("the daemon ended before it had answered: its log says why")
            self._buffer += data
        wanted = bytes(self._buffer[:size])
        del self._buffer[:size]
        return wanted


def _go_on() -> None: ...


class _Watch:
    """Looks whether a daemon that says nothing answers others, until it does not; `tell` is called with why then."""

    def __init__(self, places: Places, tell: "Callable[[str], None] | None") -> None:
        self._places = places
        self._tell = tell

    def __call__(self) -> None:
        if self._tell is None:
            return
        try:
            connect(self._places).close()
        except Silent as error:
            self._tell(str(error))
            self._tell = None
        except (NoDaemon, Refused):
            # It ends, or has no room for another: our own connection will tell.
            return


def connect(places: Places, timeout: float = PATIENCE) -> Connection:
    """NoDaemon when nobody answers within that many seconds, Refused when it does not want to speak with us."""
    path = places.socket
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    # With a timeout of Python's own, a full backlog would be an error at once; so the kernel's (socket(7)).
    seconds, fraction = divmod(timeout, 1)
    limit = b"".join(int(part).to_bytes(8, sys.byteorder) for part in (seconds, fraction * 1e6))
    sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, limit)
    folder = -1
    try:
        if len(os.fsencode(path)) > 107:
            # sun_path has 108 bytes (unix(7)).
            folder = os.open(places.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            path = f"/proc/self/fd/{folder}/{os.path.basename(path)}"
        sock.connect(path)
        return Connection(sock, timeout, places)
    except OSError as error:
        sock.close()
        if error.errno == errno.EAGAIN:
            raise Silent(_why_silent(places)) from None
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise NotRunning("no daemon runs") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NoDaemon(f"the daemon of {places.run} is not yours: become its owner or root") from None
        raise NoDaemon(f"the daemon's socket {places.socket} cannot be reached: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)


def _why_silent(places: Places) -> str:
    """Of a socket at which nobody answers: by the pid that is in the lock of the run folder."""
    try:
        with open(f"{places.run}/lock") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return (
            f"the daemon does not come up: {places.daemon_log} says why, or `oxmgr daemon run` does, once the guard "
            "that goes on trying is killed"
        )
    if state == "T":
        return f"the daemon, pid {pid}, does not answer: a signal has stopped it; kill -CONT {pid} lets it go on"
    if state == "t":
        return f"the daemon, pid {pid}, does not answer: a debugger holds it (TracerPid in /proc/{pid}/status)"
    return f"the daemon, pid {pid}, does not answer: kill -9 {pid}, and its guard starts another; apps run on"

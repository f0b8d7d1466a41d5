"""Waits for lines that apps print, for `ready = "log:REGEX"`: a helper reads their log files and looks for them, since
what an app prints passes through here without being looked at. One helper for all, while anybody waits."""

import os
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_SEQPACKET, socket, socketpair

from oxmgr.model.codec import encode
from oxmgr.model.logpaths import log_paths
from oxmgr.model.messages import Match
from oxmgr.supervisor.helper import end_helper, start_helper
from oxmgr.supervisor.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop, Timer

HELPER = "match"
AGAIN = 0.5
"""Seconds until another helper is started for one that has ended, or could not be started."""
ROOM = 4096


class Matching:
    """`done` is called with "" when the line has come, else with why it cannot be waited for."""

    __slots__ = ("_matcher", "done", "order")

    def __init__(self, matcher: "Matcher", order: Match, done: "Callable[[str], object]") -> None:
        self._matcher = matcher
        self.order = order
        self.done = done

    def close(self) -> None:
        """It is not waited for any more."""
        self._matcher.forget(self)


class Matcher:
    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._serial = 0
        self._waiting: dict[int, Matching] = {}
        self._socket: socket | None = None
        self._pidfd = -1
        self._orders: list[Match] = []
        """Those that were not sent yet."""
        self._timer: Timer | None = None

    def wait(
        self, instance: "Instance", pattern: str, files: dict[str, int], done: "Callable[[str], object]"
    ) -> Matching:
        """In these files behind these offsets; behind -1, from the start of the instance on."""
        self._serial += 1
        order = Match(self._serial, pattern, files, int(instance.started_at * 1e9))
        matching = self._waiting[self._serial] = Matching(self, order, done)
        self._orders.append(order)
        if self._timer is None:
            # Not at once: whoever asks has a step of the instance under way.
            self._timer = self._loop.at(0.0, self._go_on)
        return matching

    def forget(self, matching: Matching) -> None:
        if self._waiting.pop(matching.order.number, None) is None:
            return
        if not self._waiting:
            self._let_go()
        else:
            self._orders = [one for one in self._orders if one is not matching.order]
            self._orders.append(Match(matching.order.number))
            self._send()

    def _go_on(self) -> None:
        self._timer = None
        if self._socket is None and self._waiting:
            try:
                self._start()
            except OSError:
                # It is ours what there is not enough of: nobody has failed.
                self._timer = self._loop.at(time.monotonic() + AGAIN, self._go_on)
                return
            self._orders = [one.order for one in self._waiting.values()]
        self._send()

    def _start(self) -> None:
        """OSError, and nothing is left."""
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK)
        try:
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            try:
                fds = [theirs.fileno(), theirs.fileno(), null]
                _, self._pidfd = start_helper(HELPER, [str(os.getpid())], fds)
            finally:
                os.close(null)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self._loop.add(ours.fileno(), READ, self._on_event)

    def _send(self) -> None:
        if self._socket is None:
            return
        while self._orders:
            try:
                self._socket.send(encode(self._orders[0]))
            except BlockingIOError:
                break
            except OSError:
                break  # it has ended: that is read
            del self._orders[0]
        self._loop.change(self._socket.fileno(), READ | WRITE if self._orders else READ)

    def _on_event(self, events: int) -> None:
        assert self._socket is not None
        if events & WRITE:
            self._send()
        try:
            data = self._socket.recv(ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._let_go()
            if self._waiting:
                self._timer = self._loop.at(time.monotonic() + AGAIN, self._go_on)
            return
        number, _, why = data.decode(errors="replace").partition(" ")
        matching = self._waiting.pop(int(number), None)
        if not self._waiting:
            self._let_go()
        if matching is not None:
            matching.done(why)

    def _let_go(self) -> None:
        self._orders.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            # The end of its input, at which it ends; with a pidfd it need not even be waited for.
            self._socket.close()
            self._socket = None
            end_helper(self._pidfd)
            self._pidfd = -1


def marks(instance: "Instance", logs: str) -> dict[str, int]:
    """The log files of an instance, and where in each what it prints from now on begins."""
    found: dict[str, int] = {}
    for path in dict.fromkeys(log_paths(instance.app.spec, instance.index, logs)):
        try:
            found[path] = os.stat(path).st_size
        except OSError:
            found[path] = 0
    return found

"""The one epoll loop: fds and times. Owns the epoll set and the timerfd; callbacks must not wait."""

import select
import time
from heapq import heappop, heappush

from oxmgr.supervisor import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Timer:
    """Something to be called once. `callback` is None when it has been, or is not to be any more."""

    __slots__ = ("callback",)

    def __init__(self, callback: "Callable[[], object]") -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """The loop is not even woken for it."""
        self.callback = None


class Loop:
    """Runs until `stop()`; `failed` is called with what a callback raises. Times are seconds of `time.monotonic()`."""

    def __init__(self, failed: "Callable[[Exception], None]") -> None:
        self._failed = failed
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._timerfd = native.timerfd()
        self._timers: list[tuple[float, int, Timer]] = []
        self._armed: float | None = None
        self._serial = 0
        self._going = True
        self.add(self._timerfd, READ, self._on_timer)

    def add(self, fd: int, events: int, callback: "Callable[[int], object]") -> None:
        """Call `callback(events)` when the fd has one of the events."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """To be called before the fd is closed: a copy of it in a child would go on telling of it (epoll(7))."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def at(self, when: float, callback: "Callable[[], object]") -> Timer:
        """Call once, at or soon after that time."""
        self._serial += 1
        timer = Timer(callback)
        heappush(self._timers, (when, self._serial, timer))
        return timer

    def run(self) -> None:
        poll = self._epoll.poll
        callbacks = self._callbacks
        while self._going:
            self._arm()
            for fd, events in poll():
                callback = callbacks.get(fd)
                if callback is not None:
                    self._call(callback, events)

    def stop(self) -> None:
        self._going = False

    def _arm(self) -> None:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heappop(timers)
        first = timers[0][0] if timers else None
        if first != self._armed:
            native.timerfd_set(self._timerfd, 0 if first is None else max(1, int(first * 1e9)))
            self._armed = first

    def _on_timer(self, _: int) -> None:
        # Setting the timer again takes back its expiry, so the fd needs no read.
        self._armed = -1.0
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self._call(callback)

    def _call(self, callback: "Callable[..., object]", *args: int) -> None:
        """A fault in what one client, instance or timer wants must not end the supervision of all the others."""
        try:
            callback(*args)
        except Exception as error:
            self._failed(error)

"""The one epoll loop: fds and times. Owns the epoll set and the timerfd; callbacks must not wait."""

import select
import time
from errno import EBADF, EEXIST, EINVAL, ELOOP, ENOENT, EPERM
from heapq import heapify, heappop, heappush

from oxmgr.supervisor import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

FAR = 9e9
"""Seconds: 285 years, and as nanoseconds still a number that the timerfd takes."""
_FEW = 64
AGAIN = 0.05
"""Seconds until the kernel is asked again for what it had no memory, or its user no more watches, for."""
WRONG = (EBADF, EEXIST, EINVAL, ELOOP, ENOENT, EPERM)
"""What epoll_ctl(2) refuses for good."""


class Timer:
    """Something to be called once. `callback` is None when it has been, or is not to be any more."""

    __slots__ = ("_loop", "callback")

    def __init__(self, callback: "Callable[[], object]", loop: "Loop") -> None:
        self.callback: Callable[[], object] | None = callback
        self._loop = loop

    def cancel(self) -> None:
        """The loop is not even woken for it."""
        if self.callback is not None:
            self.callback = None
            self._loop._on_cancelled()


class Loop:
    """Runs until `stop()`; `failed` is called with what a callback raises. Times are seconds of `time.monotonic()`."""

    def __init__(self, failed: "Callable[[Exception], None]") -> None:
        self.failed = failed
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._fresh: set[int] = set()
        self._late: dict[int, int] = {}
        self._is_short = False
        self._timerfd = native.timerfd()
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled = 0
        self._armed: float | None = None
        self._serial = 0
        self._going = True
        # Not later: what is late is asked for again by a timer.
        self._epoll.register(self._timerfd, READ)
        self._callbacks[self._timerfd] = self._on_timer

    def add(self, fd: int, events: int, callback: "Callable[[int], object]") -> None:
        """Call `callback(events)` when the fd has one of the events; later than that while the kernel has no memory.
        OSError when it is no fd to wait for."""
        try:
            self._epoll.register(fd, events)
        except OSError as error:
            self._ask_later(fd, events, error)
        self._callbacks[fd] = callback
        self._fresh.add(fd)

    def change(self, fd: int, events: int) -> None:
        if fd in self._late:
            self._late[fd] = events
            return
        try:
            self._epoll.modify(fd, events)
        except OSError as error:
            self._ask_later(fd, events, error)

    def _ask_later(self, fd: int, events: int, error: OSError) -> None:
        if error.errno in WRONG:
            raise error
        if not self._late:
            self.at(time.monotonic() + AGAIN, self._ask_again)
            if not self._is_short:
                self.failed(error)
        self._is_short = True
        self._late[fd] = events

    def _ask_again(self) -> None:
        late, self._late = self._late, {}
        for fd, events in late.items():
            self.call(self._ask, fd, events)
        self._is_short = bool(self._late)

    def _ask(self, fd: int, events: int) -> None:
        try:
            try:
                self._epoll.modify(fd, events)
            except FileNotFoundError:
                self._epoll.register(fd, events)
        except OSError as error:
            self._ask_later(fd, events, error)

    def remove(self, fd: int) -> None:
        """To be called before the fd is closed: a copy of it in a child would go on telling of it (epoll(7)).

        Raises nothing: whoever closes what it has is not to be left halfway, and nobody is called for it any more."""
        del self._callbacks[fd]
        self._late.pop(fd, None)
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass

    def at(self, when: float, callback: "Callable[[], object]") -> Timer:
        """Call once, at or soon after that time; what is no time (infinity, NaN) is FAR away."""
        self._serial += 1
        timer = Timer(callback, self)
        heappush(self._timers, (max(0.0, when) if when < FAR else FAR, self._serial, timer))
        return timer

    def _on_cancelled(self) -> None:
        """Their memory goes at once where they are many, and not in the hour that they were meant for."""
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled > len(self._timers) // 2:
            self._timers[:] = [entry for entry in self._timers if entry[2].callback is not None]
            heapify(self._timers)
            self._cancelled = 0

    def run(self) -> None:
        poll = self._epoll.poll
        callbacks = self._callbacks
        while self._going:
            self._arm()
            ready = poll()
            self._fresh.clear()
            for fd, events in ready:
                callback = callbacks.get(fd)
                # What was told of a number before it was closed and given to another is not that one's.
                if callback is not None and fd not in self._fresh:
                    self.call(callback, events)

    def stop(self) -> None:
        self._going = False

    def _arm(self) -> None:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heappop(timers)
            self._cancelled -= 1
        first = timers[0][0] if timers else None
        if first != self._armed:
            native.timerfd_set(self._timerfd, 0 if first is None else max(1, int(first * 1e9)))
            self._armed = first

    def _on_timer(self, _: int) -> None:
        # Setting the timer again takes back its expiry, so the fd needs no read.
        self._armed = -1.0
        now = time.monotonic()
        due: list[Timer] = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heappop(self._timers)[2])
        # What these set for at once comes after the fds' turn, or a chain of them would let nothing else through.
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self.call(callback)
            else:
                self._cancelled -= 1

    def call(self, callback: "Callable[..., object]", *args: object) -> None:
        """A fault in what one client, instance or timer wants must not end the supervision of all the others."""
        try:
            callback(*args)
        except Exception as error:
            self.failed(error)

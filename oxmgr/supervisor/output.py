"""One of the two pipes that an instance prints to, and what becomes of what comes out of it.

A pipe is a FIFO in the run folder, open to read and write at both ends: its app never sees it without a reader, so a
daemon that dies makes it wait and never kills it (pipe(7), SIGPIPE), and the next one opens the same one by its name.
"""

import errno
import os
import time

from oxmgr.supervisor import dropped, native
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.sinks import SinkLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.spec import Spec
    from oxmgr.supervisor.linelog import LineLog
    from oxmgr.supervisor.loop import Timer
    from oxmgr.supervisor.outputs import Outputs
    from oxmgr.supervisor.rawlog import RawLog

    Log = RawLog | LineLog | SinkLog

BUDGET = 256 * 1024
"""Bytes of one app for a wake-up: who floods delays nobody's restart by more than they take."""
LAST_BYTES = 4 * 1024 * 1024
RETRY = 1.0
NULL = "/dev/null"
OWN = {"/dev/stdout": 1, "/dev/stderr": 2}


class Direct:
    """What an app prints goes there without us: to /dev/null, or to what the daemon itself prints to."""

    __slots__ = ("_path",)

    trouble = ""

    def __init__(self, path: str) -> None:
        self._path = path

    def open_for_app(self) -> int:
        """An fd for the app."""
        if self._path in OWN:
            try:
                return os.dup(OWN[self._path])
            except OSError:
                # The daemon was started without.
                return os.open(NULL, os.O_RDWR | os.O_CLOEXEC)
        return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def begin(self) -> None: ...

    def drain(self) -> None: ...

    def finish(self, arrived: "Callable[[], None] | None" = None) -> None: ...

    def is_empty(self) -> bool:
        return True

    def flush(self) -> None: ...

    def reopen(self) -> bool:
        return False

    def close(self) -> None: ...


class Output:
    """Number 1 or 2 of an instance, a FIFO of that name. `spec` is the one that its log was made by."""

    __slots__ = (
        *("_arrived", "_blocked", "_dropped", "_dropping", "_ended", "_fallen"),
        *("_notice", "_outputs", "_retry", "_trouble"),
        *("index", "log", "name", "number", "pipe", "spec"),
    )

    def __init__(self, outputs: "Outputs", spec: "Spec", index: int, number: int, name: str, pipe: int) -> None:
        self.spec = spec
        self.index = index
        self.number = number
        self.name = name
        self._outputs = outputs
        self._fallen = ""
        self._dropped, self._trouble = dropped.load(self.fifo)
        self._dropping = False
        self._retry: Timer | None = None
        self._notice: Timer | None = None
        self._blocked = False
        self._ended = False
        self._arrived: Callable[[], None] | None = None
        self.log: Log = outputs.make_log(self)
        self.pipe = native.Pipe(pipe)
        self._wire()
        outputs.loop.add(self.pipe.fd, READ, self._on_readable)

    @property
    def fifo(self) -> str:
        return f"{self._outputs.places.run}/{self.name}"

    @property
    def trouble(self) -> str:
        """What is wrong with it now, or ""."""
        return "; ".join(filter(None, (self._fallen, self._trouble, self.log.trouble)))

    def begin(self) -> None:
        """Its app is to be started."""
        self._ended, self._arrived = False, None

    def open_for_app(self) -> int:
        """An fd for the app: its own open description, so that what it sets on it is not set on ours."""
        # By its fd, for somebody may have removed its name.
        return os.open(f"/proc/self/fd/{self.pipe.fd}", os.O_RDWR | os.O_CLOEXEC)

    # --- what comes out of it ---

    def _on_readable(self, _: int) -> None:
        self.move(BUDGET)

    def move(self, budget: int) -> int:
        """To where they go; 0 when there are no more, or they have to wait."""
        if self._blocked:
            return 0
        if self._retry is not None:
            return self._drop(budget) if self._dropping else 0
        try:
            self._tell_dropped()
            moved = self.log.move(self.pipe, budget)
        except OSError as error:
            return self._block() if self._takes_no_more(error) else self._cannot(error, budget)
        self._went_well()
        return moved

    def drain(self) -> None:
        """All that is there by now."""
        left = LAST_BYTES
        while left > 0 and not self._blocked and self.pipe.waiting() and (moved := self.move(min(left, BUDGET))):
            left -= moved

    def finish(self, arrived: "Callable[[], None] | None" = None) -> None:
        """Nobody of its app lives who could print: all that is there, and what has no end of a line is one. If it has
        to wait, `arrived` is called when it is where it goes."""
        self._ended, self._arrived = True, arrived
        self.drain()
        if self._blocked or self._retry is not None or self.pipe.waiting():
            return
        try:
            self._tell_dropped()
            self.log.finish()
        except OSError as error:
            if self._takes_no_more(error):
                self._block()
                return
            log = self.log
            self._cannot(error, BUDGET)
            if self.log is not log:
                # It has fallen back, to one that has to end its last line too.
                self.finish(arrived)

    def is_empty(self) -> bool:
        """Whether all that was printed is where it goes."""
        return self._retry is None and not (self.pipe.waiting() or self.log.behind or self._dropped)

    def _takes_no_more(self, error: OSError) -> bool:
        """Whether it is a sink, which says when it takes more; a file that somebody has a lease of (open(2),
        EWOULDBLOCK) tells nobody."""
        return isinstance(error, BlockingIOError) and isinstance(self.log, SinkLog)

    def _went_well(self) -> None:
        self._outputs.used(self)
        self._trouble = ""
        again = self.log.again()
        if again is not None and self._notice is None:
            self._notice = self._outputs.loop.at(again, self._on_notice)

    def move_soon(self) -> None:
        """Though nothing comes: there is something that has left the pipe already."""
        self._notice = self._outputs.loop.at(time.monotonic(), self._on_notice)

    def _on_notice(self) -> None:
        self._notice = None
        self.move(BUDGET)

    # --- what cannot be done ---

    def look(self) -> None:
        """Whether the file that is wished for can be its log, before anybody is told that it is."""
        if isinstance(self.log, SinkLog) or self.log.path == self._outputs.default_path(self):
            return
        try:
            self.log.open()
        except OSError as error:
            if not self.log.passes(error):
                self._fall_back(error)
        else:
            self._outputs.used(self)

    def _cannot(self, error: OSError, budget: int) -> int:
        passes = self.log.passes(error)
        if not passes and self._fall_back(error):
            return self.move(budget)
        # An app does not wait for what does not come; but a disk that is read-only is mended as a full one is, and who
        # holds the lock of its file lets go of it: most often what an earlier daemon was about to start.
        self._dropping = self.log.logs.on_full == "drop" or not (passes or error.errno in (errno.EROFS, errno.EBUSY))
        what = "dropped" if self._dropping else "kept waiting, and so is the app when 64 KB wait"
        trouble = f"{error.filename or self.log.path}: {error.strerror}: what it prints is {what}"
        if not self._trouble:
            self._outputs.say(trouble)
        self._trouble = trouble
        if not self._dropping:
            self._outputs.loop.change(self.pipe.fd, 0)
        self._retry = self._outputs.loop.at(time.monotonic() + RETRY, self._try_again)
        return self._drop(budget) if self._dropping else 0

    def _fall_back(self, error: OSError) -> bool:
        """To its default file; False when that is what cannot be."""
        if self._fallen or self.log.path == self._outputs.default_path(self):
            return False
        path = error.filename or self.log.path
        self.log.leave()
        self.log = self._outputs.make_log(self, fall_back=True)
        self._outputs.fell(self)
        self._wire()
        self._fallen = f"{path} cannot be its log: {error.strerror}; it goes to {self.log.path}"
        self._outputs.say(self._fallen)
        return True

    def _drop(self, budget: int) -> int:
        size = self.pipe.discard(self._outputs.null, budget)
        if size:
            self._dropped += size
            dropped.save(self.fifo, self._dropped, self._trouble)
        return size

    def _tell_dropped(self) -> None:
        if self._dropped:
            self.log.notice(f"oxmgr: {self._dropped} bytes were dropped here: {self._trouble}"[:256])
            self._dropped = 0
            dropped.forget(self.fifo)

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _block(self) -> int:
        """Whoever takes it takes no more now, and says when."""
        self._blocked = True
        self._outputs.loop.change(self.pipe.fd, 0)
        return 0

    def _unblock(self) -> None:
        self._blocked = False
        self._go_on()

    def _go_on(self) -> None:
        self._outputs.loop.change(self.pipe.fd, READ)
        if self._ended:
            arrived = self._arrived
            self.finish(arrived)
            if arrived is not None and self.is_empty():
                # Not now: it is perhaps closed then.
                self._outputs.loop.at(time.monotonic(), arrived)
        else:
            self.move(BUDGET)

    def _wire(self) -> None:
        if isinstance(self.log, SinkLog):
            self.log.resume = self._unblock

    # --- what users ask for ---

    def flush(self) -> None:
        """Empty its log. OSError."""
        self.drain()
        self.log.empty()
        self._outputs.used(self)

    def reopen(self) -> bool:
        """The log that was wished for, anew: somebody has renamed it, or mended what was wrong with it. Whether its
        lines go to another path by that."""
        self.drain()
        if isinstance(self.log, SinkLog):
            return False
        before = self.log.path
        self.log.leave()
        self.log = self._outputs.make_log(self)
        self._wire()
        self._fallen = ""
        self.look()
        if self._retry is not None:
            self._retry.cancel()
            self._try_again()
        return self.log.path != before

    def close(self) -> None:
        pipe = self.release()
        self._outputs.guard.forget(self.name)
        os.close(pipe)

    def release(self) -> int:
        """The end of it, but not of its pipe, which is the caller's then."""
        for timer in (self._retry, self._notice):
            if timer is not None:
                timer.cancel()
        if isinstance(self.log, SinkLog):
            self.log.forget()
        # The number may soon be another's.
        self._blocked = True
        self._outputs.loop.remove(self.pipe.fd)
        self.log.close()
        self._outputs.forget(self)
        return self.pipe.fd

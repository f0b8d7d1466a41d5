"""The pipes that apps print to, and what becomes of what comes out of them. Owns the pipes.

A pipe is a FIFO in the run folder, open to read and write at both ends: its app never sees it without a reader, so a
daemon that dies makes it wait and never kills it (pipe(7), SIGPIPE), and the next one opens the same one by its name.
"""

import errno
import os
import stat
import time

from oxmgr.model.codec import replace
from oxmgr.model.spec import log_paths
from oxmgr.supervisor import native
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.rawlog import RawLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.places import Places
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop, Timer

BUDGET = 256 * 1024
"""Bytes of one app for a wake-up: who floods delays nobody's restart by more than they take."""
LAST_BYTES = 4 * 1024 * 1024
OPEN_FILES = 256
"""Log files that are held open; an app that prints nothing costs no more than its pipes."""
RETRY = 1.0


# The disk has no room or fails: it may be better later. With any other error the file is no place for a log.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Output:
    """One pipe of an instance, and the log that it goes to; `fallback` is where it goes when that cannot be one.
    `trouble` says what is wrong with it now, or ""."""

    def __init__(self, outputs: "Outputs", fifo: str, owner: int, log: RawLog, fallback: str) -> None:
        self.log = log
        self.trouble = ""
        self._outputs = outputs
        self._fifo = fifo
        self._fallback = fallback
        self._timer: Timer | None = None
        self._dropped = 0
        _make_fifo(fifo, owner)
        self.pipe = native.Pipe(os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        outputs.loop.add(self.pipe.fd, READ, lambda _: self.move(BUDGET))

    def open_for_app(self) -> int:
        """An fd for the app: its own open description, so that what it sets on it is not set on ours."""
        return os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)

    def move(self, budget: int) -> int:
        """To where they go; 0 when there are no more, or they have to wait."""
        if self._timer is not None:
            return self._drop(budget) if self._drops else 0
        try:
            if self._dropped:
                self.log.append(f"oxmgr: {self._dropped} bytes were dropped here, {self.trouble}\n".encode())
                self._dropped = 0
            moved = self.log.move(self.pipe, budget)
        except OSError as error:
            return self._cannot(error, budget)
        if moved:
            self._outputs.used(self)
        if self.trouble and not self._fallen:
            self.trouble = ""
        return moved

    def drain(self) -> None:
        """All that is there by now."""
        left = LAST_BYTES
        while left > 0 and self.pipe.waiting() and (moved := self.move(min(left, BUDGET))):
            left -= moved

    @property
    def _drops(self) -> bool:
        return self.log.logs.on_full == "drop"

    @property
    def _fallen(self) -> bool:
        return self.log.path == self._fallback

    def _cannot(self, error: OSError, budget: int) -> int:
        path = error.filename or self.log.path
        if error.errno not in PASSING and not self._fallen:
            self.log.close()
            self.log = RawLog(self._fallback, self.log.logs, self.log.rotated)
            self.trouble = f"{path} cannot be its log: {error.strerror}; it goes to {self._fallback}"
            self._outputs.say(self.trouble)
            return self.move(budget)
        what = "what it prints is dropped" if self._drops else "what it prints waits, and so does the app when 64 KB do"
        if not self.trouble:
            self._outputs.say(f"{path}: {error.strerror}: {what}")
        self.trouble = f"{path}: {error.strerror}: {what}"
        if not self._drops:
            self._outputs.loop.change(self.pipe.fd, 0)
        self._timer = self._outputs.loop.at(time.monotonic() + RETRY, self._again)
        return self._drop(budget) if self._drops else 0

    def _drop(self, budget: int) -> int:
        dropped = self.pipe.discard(self._outputs.null, budget)
        self._dropped += dropped
        return dropped

    def _again(self) -> None:
        self._timer = None
        if not self._drops:
            self._outputs.loop.change(self.pipe.fd, READ)
        self.move(BUDGET)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._outputs.loop.remove(self.pipe.fd)
        os.close(self.pipe.fd)
        self.log.close()
        self._outputs.forget(self)


class Outputs:
    """`rotated` is called with a log file that was put aside, `say` with what users may want to know."""

    def __init__(
        self, loop: "Loop", places: "Places", rotated: "Callable[[str], None]", say: "Callable[[str], None]"
    ) -> None:
        self.loop = loop
        self.say = say
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._places = places
        self._rotated = rotated
        self._open: dict[Output, None] = {}

    def make(self, instance: "Instance") -> "dict[int, Output]":
        """What its fds 1 and 2 go to: one for both when it is the same file. OSError."""
        spec = instance.app.spec
        out, err = log_paths(spec, instance.index, self._places.logs)
        made = {1: self._make(instance, "out", out)}
        try:
            made[2] = made[1] if err == out else self._make(instance, "err", err)
        except OSError:
            made[1].close()
            raise
        return made

    def _make(self, instance: "Instance", kind: str, path: str) -> Output:
        spec = instance.app.spec
        plain = replace(spec, log_file=None, error_log_file=None)
        fallback = log_paths(plain, instance.index, self._places.logs)[kind == "err"]
        fifo = self._places.pipe(instance.folder, kind)
        return Output(self, fifo, spec.sandbox.uid, RawLog(path, spec.logs, self._rotated), fallback)

    def used(self, output: Output) -> None:
        """Its file is open; of those that have not been used for longest, some are closed."""
        self._open.pop(output, None)
        self._open[output] = None
        if len(self._open) > OPEN_FILES:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.log.close()

    def forget(self, output: Output) -> None:
        self._open.pop(output, None)

    def remove(self, instance: "Instance") -> None:
        """The pipes of one that is deleted."""
        for kind in ("out", "err"):
            try:
                os.unlink(self._places.pipe(instance.folder, kind))
            except FileNotFoundError:
                continue


def _make_fifo(path: str, owner: int) -> None:
    """That it is its user's lets an app open /dev/stdout anew."""
    try:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
            raise FileNotFoundError
    except FileNotFoundError:
        os.mkfifo(path, 0o600)
    if owner >= 0:
        os.chown(path, owner, -1, follow_symlinks=False)

"""The pipes that apps print to, and what becomes of what comes out of them. Owns the pipes.

A pipe is a FIFO in the run folder, open to read and write at both ends: its app never sees it without a reader, so a
daemon that dies makes it wait and never kills it (pipe(7), SIGPIPE), and the next one opens the same one by its name.
"""

import os
import stat
import time

from oxmgr.model.logpaths import default_log_paths, log_paths
from oxmgr.model.spec import Spec
from oxmgr.supervisor import native
from oxmgr.supervisor.archive import Archive
from oxmgr.supervisor.compressing import Compressor
from oxmgr.supervisor.linelog import LineLog
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.rawlog import RawLog
from oxmgr.supervisor.sinks import PRIORITIES, Journal, JournalLog, SinkLog, Stdout, StdoutLog
from oxmgr.supervisor.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.places import Places
    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop, Timer

    Log = RawLog | LineLog | SinkLog

BUDGET = 256 * 1024
"""Bytes of one app for a wake-up: who floods delays nobody's restart by more than they take."""
LAST_BYTES = 4 * 1024 * 1024
OPEN_FILES = 256
"""Logs whose files are held open; an app that prints nothing costs no more than its pipes."""
RETRY = 1.0
NULL = "/dev/null"
_PIPE = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
OWN = {"/dev/stdout": 1, "/dev/stderr": 2}
KINDS = {1: "out", 2: "err"}


class Direct:
    """What an app prints goes there without us: to /dev/null, or to what the daemon itself prints to."""

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

    def drain(self) -> None: ...

    def finish(self) -> None: ...

    def is_empty(self) -> bool:
        return True

    def flush(self) -> None: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class Output:
    """One pipe of an instance, and the log that it goes to, which `make` makes: the one that is wished for, or, asked
    with true, the one for when that cannot be one."""

    def __init__(self, outputs: "Outputs", fifo: str, pipe: int, make: "Callable[[bool], Log]") -> None:
        self.log = make(False)
        self._outputs = outputs
        self._fifo = fifo
        self._make = make
        self._fallen = ""
        self._trouble = ""
        self._dropping = False
        self._dropped = 0
        self._retry: Timer | None = None
        self._notice: Timer | None = None
        self._blocked = False
        self._ended = False
        self.pipe = native.Pipe(pipe)
        outputs.loop.add(self.pipe.fd, READ, lambda _: self.move(BUDGET))
        self._wire()

    @property
    def trouble(self) -> str:
        """What is wrong with it now, or ""."""
        return "; ".join(filter(None, (self._fallen, self._trouble, self.log.trouble)))

    def open_for_app(self) -> int:
        """An fd for the app: its own open description, so that what it sets on it is not set on ours."""
        self._ended = False
        # By its fd, for somebody may have removed its name.
        return os.open(f"/proc/self/fd/{self.pipe.fd}", os.O_RDWR | os.O_CLOEXEC)

    # --- what comes out of it ---

    def move(self, budget: int) -> int:
        """To where they go; 0 when there are no more, or they have to wait."""
        if self._blocked:
            return 0
        if self._retry is not None:
            return self._drop(budget) if self._dropping else 0
        try:
            self._tell_dropped()
            moved = self.log.move(self.pipe, budget)
        except BlockingIOError:
            return self._block()
        except OSError as error:
            return self._cannot(error, budget)
        self._went_well()
        return moved

    def drain(self) -> None:
        """All that is there by now."""
        left = LAST_BYTES
        while left > 0 and self.pipe.waiting() and (moved := self.move(min(left, BUDGET))):
            left -= moved

    def finish(self) -> None:
        """Nobody of its app lives who could print: all that is there, and what has no end of a line is one."""
        self._ended = True
        self.drain()
        if self._blocked or self._retry is not None or self.pipe.waiting():
            return
        try:
            self._tell_dropped()
            self.log.finish()
        except BlockingIOError:
            self._block()
        except OSError as error:
            self._cannot(error, BUDGET)

    def is_empty(self) -> bool:
        """Whether all that was printed is where it goes."""
        return not (self.pipe.waiting() or self.log.behind or self._dropped)

    def _tell_dropped(self) -> None:
        if self._dropped:
            self.log.notice(f"oxmgr: {self._dropped} bytes were dropped here: {self._trouble}"[:256])
            self._dropped = 0

    def _went_well(self) -> None:
        self._outputs.used(self)
        self._trouble = ""
        again = self.log.again()
        if again is not None and self._notice is None:
            self._notice = self._outputs.loop.at(again, self._on_notice)

    def _on_notice(self) -> None:
        self._notice = None
        self.move(BUDGET)

    # --- what cannot be done ---

    def _cannot(self, error: OSError, budget: int) -> int:
        path, passes = error.filename or self.log.path, self.log.passes(error)
        other = None if passes or self._fallen else self._make(True)
        if other is not None and other.path != self.log.path:
            self.log.leave()
            self.log = other
            self._wire()
            self._fallen = f"{path} cannot be its log: {error.strerror}; it goes to {self.log.path}"
            self._outputs.say(self._fallen)
            return self.move(budget)
        # An app does not wait for what does not come.
        self._dropping = self.log.logs.on_full == "drop" or not passes
        what = "dropped" if self._dropping else "kept waiting, and so is the app when 64 KB wait"
        trouble = f"{path}: {error.strerror}: what it prints is {what}"
        if not self._trouble:
            self._outputs.say(trouble)
        self._trouble = trouble
        if not self._dropping:
            self._outputs.loop.change(self.pipe.fd, 0)
        self._retry = self._outputs.loop.at(time.monotonic() + RETRY, self._try_again)
        return self._drop(budget) if self._dropping else 0

    def _drop(self, budget: int) -> int:
        dropped = self.pipe.discard(self._outputs.null, budget)
        self._dropped += dropped
        return dropped

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
            self.finish()
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

    def reopen(self) -> None:
        """The log that was wished for, anew: somebody has renamed it, or mended what was wrong with it."""
        self.drain()
        if isinstance(self.log, SinkLog):
            return
        self.log.leave()
        self.log = self._make(False)
        self._wire()
        self._fallen = ""
        if self._retry is not None:
            self._retry.cancel()
            self._try_again()

    def close(self) -> None:
        for timer in (self._retry, self._notice):
            if timer is not None:
                timer.cancel()
        if isinstance(self.log, SinkLog):
            self.log.forget()
        self._outputs.loop.remove(self.pipe.fd)
        self._outputs.guard.forget(os.path.basename(self._fifo))
        os.close(self.pipe.fd)
        self.log.close()
        self._outputs.forget(self)


class Outputs:
    """`say` is called with what users may want to know."""

    def __init__(
        self,
        loop: "Loop",
        places: "Places",
        background: "Background",
        say: "Callable[[str], None]",
        guard: "Guard",
    ) -> None:
        self.loop = loop
        self.guard = guard
        self.say = say
        self.null = os.open(NULL, os.O_RDWR | os.O_CLOEXEC)
        self.compressor = Compressor(loop, say)
        self._archive = Archive(self.compressor.add, lambda work: background.run(work, lambda error: None))
        self._places = places
        self._open: dict[Output, None] = {}
        self._stdout: Stdout | None = None
        self._journal: Journal | None = None

    def make(self, instance: "Instance") -> "dict[int, Output | Direct]":
        """What its fds 1 and 2 go to: one for both when it is the same file. OSError."""
        spec = instance.app.spec
        out, err = log_paths(spec, instance.index, self._places.logs)
        made: dict[int, Output | Direct] = {1: self._make(instance, 1, out)}
        try:
            made[2] = made[1] if is_shared(spec) else self._make(instance, 2, err)
        except OSError:
            made[1].close()
            raise
        return made

    def _make(self, instance: "Instance", number: int, path: str) -> Output | Direct:
        spec = instance.app.spec
        direct = direct_path(spec, number)
        if direct:
            return Direct(direct)
        kind = KINDS[number]
        fifo = self._places.pipe(instance.folder, kind)
        spool = Spool(fifo)
        fallback = default_log_paths(spec.name, instance.index, self._places.logs)[number - 1]

        def make(fall_back: bool) -> "Log":
            logs = spec.logs
            if logs.sink == "stdout" and not fall_back:
                self._stdout = self._stdout or Stdout(self.loop)
                return StdoutLog(logs, spool, instance.name, self._stdout)
            if logs.sink == "journald" and not fall_back:
                self._journal = self._journal or Journal(self.loop)
                fields = {
                    "PRIORITY": str(PRIORITIES[kind]),
                    "SYSLOG_IDENTIFIER": spec.name,
                    "OXMGR_APP": spec.name,
                    "OXMGR_INSTANCE": str(instance.index),
                }
                return JournalLog(logs, spool, fields, self._journal)
            file = RawLog(fallback if fall_back else path, logs, self._archive)
            if is_spooled(spec) or spool.has_left():
                return LineLog(file, spool, f"std{kind}")
            return file

        output = Output(self, fifo, self._open_pipe(instance, number, fifo), make)
        if spool.has_left():
            self.loop.at(time.monotonic(), lambda: output.move(BUDGET))
        return output

    def _open_pipe(self, instance: "Instance", number: int, fifo: str) -> int:
        """The one that the guard has kept; else that of its name; else, where somebody has removed that, the one that
        the app itself has open. OSError."""
        name = os.path.basename(fifo)
        pipe = self.guard.claim(name)
        if pipe >= 0:
            return pipe
        if instance.process is not None and not os.path.exists(fifo):
            own = f"/proc/{instance.process.pid}/fd/{number}"
            try:
                # What it has opened itself meanwhile is not ours.
                if os.readlink(own) == f"{fifo} (deleted)":
                    pipe = os.open(own, _PIPE)
            except OSError:
                pipe = -1
        if pipe < 0:
            _make_fifo(fifo, instance.app.spec.sandbox.uid)
            pipe = os.open(fifo, _PIPE)
        self.guard.keep(name, pipe)
        return pipe

    def has_left(self, instance: "Instance") -> bool:
        """Whether a daemon before was killed before all that it had taken of an instance's pipes was where it goes."""
        return any(Spool(self._places.pipe(instance.folder, kind)).has_left() for kind in KINDS.values())

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
        for kind in KINDS.values():
            path = self._places.pipe(instance.folder, kind)
            Spool(path).remove()
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def flush(self, instance: "Instance") -> None:
        """Empty its logs; rotated files stay. OSError."""
        if instance.outputs:
            for output in dict.fromkeys(instance.outputs.values()):
                output.flush()
            return
        spec = instance.app.spec
        paths = log_paths(spec, instance.index, self._places.logs)
        for path in dict.fromkeys(path for number, path in enumerate(paths, 1) if not direct_path(spec, number)):
            if os.path.isfile(path):
                log = RawLog(path, spec.logs, self._archive)
                try:
                    log.empty()
                finally:
                    log.close()


def direct_path(spec: Spec, number: int) -> str:
    """Where an app's fd of that number goes without a pipe of ours; "" with one."""
    path = log_paths(spec, 0, "")[number - 1]
    if spec.logs.sink == "none" or (spec.logs.sink == "file" and path == NULL):
        return NULL
    if spec.logs.sink == "inherit":
        return f"/dev/std{KINDS[number]}"
    return path if spec.logs.sink == "file" and path in OWN else ""


def is_shared(spec: Spec) -> bool:
    """Whether stdout and stderr are one."""
    out, err = log_paths(spec, 0, "")
    return spec.logs.sink == "file" and out == err


def is_spooled(spec: Spec) -> bool:
    """Whether what it prints is looked at line by line."""
    logs = spec.logs
    return logs.sink in ("stdout", "journald") or logs.format != "raw" or logs.rate_limit is not None


def plumbing(spec: Spec) -> tuple[str, str, bool]:
    """What cannot be changed while an app runs: what its fds 1 and 2 are."""
    return direct_path(spec, 1), direct_path(spec, 2), is_shared(spec)


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

"""All pipes that apps print to: which log each goes to, which of their files are open, and what they share."""

import os
import stat

from oxmgr.model.logpaths import default_log_paths, log_paths
from oxmgr.model.spec import Spec, instance_name
from oxmgr.supervisor import dropped, native
from oxmgr.supervisor.archive import Archive
from oxmgr.supervisor.compressing import Compressor
from oxmgr.supervisor.linelog import LineLog
from oxmgr.supervisor.output import NULL, OWN, Direct, Output
from oxmgr.supervisor.rawlog import RawLog
from oxmgr.supervisor.sinks import PRIORITIES, Journal, JournalLog, SinkLog, Stdout, StdoutLog
from oxmgr.supervisor.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oxmgr.model.places import Places
    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.output import Log

_PIPE = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
OPEN_FILES = 256
"""Logs whose files are held open; an app that prints nothing costs no more than its pipes."""
KINDS = {1: "out", 2: "err"}


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
        self.places = places
        self._fallen: dict[str, str] = {}
        self._open: dict[Output, None] = {}
        self._unread: dict[str, int] = {}
        """Pipes of which no output could be made: what is in them, and is printed to them, waits for one."""
        self._stdout: Stdout | None = None
        self._journal: Journal | None = None

    def make(self, instance: "Instance") -> "tuple[Output | Direct, ...]":
        """What its fds 1 and 2 go to: one for both when it is the same file. OSError."""
        made: list[Output | Direct] = []
        try:
            made.append(self._make(instance, 1))
            if not is_shared(instance.app.spec):
                made.append(self._make(instance, 2))
        except OSError:
            self.lay_aside(made)
            for name in _names(instance):
                kept = self.guard.claim(name)
                if kept >= 0:
                    self._unread[name] = kept
            raise
        self._close_unread(instance)
        return tuple(made)

    def lay_aside(self, outputs: "Iterable[Output | Direct]") -> None:
        """They end, and others are made: what is in their pipes is for those."""
        for output in outputs:
            if isinstance(output, Output):
                self._unread[output.name] = output.release()

    def _close_unread(self, instance: "Instance") -> None:
        for name in _names(instance):
            if name in self._unread:
                self.guard.forget(name)
                os.close(self._unread.pop(name))

    def put_away(self, instance: "Instance") -> None:
        """Nobody prints to its pipes: those without an output are closed, unless something is in them."""
        if not any(name in self._unread and native.Pipe(self._unread[name]).waiting() for name in _names(instance)):
            self._close_unread(instance)

    def _make(self, instance: "Instance", number: int) -> Output | Direct:
        spec = instance.app.spec
        direct = direct_path(spec, number)
        if direct:
            return Direct(direct)
        name = f"{instance.pipes}.{KINDS[number]}"
        pipe, output = self._open_pipe(instance, number, name), None
        try:
            output = Output(self, spec, instance.index, number, name, pipe)
            output.look()
            if _is_behind(output.fifo):
                output.move_soon()
        except OSError:
            self._unread[name] = pipe if output is None else output.release()
            raise
        return output

    def _open_pipe(self, instance: "Instance", number: int, name: str) -> int:
        """The one that waits for its output; else the one that the guard has kept; else that of its name; else, where
        somebody has removed that, the one that the app itself has open. OSError."""
        fifo = f"{self.places.run}/{name}"
        pipe = self._unread.pop(name, -1)
        if pipe < 0:
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
        try:
            self.guard.keep(name, pipe)
        except OSError:
            self._unread[name] = pipe
            raise
        return pipe

    def make_log(self, output: Output, *, fall_back: bool = False) -> "Log":
        """The log that is wished for, or the one for when that cannot be one."""
        spec, kind = output.spec, KINDS[output.number]
        logs, spool = spec.logs, Spool(output.fifo)
        if logs.sink == "stdout" and not fall_back:
            self._stdout = self._stdout or Stdout(self.loop)
            return StdoutLog(logs, spool, instance_name(spec.name, output.index, spec.instances), self._stdout)
        if logs.sink == "journald" and not fall_back:
            self._journal = self._journal or Journal(self.loop)
            fields = {
                "PRIORITY": str(PRIORITIES[kind]),
                "SYSLOG_IDENTIFIER": spec.name,
                "OXMGR_APP": spec.name,
                "OXMGR_INSTANCE": str(output.index),
            }
            return JournalLog(logs, spool, fields, self._journal)
        path = self.default_path(output)
        if not fall_back:
            self._fallen.pop(path, None)
            path = log_paths(spec, output.index, self.places.logs)[output.number - 1]
        file = RawLog(path, logs, self._archive)
        return LineLog(file, spool, f"std{kind}") if is_spooled(spec) or spool.has_left() else file

    def default_path(self, output: Output) -> str:
        return default_log_paths(output.spec.name, output.index, self.places.logs)[output.number - 1]

    def fell(self, output: Output) -> None:
        """It goes to its default path."""
        wished = log_paths(output.spec, output.index, self.places.logs)[output.number - 1]
        self._fallen[self.default_path(output)] = wished

    def files(self, instance: "Instance") -> tuple[str, str]:
        """The files of its stdout and stderr: those that its spec names or, where what it printed last could not go
        there, those that it went to."""
        spec = instance.app.spec
        out, err = log_paths(spec, instance.index, self.places.logs)
        if not self._fallen:
            return out, err
        plain = default_log_paths(spec.name, instance.index, self.places.logs)
        used = [to if self._fallen.get(to) == wished else wished for to, wished in zip(plain, (out, err), strict=True)]
        return used[0], used[0] if is_shared(spec) else used[1]

    def has_left(self, instance: "Instance") -> bool:
        """Whether a daemon before was killed before all that an instance has printed was where it goes."""
        if any(name in self.guard.kept for name in _names(instance)):
            return True
        return any(_is_behind(self.places.pipe(instance.pipes, kind)) for kind in KINDS.values())

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
        for path in default_log_paths(instance.app.spec.name, instance.index, self.places.logs):
            self._fallen.pop(path, None)
        self._close_unread(instance)
        for kind in KINDS.values():
            path = self.places.pipe(instance.pipes, kind)
            Spool(path).remove()
            dropped.forget(path)
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def flush(self, instance: "Instance") -> None:
        """Empty its logs; rotated files stay. OSError."""
        if instance.outputs:
            for output in instance.outputs:
                output.flush()
            return
        for path in self.own_files(instance):
            self._on_closed(path, instance, RawLog.empty)

    def own_files(self, instance: "Instance") -> list[str]:
        """Those of its files that are ours to write to."""
        spec = instance.app.spec
        paths = enumerate(self.files(instance), 1)
        return list(dict.fromkeys(path for number, path in paths if not direct_path(spec, number)))

    def rotate_old(self, instance: "Instance", path: str) -> None:
        """That file of it, if its first line is older than max_days. OSError."""
        for output in instance.outputs:
            if isinstance(output, Output) and output.log.path == path and not isinstance(output.log, SinkLog):
                output.log.prepare()
                self.used(output)
                return
        if not instance.outputs:
            self._on_closed(path, instance, RawLog.prepare)

    def _on_closed(self, path: str, instance: "Instance", work: "Callable[[RawLog], None]") -> None:
        """With a log that no pipe goes to."""
        if os.path.isfile(path):
            log = RawLog(path, instance.app.spec.logs, self._archive)
            try:
                work(log)
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


def _names(instance: "Instance") -> list[str]:
    return [f"{instance.pipes}.{kind}" for kind in KINDS.values()]


def _is_behind(fifo: str) -> bool:
    """Whether a daemon before has left something for its log that is not in the pipe any more."""
    return Spool(fifo).has_left() or dropped.load(fifo)[0] > 0


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

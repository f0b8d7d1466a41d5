"""What the tests of log files share: a pipe as an app has it, and a process that is killed at its n-th step."""

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

from oxmgr.folders import open_folder
from oxmgr.model.spec import Logs
from oxmgr.supervisor import archive, linelog, logtimes, native, rawlog, spool
from oxmgr.supervisor.archive import Archive, rotated_names
from oxmgr.supervisor.linelog import LineLog
from oxmgr.supervisor.rawlog import RawLog
from oxmgr.supervisor.spool import Spool

STEPS = ("open", "rename", "unlink", "write", "pwrite", "ftruncate", "close")
MODULES = (archive, linelog, logtimes, rawlog, spool)


class AppPipe:
    """Both ends of a pipe that does not wait."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.pipe = native.Pipe(reading)

    def write(self, data: bytes) -> None:
        assert os.write(self.writing, data) == len(data)

    def close(self) -> None:
        os.close(self.pipe.fd)
        os.close(self.writing)


def archive_of(told: list[str] | None = None) -> Archive:
    """Tells what would be compressed."""
    return Archive(lambda files: told.extend(files) if told is not None else None)


def raw_log(path: Path, logs: Logs = Logs(), told: list[str] | None = None) -> RawLog:  # noqa: B008
    return RawLog(str(path), logs, archive_of(told))


def line_log(path: Path, logs: Logs) -> LineLog:
    return LineLog(raw_log(path, logs), Spool(str(path.parent / "pipe")), "stdout")


def move_all(log: RawLog | LineLog, pipe: native.Pipe, budget: int = 1 << 20) -> None:
    while pipe.waiting():
        log.move(pipe, budget)


def rotated_files(path: str) -> list[str]:
    """The rotated files of a log, compressed or not, oldest first."""
    folder, _, name = path.rpartition("/")
    try:
        within = open_folder(folder)
    except FileNotFoundError:
        return []
    try:
        return [f"{folder}/{one}" for one in rotated_names(within, name)]
    finally:
        os.close(within)


def history(path: Path) -> bytes:
    """All that its rotated files and the log hold, in order."""
    return b"".join(Path(file).read_bytes() for file in [*rotated_files(str(path)), str(path)] if Path(file).exists())


class WithOs:
    """`os` with some calls of one's own."""

    def __init__(self, **calls: object) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> object:
        return self._calls.get(name) or getattr(os, name)


class _Killing:
    """`os` for the modules of logs, which ends its process before or after the n-th step."""

    def __init__(self, before: int) -> None:
        self._left = before

    def __getattr__(self, name: str) -> object:
        found = getattr(os, name)
        return self.around(found) if name in STEPS else found

    def around(self, call: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **keys: object) -> object:
            self._tick()
            result = call(*args, **keys)
            self._tick()
            return result

        return step

    def _tick(self) -> None:
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do it in a process that is killed at that step; whether it came so far."""
    pid = os.fork()
    if not pid:
        try:
            killing = _Killing(step)
            for module in MODULES:
                module.os = killing  # type: ignore[attr-defined]
            for owner, name in ((native.Pipe, "splice"), (native.Formatter, "file"), (native, "punch")):
                setattr(owner, name, killing.around(getattr(owner, name)))
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)

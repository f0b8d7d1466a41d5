"""Commands that are run for an app beside it: probes and hooks. Each has its time, and nothing of it outlives that.

A chore runs with the rights, the environment and the folder of its app, in a cgroup of its own beside the app's, so
that whatever it starts ends with it; without cgroups in a session of its own, and its descendants are looked for. It
has its app's limits, for itself.
"""

import os
import time

from oxmgr.lifecycle.machine import describe_end
from oxmgr.model.codec import replace
from oxmgr.model.spec import FIFO, NO_LIMITS
from oxmgr.supervisor import descendants, limits, native, process
from oxmgr.supervisor.left import chore_name
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.owners import NO_FAULT, SHORT
from oxmgr.supervisor.process import StartError
from oxmgr.supervisor.shortage import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.launcher import Launcher
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.trees import Trees

    End = tuple[int | None, int | None]

SHELL = "/bin/sh"
TOLD = 200
"""Bytes of what it printed last that are told of a failure."""
KEPT = 4096


class Chores:
    """`ended` is to be called with every child that was reaped and is no main process."""

    def __init__(self, loop: "Loop", background: "Background", trees: "Trees", launcher: "Launcher") -> None:
        self.loop = loop
        self.background = background
        self.trees = trees
        self.launcher = launcher
        self._running: dict[int, Chore] = {}
        self._ended: dict[int, End] = {}
        self._starting = 0
        self._serial = 0

    def run(
        self, instance: "Instance", command: str, timeout: float, done: "Callable[[str], object]", **env: str
    ) -> "Chore":
        """`done` is called once, and never before this returns: with "" when it has ended with 0, else with what was
        wrong."""
        self._serial += 1
        return Chore(self, instance, command, timeout, done, env, self._serial)

    def ended(self, pid: int, end: "End") -> None:
        chore = self._running.pop(pid, None)
        if chore is not None:
            chore.on_end(end)
        elif self._starting:
            # Perhaps one that a thread has just made and nobody has told us of yet.
            self._ended[pid] = end

    def begin(self) -> None:
        self._starting += 1

    def begun(self, chore: "Chore", pid: int) -> None:
        """It runs, or does not with pid 0."""
        self._starting -= 1
        end = self._ended.pop(pid, None)
        if not self._starting:
            self._ended.clear()
        if end is not None:
            chore.on_end(end)
        elif pid:
            self._running[pid] = chore
            self.trees.set_apart(pid)


class _Into:
    """Where its fds 1 and 2 go."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def open_for_app(self) -> int:
        return os.dup(self._fd)


def _pipe(loop: "Loop", on_said: "Callable[[int], object]") -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        loop.add(reading, READ, on_said)
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    return reading, writing


class Chore:
    def __init__(
        self,
        chores: Chores,
        instance: "Instance",
        command: str,
        timeout: float,
        done: "Callable[[str], object]",
        env: dict[str, str],
        serial: int,
    ) -> None:
        self._chores = chores
        self._instance = instance
        self._done = done
        self._said = b""
        self._main: process.Process | None = None
        self._child = native.Child()
        self._late = False
        self.over = False
        self._reading = -1
        self._folder = ""
        try:
            self._reading, self._said_to = _pipe(chores.loop, self._on_said)
        except OSError as error:
            self._end_soon(f"{NO_FAULT}open a pipe for what it prints: {reason(error)}")
            return
        self._timer = chores.loop.at(time.monotonic() + timeout, lambda: self._on_late(timeout))
        spec = instance.app.spec
        spec = replace(spec, argv=[SHELL, "-c", command], env={**spec.env, **env}, ready="started", stdin=FIFO)
        cgroups = chores.trees.cgroups
        self._folder, folder = cgroups.make_leaf(chore_name(instance.folder, serial))
        if self._folder and spec.limits != NO_LIMITS:
            limits.kill_as_one(self._folder)
            # What cannot be held is told of the app.
            limits.write_all(self._folder, spec.limits, NO_LIMITS, cgroups.controllers)
        result: list[process.Process | StartError] = []

        def work() -> None:
            try:
                result.append(
                    process.start(
                        spec,
                        instance.index,
                        instance.run,
                        instance.app.environ,
                        chores.launcher.given,
                        stdin="/dev/null",
                        outputs=(_Into(self._said_to),),  # type: ignore[arg-type]
                        cgroup=folder,
                        network=instance.network if spec.sandbox.private_network else -1,
                        child=self._child,
                    )
                )
            except StartError as error:
                result.append(error)

        def started(failed: OSError | None) -> None:
            if folder >= 0:
                os.close(folder)
            got = result[0] if result else StartError(str(failed), 0)
            os.close(self._said_to)
            if isinstance(got, StartError):
                chores.begun(self, 0)
                self._timer.cancel()
                self._end_soon(f"{NO_FAULT}{got}" if got.errno in SHORT else str(got))
                return
            self._main = got
            chores.begun(self, got.pid)
            if self._late or self.over:
                self._kill()

        chores.begin()
        if spec.sandbox.uid >= 0:
            # Its user's processes may stop it before it executes.
            chores.background.run(work, started)
        else:
            work()
            started(None)

    def close(self) -> None:
        """It is of no interest any more, and ended."""
        self._done = lambda why: None
        self._end("")

    def _on_said(self, _: int) -> None:
        try:
            data = os.read(self._reading, 65536)
        except OSError:
            # Not now; what it prints is for telling alone, and how it ends is what counts.
            return
        self._said = (self._said + data)[-KEPT:]
        if not data:
            self._stop_reading()

    def _stop_reading(self) -> None:
        # One that nobody writes to any more would be told of for ever (EPOLLHUP, epoll_ctl(2)).
        if self._reading >= 0:
            self._chores.loop.remove(self._reading)
            os.close(self._reading)
            self._reading = -1

    def _end_soon(self, why: str) -> None:
        self._timer = self._chores.loop.at(0.0, lambda: self._end(why))

    def _on_late(self, timeout: float) -> None:
        self._late = True
        self._end(f"it does not end within {timeout:g} s")

    def on_end(self, end: "End") -> None:
        """Its main process is reaped."""
        main = self._main
        if main is not None:
            main.reaped = True
            main.close()
        if self.over:
            # Its pipe is closed, and the number perhaps another's.
            return
        code, number = end
        if self._reading >= 0:
            self._on_said(0)
        self._end("" if code == 0 else f"{describe_end(code, number)}{self._last_words()}")

    def _last_words(self) -> str:
        lines = self._said[-TOLD:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def _kill(self) -> None:
        main = self._main
        if main is not None and main.reaped:
            pass
        elif main is not None:
            # Those that it has made first, as long as it is their parent.
            descendants.kill_trees([main.pid], lambda pid: main.signal(0) if pid == main.pid else True)
        elif self._child.pidfd >= 0:
            process.Process(0, self._child.pidfd).signal(9)
        if self._folder:
            self._chores.trees.cgroups.kill(self._folder)
            self._chores.trees.tidy(self._folder)

    def _end(self, why: str) -> None:
        if self.over:
            return
        self.over = True
        self._timer.cancel()
        self._stop_reading()
        self._kill()
        self._done(why)

"""Starts an instance where it belongs: in its cgroup, with its limits, in its network. Nobody else starts one.

What of its limits and sandbox this host does not hold stands in the instance's warnings.
"""

import errno
import os
import time
from _signal import SIGKILL, pidfd_send_signal
from resource import RLIMIT_NOFILE, getrlimit

from oxmgr.lifecycle.events import Event, Exited, Spawned, SpawnFailed
from oxmgr.model import status as is_
from oxmgr.model.spec import NO_LIMITS, Limits
from oxmgr.supervisor import cgroup, limits, native, process
from oxmgr.supervisor.holders import holder
from oxmgr.supervisor.matching import marks
from oxmgr.supervisor.network import Networks
from oxmgr.supervisor.output import RETRY
from oxmgr.supervisor.process import StartError
from oxmgr.supervisor.rights import not_in_force
from oxmgr.supervisor.shortage import reason
from oxmgr.supervisor.sockets import Taken, owner_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.places import Places
    from oxmgr.model.spec import Spec
    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.endpoints import Endpoints, Passed
    from oxmgr.supervisor.hooks import HookRunner
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.notes import Notes
    from oxmgr.supervisor.outputs import Outputs
    from oxmgr.supervisor.trees import Trees


RESERVED = 16
"""File descriptors that starts leave for clients and for files."""
UNREAD = "what it prints waits, and so does the app when 64 KB wait: "
TAKEN_RETRY = 0.02
SPAWN_PATIENCE = 10.0
"""Seconds for a child to execute, when that may be hindered."""


class Launcher:
    """`given` is the limit on open files that the daemon was given, as a triple for a start. `later` is called with
    what a start that took its time has come to, then `claim`: it may have ended already. `in_flight` starts are under
    way in threads."""

    def __init__(
        self,
        places: "Places",
        loop: "Loop",
        background: "Background",
        trees: "Trees",
        outputs: "Outputs",
        given: list[int],
        endpoints: "Endpoints",
        notes: "Notes",
    ) -> None:
        self.later: Callable[[Instance, Event], None] = lambda instance, event: None
        self._places = places
        self.beside: Callable[[Instance], Instance | None] = lambda instance: None
        """The one that prints to the pipes of this one already."""
        self.is_alone: Callable[[Instance], bool] = lambda instance: True
        """Whether no other one may print to them."""
        self.claim: Callable[[Instance], None] = lambda instance: None
        self.in_flight = 0
        self.hooks: HookRunner
        self.networks = Networks(loop)
        self._loop = loop
        self._background = background
        self._trees = trees
        self._cgroups = trees.cgroups
        self.outputs = outputs
        self.given = given
        self._fds = getrlimit(RLIMIT_NOFILE)[0]
        self.endpoints = endpoints
        self.notes = notes

    def launch(self, instance: "Instance") -> Event | None:
        """Spawned or SpawnFailed; None when that is told later."""
        spec = instance.app.spec
        missing = limits.not_enforceable(spec.limits, self._cgroups)
        if missing and spec.limits.required:
            return SpawnFailed(_required(instance, missing), final=True)
        if not instance.prepared and self.hooks.before(
            "pre_start", instance, lambda why: self._on_prepared(instance, why)
        ):
            return None
        instance.prepared = False
        instance.warnings = missing + not_in_force(spec.sandbox)
        if spec.sandbox.private_network and instance.network < 0:
            if not instance.pending:
                instance.pending = True
                self.networks.make(lambda fd, why: self._on_network(instance, fd, why))
            return None
        instance.unstarted = 0
        try:
            return self._start(instance)
        except StartError as error:
            instance.unstarted = error.exit_code
            return SpawnFailed(str(error))
        except Taken as taken:
            self._find_holder(instance, taken)
            return None

    def _find_holder(self, instance: "Instance", taken: Taken) -> None:
        """Who has the address that it wants: a look at all processes, so not here."""
        if any(one.state.status == is_.STOPPING for one in instance.app.instances.values()):
            # Those that have it in the other way, of `reuse_port`, until they have ended.
            self._loop.at(time.monotonic() + TAKEN_RETRY, lambda: self._on_prepared(instance, ""))
            return
        own = owner_of(taken.address, self._trees.apps.values())
        found: list[str] = [own] if own else []

        def done(error: OSError | None) -> None:
            who = found[0] if found else "somebody"
            if not instance.gone and instance.state.status == is_.STARTING and not instance.state.pid:
                self.later(instance, SpawnFailed(f"cannot start {instance.name}: {taken}, {who} has it"))

        self._background.run(lambda: None if own else found.append(holder(taken.address)), done)

    def _on_prepared(self, instance: "Instance", why: str) -> None:
        if instance.gone or instance.state.status != is_.STARTING or instance.state.pid:
            # It was stopped meanwhile.
            return
        instance.prepared = True
        failed = SpawnFailed(f"cannot start {instance.name}: pre_start: {why}") if why else None
        event = failed or self.launch(instance)
        instance.prepared = instance.pending
        if event is not None:
            self.later(instance, event)

    def _on_network(self, instance: "Instance", fd: int, why: str) -> None:
        instance.pending = False
        if instance.gone:
            if fd >= 0:
                os.close(fd)
            return
        instance.network = fd
        if instance.state.status != is_.STARTING or instance.state.pid:
            # It was stopped or started anew meanwhile; the network waits for its next start.
            return
        if fd < 0:
            event: Event | None = SpawnFailed(f"cannot start {instance.name}: make a private network: {why}")
        else:
            event = self.launch(instance)
        if event is not None:
            self.later(instance, event)

    def _start(self, instance: "Instance") -> Event | None:
        spec = instance.app.spec
        instance.born, instance.made = spec, instance.app.made
        wrong = self._enter(instance)
        if wrong and spec.limits.required:
            return SpawnFailed(_required(instance, wrong), final=True)
        instance.warnings += wrong
        if not self._has_room():
            taken = OSError(errno.EMFILE, f"all of the daemon's {self._fds} file descriptors are taken")
            raise StartError(f"cannot start {instance.name}: {reason(taken)}", errno.EMFILE)
        unread = self._open_outputs(instance)
        if unread:
            raise StartError(f"cannot start {instance.name}: make the pipes of its output: {unread}", 0)
        for output in instance.outputs:
            output.begin()
        if spec.ready.startswith("log:"):
            for output in instance.outputs:
                output.drain()
            instance.marks = marks(instance, self._places.logs)
        passed = self.endpoints.prepare(instance)
        if spec.sandbox.uid >= 0:
            self._spawn_apart(instance, passed)
            return None
        try:
            main = self._spawn_here(instance, passed)
        except BaseException:
            self._not_started(instance, passed)
            raise
        return self._started(instance, main, passed)

    def _not_started(self, instance: "Instance", passed: "Passed | None") -> None:
        self.notes.drop(instance)
        self.endpoints.failed(instance, passed)

    def _spawn_here(self, instance: "Instance", passed: "Passed | None") -> process.Process:
        try:
            return self._spawn(instance, passed, self.notes.start(instance))
        except StartError as error:
            if not self._try_anew(instance, error):
                raise
        return self._spawn(instance, passed, self.notes.start(instance))

    def _has_room(self) -> bool:
        """Whether there are fds left for it, and then for those who come to stop it."""
        try:
            fd = os.dup(self.outputs.null)
        except OSError:
            return False
        os.close(fd)
        # The lowest that is free.
        return fd < self._fds - RESERVED

    def _try_anew(self, instance: "Instance", error: StartError) -> bool:
        """Whether the cgroup was what stood in the way, and is another one now: the app had made cgroups of its own
        in it, with controllers, or somebody has removed it."""
        if not instance.cgroup or error.errno not in (errno.EBUSY, errno.ENODEV):
            return False
        instance.worn = True
        instance.warnings += self._enter(instance)
        return True

    def _started(self, instance: "Instance", main: process.Process, passed: "Passed | None") -> Spawned:
        self._trees.take(instance, main)
        instance.started_at = time.time()
        instance.ticks = process.start_ticks(main.pid)
        self.endpoints.started(instance, passed)
        return Spawned(main.pid)

    def _spawn_apart(self, instance: "Instance", passed: "Passed | None", again: bool = True) -> None:
        """In a thread, for a child that becomes another user: that user's processes may stop it before it executes, and
        whoever makes it waits for that. It has SPAWN_PATIENCE, then it is killed."""
        child = native.Child()
        told = self.notes.start(instance)
        result: list[process.Process | StartError] = []

        def work() -> None:
            try:
                result.append(self._spawn(instance, passed, told, child))
            except StartError as error:
                result.append(error)

        def done(failed: OSError | None) -> None:
            timer.cancel()
            instance.spawning = None
            self.in_flight -= 1
            got = result[0] if result else StartError(f"cannot start {instance.name}: {failed}", 0)
            if isinstance(got, process.Process):
                self.later(instance, self._started(instance, got, passed))
                self.claim(instance)
            elif again and self._try_anew(instance, got):
                self._spawn_apart(instance, passed, again=False)
            else:
                instance.unstarted = got.exit_code
                self._not_started(instance, passed)
                self.later(instance, SpawnFailed(str(got)))

        instance.spawning = child
        self.in_flight += 1
        timer = self._loop.at(time.monotonic() + SPAWN_PATIENCE, lambda: self.kill_start(instance))
        self._background.run(work, done)

    def kill_start(self, instance: "Instance") -> None:
        """End a child that does not come to execute."""
        if instance.spawning is not None and instance.spawning.pidfd >= 0:
            pidfd_send_signal(instance.spawning.pidfd, SIGKILL)

    def _enter(self, instance: "Instance") -> list[str]:
        """Make its cgroup what it should be; what went wrong, as words."""
        if not self._cgroups.base:
            instance.cgroup = ""
            return []
        wanted = instance.app.spec.limits
        if instance.cgroup and cgroup.is_divided(instance.cgroup):
            instance.worn = True
        try:
            path, made = self._folder(instance)
        except OSError as error:
            instance.cgroup = ""
            return [f"it runs without a cgroup: {error.filename}: {error.strerror}"]
        if made:
            instance.limited, instance.ooms = NO_LIMITS, (0, 0)
            limits.kill_as_one(path)
        instance.cgroup = path
        wrong = self._write(path, wanted, instance.limited)
        instance.limited = wanted
        return wrong

    def _write(self, path: str, wanted: Limits, had: Limits) -> list[str]:
        return limits.write_all(path, wanted, had, self._cgroups.controllers) if wanted != had else []

    def _folder(self, instance: "Instance") -> tuple[str, bool]:
        """Its cgroup, and whether it is made just now. One that we have not made ourselves may have been killed
        once, so it is made anew as well."""
        if instance.limited != instance.app.spec.limits:
            # To lower a limit below the pages of files that the last run has left would wait for their reclaim.
            instance.worn = True
        if instance.worn:
            instance.worn, instance.cgroup = False, ""
        while True:
            name = f"{instance.folder}~{instance.generation}" if instance.generation else instance.folder
            path, made = self._cgroups.make(name)
            if made or path == instance.cgroup:
                return path, made
            if not cgroup.remove(path):
                self._trees.tidy(path)
                instance.generation += 1

    def _spawn(
        self, instance: "Instance", passed: "Passed | None", told: object, child: native.Child | None = None
    ) -> process.Process:
        app = instance.app
        folder = -1
        try:
            if instance.cgroup:
                folder = os.open(instance.cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return process.start(
                app.spec,
                instance.index,
                instance.run,
                app.environ,
                self.given,
                stdin=self._places.stdin(instance.folder),
                outputs=instance.outputs,
                cgroup=folder,
                network=instance.network if app.spec.sandbox.private_network else -1,
                passed=passed,
                child=child,
                told=told,
            )
        except FileNotFoundError as error:
            raise StartError(f"cannot start {instance.name}: its cgroup is gone", errno.ENODEV) from error
        except OSError as error:
            what = f"open {error.filename or 'what it is started with'}: {reason(error)}"
            raise StartError(f"cannot start {instance.name}: {what}", error.errno or 0) from error
        finally:
            if folder >= 0:
                os.close(folder)

    # --- while it runs ---

    def change_limits(self, instance: "Instance", before: Limits, done: "Callable[[], None]") -> None:
        """Give a running instance the limits of its spec instead of those; `done` when the kernel has taken them."""
        wanted = instance.app.spec.limits
        wrong: list[str] = []

        def changed(error: OSError | None) -> None:
            if instance.process is not None:
                wrong.extend(limits.change_running(self._trees.pids(instance), wanted, before, self.given))
            instance.warnings = [
                *limits.not_enforceable(wanted, self._cgroups),
                *not_in_force(instance.app.spec.sandbox),
                *wrong,
            ]
            done()

        path, had = instance.cgroup, instance.limited
        if instance.process is None or not path or had == wanted:
            changed(None)
            return
        instance.limited = wanted
        # To lower a limit on memory waits for the kernel to reclaim.
        self._background.run(lambda: wrong.extend(self._write(path, wanted, had)), changed)

    def end_of(self, instance: "Instance", code: int | None, number: int | None, empty: bool) -> Exited:
        """The end of its main process, with what the kernel says of its memory."""
        if not instance.cgroup or "memory" not in self._cgroups.controllers:
            return Exited(code, number, empty)
        kills, reached = cgroup.oom_kills(instance.cgroup)
        killed, by_own_limit = kills - instance.ooms[0], reached - instance.ooms[1]
        if killed <= 0:
            return Exited(code, number, empty)
        instance.ooms = kills, reached
        peak = cgroup.read_number(f"{instance.cgroup}/memory.peak")
        most = instance.app.spec.limits.memory_max_mb
        why = "the machine, or what it runs in, had no more"
        if by_own_limit > 0 and most is not None:
            why = f"memory_max_mb is {most:g}"
        shown = f", its peak was {peak / limits.MIB:.1f}" if peak is not None else ""
        # A tree is killed as one, and of those processes the kernel counts the first twice: this is one kill.
        return Exited(code, number, empty, 1, f"out of memory, killed by the kernel: {why}{shown}")

    def _open_outputs(self, instance: "Instance") -> str:
        """Have them as its spec says; why there can be no pipes, or ""."""
        spec = instance.app.spec
        other = None if instance.outputs else self.beside(instance)
        if other is not None:
            instance.outputs, instance.wired = other.outputs, other.wired
        if instance.outputs and instance.wired is not None and _wiring(instance.wired) == _wiring(spec):
            return ""
        for output in instance.outputs:
            output.drain()
        self.outputs.lay_aside(instance.outputs)
        instance.outputs = ()
        try:
            instance.outputs = self.outputs.make(instance)
            instance.wired = spec
        except OSError as error:
            return f"{error.filename or 'a pipe'}: {reason(error)}"
        return ""

    def connect(self, instance: "Instance") -> None:
        """The same for what runs already, also after a change of its spec that needs no new process."""
        self.endpoints.relisten(instance)
        self._read(instance)

    def _read(self, instance: "Instance") -> None:
        instance.warnings = [text for text in instance.warnings if not text.startswith(UNREAD)]
        why = self._open_outputs(instance)
        if why:
            instance.warnings.append(f"{UNREAD}{why}")
            self._loop.at(time.monotonic() + RETRY, lambda: self._read_again(instance))

    def _read_again(self, instance: "Instance") -> None:
        if instance.outputs or instance.gone:
            return
        self._read(instance)
        if self.beside(instance) is not None:
            # Which still prints to them.
            instance.outputs = () if instance.down else instance.outputs
        elif instance.outputs and instance.down:
            self.put_away(instance)

    def pick_up(self, instance: "Instance") -> None:
        """It does not run, and a daemon before may have been killed over its last lines."""
        if self.outputs.has_left(instance):
            self.connect(instance)
            self.put_away(instance)

    def _close_outputs(self, instance: "Instance") -> None:
        for output in instance.outputs:
            output.drain()
            output.close()
        instance.outputs = ()

    def put_away(self, instance: "Instance") -> None:
        """It is down: its cgroup goes, and its pipes when all that it printed has arrived."""
        for output in instance.outputs:
            output.finish(lambda: self._close_read(instance))
        self._close_read(instance)
        if self.is_alone(instance):
            self.outputs.put_away(instance)
        if instance.cgroup:
            self._trees.tidy(instance.cgroup)
            instance.cgroup = ""
            instance.worn = False
        self.endpoints.put_away(instance)

    def _close_read(self, instance: "Instance") -> None:
        if instance.down and self.beside(instance) is None and all(output.is_empty() for output in instance.outputs):
            self._close_outputs(instance)

    def forget(self, instance: "Instance") -> None:
        instance.gone = True
        self.put_away(instance)
        self._close_outputs(instance)
        if not instance.extra:
            self.outputs.remove(instance)
        if instance.network >= 0:
            os.close(instance.network)
            instance.network = -1


def _wiring(spec: "Spec") -> tuple[object, ...]:
    """What its outputs are made by."""
    return spec.logs, spec.log_file, spec.error_log_file, spec.sandbox.uid


def _required(instance: "Instance", why: list[str]) -> str:
    return f"cannot start {instance.name}: {why[0]}, and limits.required says that it must be"

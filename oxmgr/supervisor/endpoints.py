"""What an instance is born with beside stdin, stdout and stderr: held sockets, a socket to notify through, a pipe or a
channel to say that it is ready, and what its environment says of them.

The fds, in this order from 3 on: the sockets, what it has left with us (both of sd_listen_fds(3)), then what only Node
looks for. The fd of `ready = "fd:N"` is where its app wants it. An app that asks for nothing of this costs nothing.
"""

import os

from oxmgr.lifecycle.events import Event, Ready
from oxmgr.model import status as is_
from oxmgr.model.listen import FIRST_FD
from oxmgr.model.node import has_channel, is_preloaded
from oxmgr.model.spec import Spec
from oxmgr.supervisor import shim
from oxmgr.supervisor.channels import NodeChannel, ReadyPipe, make_channel, make_pipe
from oxmgr.supervisor.node import SPARE, SPARE_MOST, Preload
from oxmgr.supervisor.notify import Notify, Shared
from oxmgr.supervisor.process import Process, StartError, adopt
from oxmgr.supervisor.reach import notify_place
from oxmgr.supervisor.sockets import Held, Refused, Sockets, addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.places import Places
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.trees import Trees


class Ends:
    """Our ends of what an instance has; None for what it has not."""

    __slots__ = ("channel", "notify", "ready")

    def __init__(self) -> None:
        self.notify: Notify | None = None
        self.ready: ReadyPipe | None = None
        self.channel: NodeChannel | None = None


class Passed:
    """For one start: `fds` by the numbers that they get, `env`, and the names of variables that hold its pid. `own` are
    those of the fds that are to be closed here once it runs. `ready` and `channel` are our ends, -1 without."""

    __slots__ = ("channel", "env", "fds", "own", "pid_names", "ready")

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        self.env: dict[str, str] = {}
        self.pid_names = b""
        self.own: list[int] = []
        self.ready = -1
        self.channel = -1

    def add(self, fd: int) -> int:
        """The first number that is free, behind those that are there."""
        number = FIRST_FD
        while number in self.fds:
            number += 1
        self.fds[number] = fd
        return number

    def close(self, *, failed: bool) -> None:
        """The app's ends; with `failed`, for it does not run, ours too."""
        ours = [self.ready, self.channel] if failed else []
        for fd in (*self.own, *ours):
            if fd >= 0:
                os.close(fd)
        self.own.clear()


class Endpoints:
    """`send` is called with what an instance has become, `say` with what users may want to know."""

    def __init__(
        self,
        loop: "Loop",
        places: "Places",
        guard: "Guard",
        trees: "Trees",
        say: "Callable[[str], object]",
    ) -> None:
        self.send: Callable[[Instance, Event], object] = lambda instance, event: None
        self.save: Callable[[Instance], object] = lambda instance: None
        self.sockets = Sockets(guard, trees.pids)
        self._loop = loop
        self._places = places
        self._guard = guard
        self._shared = Shared(
            loop,
            guard,
            trees,
            lambda instance, event: self.send(instance, event),
            say,
            lambda instance: self.save(instance),
        )
        self._preload = Preload(places)

    # --- a start ---

    def prepare(self, instance: "Instance") -> Passed | None:
        """None when it is to have nothing. Taken or StartError: it cannot be."""
        spec = instance.app.spec
        if not has_any(spec):
            self._end(instance)
            self.sockets.open(instance)
            return None
        passed = Passed()
        try:
            self._fill(instance, spec, passed)
        except Refused as error:
            passed.close(failed=True)
            raise StartError(f"cannot start {instance.name}: {error}", 0) from None
        except OSError as error:
            passed.close(failed=True)
            raise StartError(
                f"cannot start {instance.name}: {error.filename or 'its fds'}: {error.strerror}", 0
            ) from None
        # Before it runs: should we die as soon as it does, our ends are not lost.
        if passed.ready >= 0:
            self._guard.keep(f"{instance.folder}.ready", passed.ready)
        if passed.channel >= 0:
            self._guard.keep(f"{instance.folder}.node", passed.channel)
        return passed

    def failed(self, instance: "Instance", passed: Passed | None) -> None:
        """It does not run."""
        if passed is None:
            return
        if passed.ready >= 0:
            self._guard.forget(f"{instance.folder}.ready")
        if passed.channel >= 0:
            self._guard.forget(f"{instance.folder}.node")
        passed.close(failed=True)

    def _fill(self, instance: "Instance", spec: Spec, passed: Passed) -> None:
        if instance.ends is None:
            instance.ends = Ends()
        ends = instance.ends
        self._close_run(ends)
        held = self.sockets.open(instance)
        names = [one.name or spec.name for one in addresses(spec)]
        for one in held:
            passed.add(one.fd)
        if spec.ready.startswith("fd:"):
            self._add_ready(passed, int(spec.ready[3:]))
        if has_notify(spec):
            notify = self._notify(instance, ends)
            notify.begin()
            passed.env["NOTIFY_SOCKET"] = notify.place
            if spec.watchdog_secs:
                passed.env["WATCHDOG_USEC"] = str(int(spec.watchdog_secs * 1e6))
            for name, fd, _ in notify.stored:
                # They are one row without a gap.
                if FIRST_FD + len(names) not in passed.fds:
                    passed.add(fd)
                    names.append(name)
        elif ends.notify is not None:
            ends.notify.close()
            ends.notify = None
        if names:
            passed.env |= {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
            passed.pid_names = b"LISTEN_PID\0"
        if has_channel(spec):
            passed.channel, theirs = make_channel()
            passed.own.append(theirs)
            passed.env |= {"NODE_CHANNEL_FD": str(passed.add(theirs)), "NODE_CHANNEL_SERIALIZATION_MODE": "json"}
        if is_preloaded(spec):
            self._add_preload(instance, spec, held, passed)
        elif spec.bind_shim and held:
            self._add_shim(instance, spec, held, passed)

    def _add_ready(self, passed: Passed, number: int) -> None:
        passed.ready, theirs = make_pipe()
        passed.own.append(theirs)
        passed.fds[number] = theirs

    def _add_shim(self, instance: "Instance", spec: Spec, held: list[Held], passed: Passed) -> None:
        path, why = shim.place(spec)
        if not path:
            instance.warnings.append(f"bind_shim is without effect: {why}")
            return
        passed.env["LD_PRELOAD"] = shim.preload(path, spec, instance.app.environ)
        rows = zip(held, addresses(spec), strict=True)
        passed.env["OXMGR_BIND"] = "|".join(
            shim.entry(FIRST_FD + number, one.inode, spec.backlog, address)
            for number, (one, address) in enumerate(rows)
        )
        self._add_listening(spec, passed)

    def _add_listening(self, spec: Spec, passed: Passed) -> None:
        if spec.ready == "listen":
            passed.ready, theirs = make_pipe()
            passed.own.append(theirs)
            passed.env["OXMGR_READY"] = f"{passed.add(theirs)}:{os.fstat(theirs).st_ino}"

    def _add_preload(self, instance: "Instance", spec: Spec, held: list[Held], passed: Passed) -> None:
        path, why = self._preload.place(spec)
        if not path:
            instance.warnings.append(f"Node cannot take its sockets by itself: {why}")
            return
        passed.env["NODE_OPTIONS"] = self._preload.options(path, spec, instance.app.environ)
        passed.env["OXMGR_STOP"] = str(spec.stop_signal)
        rows = []
        for number, (one, address) in enumerate(zip(held, addresses(spec), strict=True)):
            spare = min(SPARE, SPARE_MOST // len(held))
            copies = [FIRST_FD + number, *(passed.add(one.fd) for _ in range(spare))]
            rows.append((copies, one.inode, address))
        if rows:
            passed.env["OXMGR_LISTEN"] = self._preload.listen(rows, spec.backlog)
        self._add_listening(spec, passed)

    def _notify(self, instance: "Instance", ends: Ends) -> Notify:
        if ends.notify is None:
            place, why = notify_place(instance, self._places)
            if why:
                instance.warnings.append(why)
            ends.notify = Notify(self._shared, instance, place)
        return ends.notify

    def started(self, instance: "Instance", passed: Passed | None) -> None:
        """It runs, with what was prepared."""
        ends = instance.ends
        if passed is None or ends is None:
            return
        passed.close(failed=False)
        if passed.ready >= 0:
            self._hear_pipe(instance, ends, passed.ready)
        if passed.channel >= 0:
            self._hear_channel(instance, ends, passed.channel)
        if ends.notify is not None:
            ends.notify.listen()

    def _hear_pipe(self, instance: "Instance", ends: Ends, fd: int) -> None:
        ends.ready = ReadyPipe(
            self._loop, self._guard, f"{instance.folder}.ready", fd, lambda: self._is_ready(instance)
        )

    def _hear_channel(self, instance: "Instance", ends: Ends, fd: int) -> None:
        def said() -> None:
            if instance.app.spec.ready == "node":
                self._is_ready(instance)

        ends.channel = NodeChannel(self._loop, self._guard, f"{instance.folder}.node", fd, said)

    def _is_ready(self, instance: "Instance") -> None:
        self.send(instance, Ready())

    # --- takeover ---

    def claim(self, instance: "Instance") -> None:
        """It is to run: what an earlier daemon held for it is held on."""
        spec = instance.app.spec
        if not has_any(spec):
            return
        self.sockets.claim(instance)
        if has_notify(spec) and (instance.ends is None or instance.ends.notify is None):
            ends = instance.ends = instance.ends or Ends()
            try:
                self._notify(instance, ends)
            except OSError as error:
                instance.warnings.append(f"its NOTIFY_SOCKET is lost: {error.filename}: {error.strerror}")

    def adopt(self, instance: "Instance") -> None:
        """Its process was found alive: go on with what it was born with."""
        spec = instance.app.spec
        if not has_any(spec):
            return
        self.claim(instance)
        ends = instance.ends = instance.ends or Ends()
        fd = self._guard.claim(f"{instance.folder}.ready")
        if fd < 0 and instance.state.status != is_.RUNNING and spec.ready.startswith("fd:") and instance.process:
            fd = _reopen(f"/proc/{instance.process.pid}/fd/{spec.ready[3:]}")
            if fd >= 0:
                self._guard.keep(f"{instance.folder}.ready", fd)
        if fd >= 0:
            self._hear_pipe(instance, ends, fd)
        fd = self._guard.claim(f"{instance.folder}.node")
        if fd >= 0:
            self._hear_channel(instance, ends, fd)
        if ends.notify is not None:
            ends.notify.listen()

    # --- while it runs ---

    def update(self, instance: "Instance") -> None:
        """Its status or its spec has changed."""
        ends = instance.ends
        if ends is None:
            return
        if ends.notify is not None:
            ends.notify.update()
        if ends.ready is not None and instance.state.status != is_.STARTING:
            ends.ready.close()
            ends.ready = None

    def send_shutdown(self, instance: "Instance") -> bool:
        """Whether it was told to end by a message; else a signal has to."""
        ends = instance.ends
        told = instance.app.spec.shutdown_with_message and ends is not None and ends.channel is not None
        return told and ends is not None and ends.channel is not None and ends.channel.send_shutdown()

    def successor(self, instance: "Instance") -> Process | None:
        """The process that goes on in the place of its main one, which has ended: MAINPID of sd_notify(3)."""
        notify = None if instance.ends is None else instance.ends.notify
        if notify is None or instance.state.status not in (is_.STARTING, is_.RUNNING):
            return None
        notify.catch_up()
        main = adopt(*notify.main)
        if main is not None and not main.child:
            # Its parent lives, and would be told of its end instead of us.
            main.close()
            return None
        return main

    def relisten(self, instance: "Instance") -> None:
        if instance.app.sockets:
            self.sockets.relisten(instance.app)

    # --- the end ---

    def put_away(self, instance: "Instance") -> None:
        """It is down."""
        self._end(instance)
        self.sockets.put_away(instance)

    def _end(self, instance: "Instance") -> None:
        if instance.ends is not None:
            self._close_run(instance.ends)
            if instance.ends.notify is not None:
                instance.ends.notify.close()
            instance.ends = None

    def _close_run(self, ends: Ends) -> None:
        """What belonged to one process."""
        if ends.ready is not None:
            ends.ready.close()
        if ends.channel is not None:
            ends.channel.close()
        ends.ready = ends.channel = None


def has_notify(spec: Spec) -> bool:
    return spec.ready == "notify" or spec.watchdog_secs is not None


def has_any(spec: Spec) -> bool:
    return (
        bool(spec.listen) or has_notify(spec) or spec.ready.startswith("fd:") or has_channel(spec) or is_preloaded(spec)
    )


def _reopen(path: str) -> int:
    """A pipe that a process has open, to be read; -1 when that cannot be."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1

"""NOTIFY_SOCKET: what apps tell of themselves by sd_notify(3), and the fds that they leave with us.

Each instance that asks for it has a datagram socket; a message counts when the kernel says that it comes from a process
of that very instance. A copy of the socket is with the guard, so a message to a dead daemon is read by the next one.
"""

import os
import stat
import sys
import time
from _socket import (
    AF_UNIX,
    SCM_CREDENTIALS,
    SCM_RIGHTS,
    SO_PASSCRED,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    socket,
)
from fcntl import fcntl

from oxmgr.lifecycle.events import Event, Extended, Failing, Ready
from oxmgr.model import status as is_
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.process import start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.trees import Trees

BUDGET = 64
"""Messages of one app for a wake-up."""
PAUSE = 0.05
"""Seconds before who has sent more is heard again."""
MESSAGE_LIMIT = 4096
SAVE_AFTER = 0.2
"""Seconds until a STATUS is in the journal: who says one after the other has it written five times a second at most."""
TEXT_LIMIT = 200
"""Characters of a STATUS."""
STORE_MOST = 32
"""Fds that an instance may leave with us."""
STORED = "stored"
"""The name of one that came without (sd_listen_fds_with_names(3))."""
KEPT_LIMIT = 87
"""Bytes of a name with the guard."""
LONGEST = 365 * 24 * 3600.0

_FDS = 253
"""SCM_MAX_FD of the kernel: of one message."""
_INT = 4
_CREDENTIALS = 12
_CONTROL = 4096
_CMSG_CLOEXEC = 0x40000000
_F_DUPFD_QUERY = 1024 + 3
"""Linux 6.10 (include/uapi/linux/fcntl.h)."""


class Shared:
    """What all of them use. `send` is called with what an instance has become, `say` with what users may want to know,
    `save` with one that the journal is to have anew."""

    def __init__(
        self,
        loop: "Loop",
        guard: "Guard",
        trees: "Trees",
        send: "Callable[[Instance, Event], object]",
        say: "Callable[[str], object]",
        save: "Callable[[Instance], object]",
    ) -> None:
        self.loop = loop
        self.guard = guard
        self.trees = trees
        self.send = send
        self.say = say
        self.save = save


class Notify:
    """The socket of an instance: `place` is its NOTIFY_SOCKET, a path or @ and an abstract name. `stored` is what it
    has left with us: (name, fd, its name with the guard) each, `main` the pid of its MAINPID and when that began, in
    clock ticks after boot. What its STATUS was is the instance's `status_text`."""

    def __init__(self, shared: Shared, instance: "Instance", place: str) -> None:
        self.place = place
        self._saved = instance.status_text
        self._save: Timer | None = None
        self.stored: list[tuple[str, int, str]] = []
        self.main = (0, 0)
        self._shared = shared
        self._instance = instance
        self._kept = f"{instance.folder}.notify"
        self._watched = False
        self._told: set[str] = set()
        self._pause: Timer | None = None
        self._watchdog: Timer | None = None
        self._period = 0.0
        self._heard = 0.0
        fd = shared.guard.claim(self._kept)
        self._socket = socket(fileno=fd) if fd >= 0 else self._bind()
        if fd >= 0:
            self.place = _place(self._socket)
        self._claim_stored()

    def _bind(self) -> socket:
        """OSError."""
        made = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
        try:
            made.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
            if self.place.startswith("@"):
                made.bind(f"\0{self.place[1:]}")
            else:
                bind_path(made, self.place, self._instance.app.spec.sandbox.uid)
        except OSError as error:
            made.close()
            raise OSError(error.errno, error.strerror, self.place) from None
        self._shared.guard.keep(self._kept, made.fileno())
        return made

    # --- of one run ---

    def begin(self) -> None:
        """Another process is about to be started; what the last one has said is over."""
        self.stop_listening()
        self._receive()
        self._instance.status_text = self._saved = ""
        self.main = (0, 0)
        self._told.clear()
        self._period = self._instance.app.spec.watchdog_secs or 0.0

    def listen(self) -> None:
        """Its process is known now."""
        if not self._watched:
            self._watched = True
            self._period = self._period or self._instance.app.spec.watchdog_secs or 0.0
            self._shared.loop.add(self._socket.fileno(), READ, self._on_message)

    def stop_listening(self) -> None:
        self._disarm()
        for timer in (self._pause, self._save):
            if timer is not None:
                timer.cancel()
        self._pause = self._save = None
        if self._watched:
            self._watched = False
            self._shared.loop.remove(self._socket.fileno())

    def catch_up(self) -> None:
        """With what it has said, and nobody has heard yet."""
        if self._watched:
            self._receive()

    def update(self) -> None:
        """Its status has changed."""
        if self._instance.state.status != is_.RUNNING:
            self._disarm()
        elif self._period and self._watchdog is None:
            self._arm(time.monotonic())

    def close(self) -> None:
        self.stop_listening()
        self._instance.status_text = ""
        self._shared.guard.forget(self._kept)
        self._socket.close()
        for _, fd, kept in self.stored:
            self._shared.guard.forget(kept)
            os.close(fd)
        self.stored.clear()
        if not self.place.startswith("@"):
            try:
                os.unlink(self.place)
                # A folder of nothing but such sockets goes with the last of them.
                os.rmdir(os.path.dirname(self.place))
            except OSError:
                return

    # --- what comes ---

    def _on_message(self, _: int) -> None:
        if self._receive() < BUDGET:
            return
        loop = self._shared.loop
        self._tell("flood", "sends more to its NOTIFY_SOCKET than is read: it has to wait")
        loop.change(self._socket.fileno(), 0)
        self._pause = loop.at(time.monotonic() + PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._shared.loop.change(self._socket.fileno(), READ)

    def _receive(self) -> int:
        """How many have come, BUDGET at most."""
        for count in range(BUDGET):
            try:
                data, control, _, _ = self._socket.recvmsg(MESSAGE_LIMIT, _CONTROL, _CMSG_CLOEXEC)
            except BlockingIOError:
                return count
            except OSError as error:
                self._tell("read", f"NOTIFY_SOCKET: {error.strerror}")
                return count
            pid, fds = _read_control(control)
            try:
                if self._shared.trees.has(self._instance, pid):
                    self._shared.loop.call(self._take, data, fds)
                else:
                    self._tell("stranger", f"pid {pid}, which is none of its processes, wrote to its NOTIFY_SOCKET")
            finally:
                for fd in fds:
                    os.close(fd)
        return BUDGET

    def _take(self, data: bytes, fds: list[int]) -> None:
        """What is left of `fds` is closed, and with it a BARRIER is answered."""
        self._read(data, fds)
        if self._instance.status_text != self._saved and self._save is None:
            loop = self._shared.loop
            self._save = loop.at(time.monotonic() + SAVE_AFTER, self._on_save)

    def _on_save(self) -> None:
        self._save = None
        self._saved = self._instance.status_text
        self._shared.save(self._instance)

    def _read(self, data: bytes, fds: list[int]) -> None:
        said = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
        instance, send = self._instance, self._shared.send
        if b"STATUS" in said:
            text = said[b"STATUS"].decode(errors="replace")
            instance.status_text = "".join(char for char in text if char.isprintable())[:TEXT_LIMIT]
        if said.get(b"FDSTORE") == b"1":
            self._store(said.get(b"FDNAME", b"").decode(errors="replace"), fds)
        if said.get(b"FDSTOREREMOVE") == b"1":
            self._remove(said.get(b"FDNAME", b"").decode(errors="replace"))
        if b"WATCHDOG_USEC" in said:
            self._set_watchdog(_seconds(said[b"WATCHDOG_USEC"]))
        if said.get(b"WATCHDOG") == b"1":
            self._heard = time.monotonic()
        elif said.get(b"WATCHDOG") == b"trigger":
            send(instance, Failing("it says itself that it does not do its work (WATCHDOG=trigger)"))
        if said.get(b"MAINPID", b"").isdigit():
            self._set_main(int(said[b"MAINPID"][:9]))
        if b"EXTEND_TIMEOUT_USEC" in said:
            send(instance, Extended(_seconds(said[b"EXTEND_TIMEOUT_USEC"])))
        if said.get(b"RELOADING") == b"1":
            instance.status_text = instance.status_text or "reloading"
        if said.get(b"STOPPING") == b"1":
            instance.status_text = instance.status_text or "stopping"
            self._disarm()
            self._period = 0.0
        if said.get(b"READY") == b"1":
            if instance.status_text == "reloading" and b"STATUS" not in said:
                instance.status_text = ""
            send(instance, Ready())

    def _set_main(self, pid: int) -> None:
        if self._shared.trees.has(self._instance, pid):
            self.main = (pid, start_ticks(pid))
        else:
            self._tell("main", f"pid {pid} of its MAINPID is none of its processes")

    def _tell(self, what: str, text: str) -> None:
        """Once in the life of a process."""
        if what not in self._told:
            self._told.add(what)
            self._shared.say(f"{self._instance.name}: {text}")
            self._instance.warnings.append(text)

    # --- the watchdog ---

    def _set_watchdog(self, seconds: float) -> None:
        self._disarm()
        self._period = seconds
        self.update()

    def _arm(self, heard: float) -> None:
        self._heard = heard
        self._watchdog = self._shared.loop.at(heard + self._period, self._look)

    def _disarm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _look(self) -> None:
        """A wake-up a period at most, however often it says that it lives."""
        self._watchdog = None
        # What has come in this very turn of the loop counts.
        self._receive()
        if self._period and self._instance.state.status == is_.RUNNING and self._watchdog is None:
            if time.monotonic() < self._heard + self._period:
                self._arm(self._heard)
            else:
                why = f"no WATCHDOG=1 for {self._period:g} s"
                self._shared.send(self._instance, Failing(why))

    # --- fds that it leaves with us ---

    def _store(self, name: str, fds: list[int]) -> None:
        """Takes them out of the list."""
        name = name or STORED
        while fds:
            if not self._has_stored(name, fds[0]):
                kept = self._free_name(name)
                if not kept:
                    return
                self._shared.guard.keep(kept, fds[0])
                self.stored.append((name, fds.pop(0), kept))
            else:
                os.close(fds.pop(0))

    def _has_stored(self, name: str, fd: int) -> bool:
        return any(one == name and _is_same(fd, other) for one, other, _ in self.stored)

    def _free_name(self, name: str) -> str:
        """With the guard; "" when there is none."""
        taken = {kept.partition("=")[0] for _, _, kept in self.stored}
        for number in range(STORE_MOST):
            place = f"{self._instance.folder}.fd{number}"
            if place not in taken:
                kept = f"{place}={name}"
                if name.isascii() and name.isprintable() and ":" not in name and len(kept) <= KEPT_LIMIT:
                    return kept
                self._tell(
                    "name", f"a file descriptor that it wanted to leave is not kept: {name[:40]!r} cannot be its name"
                )
                return ""
        self._tell("store", f"a file descriptor that it wanted to leave is not kept: {STORE_MOST} are the most")
        return ""

    def _remove(self, name: str) -> None:
        for one in [one for one in self.stored if one[0] == name]:
            self.stored.remove(one)
            self._shared.guard.forget(one[2])
            os.close(one[1])

    def _claim_stored(self) -> None:
        prefix = f"{self._instance.folder}.fd"
        for kept in [kept for kept in self._shared.guard.kept if kept.startswith(prefix) and "=" in kept]:
            self.stored.append((kept.partition("=")[2], self._shared.guard.claim(kept), kept))


def _place(made: socket) -> str:
    """Where it is bound."""
    name = made.getsockname()
    return name if isinstance(name, str) else f"@{os.fsdecode(name[1:])}"


def bind_path(made: socket, path: str, owner: int) -> None:
    """Only its user can write to it. OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    made.bind(path)
    os.chmod(path, 0o600)
    if owner >= 0:
        os.chown(path, owner, -1, follow_symlinks=False)


def _is_same(fd: int, other: int) -> bool:
    """Whether both are of one open file. Where the kernel cannot tell, whether they are of one inode; those that have
    no file type (eventfd(2), timerfd_create(2), epoll(7)) share theirs."""
    try:
        return bool(fcntl(fd, _F_DUPFD_QUERY, other))
    except OSError:
        found = os.fstat(fd)
        return stat.S_IFMT(found.st_mode) != 0 and os.path.samestat(found, os.fstat(other))


def _read_control(control: "list[tuple[int, int, bytes]]") -> tuple[int, list[int]]:
    """The sender's pid, and the fds that are ours from now on."""
    pid, fds = 0, []
    for level, kind, data in control:
        if level == SOL_SOCKET and kind == SCM_CREDENTIALS and len(data) >= _CREDENTIALS:
            pid = int.from_bytes(data[:_INT], sys.byteorder)
        elif level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds += [int.from_bytes(data[at : at + _INT], sys.byteorder) for at in range(0, len(data) - 3, _INT)]
    return pid, fds


def _seconds(text: bytes) -> float:
    """Of microseconds; 0 for what is no number."""
    return min(int(text[:18]) / 1e6, LONGEST) if text.isdigit() else 0.0

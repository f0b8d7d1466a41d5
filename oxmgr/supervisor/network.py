"""Network namespaces: private ones, each made in a helper, which raises its loopback, and kept open here as an fd; and
our own, whose loopback may be down.

The helper is another process because what speaks netlink is large, and because it takes its time.
"""

import os
import time
from _socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket
from fcntl import ioctl

from oxmgr.model.capabilities import capability_mask
from oxmgr.supervisor import native
from oxmgr.supervisor.helper import end_helper, start_helper
from oxmgr.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.loop import Loop, Timer

HELPER = "network"
PATIENCE = 60.0
_SIOCGIFFLAGS, _IFF_UP, _NAME_SIZE = 0x8913, 1, 16


def network_of(pid: int) -> int:
    """An fd of the network namespace that a process is in, or -1."""
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def is_loopback_down() -> bool:
    """Of our namespace, where we may raise it: a fresh one has it down (network_namespaces(7))."""
    try:
        asked = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            # struct ifreq of netdevice(7): a name, then the flags.
            found = ioctl(asked.fileno(), _SIOCGIFFLAGS, b"lo".ljust(40, b"\0"))
        finally:
            asked.close()
        with open("/proc/self/status", "rb") as file:
            held = next(int(line.split()[1], 16) for line in file if line.startswith(b"CapEff"))
    except OSError:
        return False
    return not found[_NAME_SIZE] & _IFF_UP and bool(held & capability_mask(["CAP_NET_ADMIN"]))


class Networks:
    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._making: set[_Making] = set()

    def make(self, done: "Callable[[int, str], None]") -> None:
        """Call `done` with an fd of a network namespace that has nothing but a loopback; or with -1 and why not."""
        self._begin(native.OWN_NETWORK, done)

    def raise_loopback(self, done: "Callable[[str], None]") -> None:
        """Of our own namespace; call `done` with "", or with why it cannot be."""

        def raised(fd: int, why: str) -> None:
            if fd >= 0:
                os.close(fd)
            done(why)

        self._begin(-1, raised)

    def _begin(self, network: int, done: "Callable[[int, str], None]") -> None:
        def made(fd: int, why: str) -> None:
            self._making.discard(making)
            done(fd, why)

        try:
            making = _Making(self._loop, made, network)
        except OSError as error:
            why = error.strerror or str(error)
            self._loop.at(0.0, lambda: done(-1, why))
            return
        self._making.add(making)

    def end(self) -> None:
        """The daemon ends, and no helper outlives it."""
        for making in list(self._making):
            making.end(-1, "the daemon ends")


class _Making:
    def __init__(self, loop: "Loop", done: "Callable[[int, str], None]", network: int) -> None:
        self._loop = loop
        self._done = done
        reading, told = os.pipe2(os.O_CLOEXEC)
        held, self._hold = os.pipe2(os.O_CLOEXEC)
        self._reading = reading
        self._said = b""
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._pid, self._pidfd = start_helper(HELPER, [], [held, told, null], network=network)
        except OSError:
            os.close(reading)
            os.close(self._hold)
            raise
        finally:
            for fd in (told, held, null):
                os.close(fd)
        loop.add(reading, READ, self._on_said)
        self._timer: Timer = loop.at(time.monotonic() + PATIENCE, lambda: self.end(-1, "its helper does not answer"))

    def _on_said(self, _: int) -> None:
        data = os.read(self._reading, 4096)
        self._said += data
        if self._said == b"ok\n":
            fd = network_of(self._pid)
            self.end(fd, "" if fd >= 0 else "its helper cannot be looked into")
        elif not data or len(self._said) > 4096:
            self.end(-1, self._said.decode(errors="replace").strip() or "its helper ended without a word")

    def end(self, fd: int, why: str) -> None:
        self._timer.cancel()
        self._loop.remove(self._reading)
        os.close(self._reading)
        # The end of its input, at which it ends; with a pidfd it need not even be waited for.
        os.close(self._hold)
        end_helper(self._pidfd)
        self._done(fd, why)

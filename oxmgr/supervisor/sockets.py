"""The sockets of `listen`: bound once, held over restarts, crashes and takeovers, and given to every instance. Nobody
else binds or closes one.

A copy of each is with the guard. Where that is dead as well, the living app has one (pidfd_getfd(2)).
"""

import errno
import os
import stat
from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_ACCEPTCONN,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from binascii import crc32

from oxmgr.model import status as is_
from oxmgr.model.listen import ANY, ANY_IPV4, UDP, UNIX, Address, meet, read_address
from oxmgr.supervisor import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oxmgr.model.spec import Spec
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import App, Instance

SHARED = -1
"""In the place of an instance's number: of all of them."""


class Taken(Exception):
    """Somebody else has that address."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"{address.place} is taken")
        self.address = address


class Refused(Exception):
    """It cannot be bound; the text says what and why."""


class Held:
    """One that is held: `kept` is its name with the guard, `inode` is the socket's (as of /proc/PID/fd), `file` is the
    (device, inode) of a unix socket's path."""

    __slots__ = ("fd", "file", "inode", "kept", "path")

    def __init__(self, fd: int, kept: str, path: str) -> None:
        self.fd = fd
        self.kept = kept
        self.path = path
        self.inode = os.fstat(fd).st_ino
        self.file = _file(path)


class Sockets:
    """`pids` gives the processes of an instance."""

    def __init__(self, guard: "Guard", pids: "Callable[[Instance], list[int]]") -> None:
        self._guard = guard
        self._pids = pids

    def open(self, instance: "Instance") -> "list[Held]":
        """Those of an instance, in the order of its spec; what is not held yet is bound, what its spec does not name
        any more is closed. Taken or Refused: nothing has been bound then."""
        app, spec = instance.app, instance.app.spec
        self._close(app, [key for key in app.sockets or () if not _is_named(key, spec)])
        held = app.sockets or {}
        wanted = _wanted(spec, instance.index)
        fresh: dict[tuple[str, int], Held] = {}
        try:
            for key, address in wanted.items():
                if key not in held:
                    fresh[key] = self._get(instance, key, address)
        except (Taken, Refused):
            for one in fresh.values():
                self._let_go(one)
            raise
        if fresh:
            app.sockets = held = {**held, **fresh}
        return [held[key] for key in wanted]

    def claim(self, instance: "Instance") -> None:
        """Take over what an earlier daemon held for it; nothing is bound."""
        app = instance.app
        for key, address in _wanted(app.spec, instance.index).items():
            if key not in (app.sockets or {}):
                found = self._find(instance, key, address)
                if found is not None:
                    app.sockets = {**(app.sockets or {}), key: found}

    def relisten(self, app: "App") -> None:
        """With another backlog."""
        for text, held in ((key[0], held) for key, held in (app.sockets or {}).items()):
            if not text.startswith("udp:"):
                _listen(held.fd, app.spec.backlog)

    def put_away(self, instance: "Instance") -> None:
        """It is down: so those of its number go, and those of all its app when nobody of it is up or about to be."""
        app = instance.app
        if app.sockets:
            in_use = {number for number, one in app.instances.items() if _has_use(one)}
            idle = {SHARED, instance.index} if not in_use else {instance.index} - in_use
            self._close(app, [key for key in app.sockets if key[1] in idle])

    def inodes(self, instance: "Instance") -> set[int]:
        """Of those that it was given."""
        held = (instance.app.sockets or {}).items()
        return {one.inode for (_, owner), one in held if owner in (SHARED, instance.index)}

    # --- one socket ---

    def _get(self, instance: "Instance", key: tuple[str, int], address: Address) -> Held:
        found = self._find(instance, key, address)
        return found or self._keep(_bind(address, instance.app.spec), _kept_name(instance.app, key), address)

    def _find(self, instance: "Instance", key: tuple[str, int], address: Address) -> Held | None:
        """With the guard, or with a process of its own."""
        name = _kept_name(instance.app, key)
        fd = self._guard.claim(name)
        if fd >= 0 and _is(fd, address):
            return Held(fd, name, address.path)
        if fd >= 0:
            self._guard.forget(name)
            os.close(fd)
        fd = _salvage(self._pids(instance), address) if instance.process is not None else -1
        return self._keep(fd, name, address) if fd >= 0 else None

    def _keep(self, fd: int, name: str, address: Address) -> Held:
        self._guard.keep(name, fd)
        return Held(fd, name, address.path)

    def _close(self, app: "App", keys: list[tuple[str, int]]) -> None:
        if keys:
            held = dict(app.sockets or {})
            for key in keys:
                self._let_go(held.pop(key))
            app.sockets = held or None

    def _let_go(self, one: Held) -> None:
        self._guard.forget(one.kept)
        os.close(one.fd)
        # Somebody else may have put another there meanwhile.
        if one.file is not None and _file(one.path) == one.file:
            try:
                os.unlink(one.path)
            except OSError:
                return


def addresses(spec: "Spec") -> list[Address]:
    return [read_address(text) for text in spec.listen]


def owner_of(address: Address, apps: "Iterable[App]") -> str:
    """The app that something is held for which stands in the way of that address, or ""."""
    for app in apps:
        if any(meet(address, read_address(place)) for place, _ in app.sockets or ()):
            return f"the app {app.spec.name}"
    return ""


def held_places(instance: "Instance") -> list[str]:
    """The addresses that are held for it."""
    return [place for place, owner in instance.app.sockets or () if owner in (SHARED, instance.index)]


def _wanted(spec: "Spec", index: int) -> dict[tuple[str, int], Address]:
    owner = index if spec.reuse_port else SHARED
    return {(one.place, owner): one for one in addresses(spec)}


def _is_named(key: tuple[str, int], spec: "Spec") -> bool:
    return (key[1] != SHARED) == spec.reuse_port and any(one.place == key[0] for one in addresses(spec))


def _has_use(instance: "Instance") -> bool:
    state = instance.state
    return not instance.down or (state.status == is_.STOPPED and state.desired)


def _kept_name(app: "App", key: tuple[str, int]) -> str:
    """At most 64 + 5 + 16 bytes."""
    place, owner = key
    number = "" if owner == SHARED else f":{owner}"
    return f"{app.spec.name}{number}.listen.{crc32(os.fsencode(place)):08x}"


def _file(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


# --- of the kernel ---


def _bind(address: Address, spec: "Spec") -> int:
    """The fd of a new socket that listens there. It is a blocking one, as sd_listen_fds(3) has it."""
    try:
        if address.kind == UNIX:
            return _bind_unix(address, spec)
        try:
            return _bind_port(address, address.host, spec)
        except OSError as error:
            # A host without IPv6.
            if address.host != ANY or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bind_port(address, ANY_IPV4, spec)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Taken(address) from None
        why = error.strerror or str(error)
        if error.errno == errno.EACCES and address.kind != UNIX:
            why = "a port below 1024 needs a daemon with root's rights"
        if error.errno == errno.EADDRNOTAVAIL:
            why = "this host has no such address"
        raise Refused(f"listen at {address.place}: {why}") from None


def _bind_port(address: Address, host: str, spec: "Spec") -> int:
    kind = SOCK_DGRAM if address.kind == UDP else SOCK_STREAM
    made = socket(AF_INET6 if ":" in host else AF_INET, kind | SOCK_CLOEXEC)
    try:
        if kind == SOCK_STREAM:
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        if spec.reuse_port:
            made.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
        if ":" in host:
            beside = [one.host for one in addresses(spec) if (one.kind, one.port) == (address.kind, address.port)]
            made.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, int(host != ANY or ANY_IPV4 in beside))
        made.bind((host, address.port))
        if kind == SOCK_STREAM:
            made.listen(spec.backlog)
    except OSError:
        made.close()
        raise
    return int(made.detach())


def _bind_unix(address: Address, spec: "Spec") -> int:
    """Whoever may connect is decided before it listens. What a dead process has left there is removed."""
    made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        if _file(address.path) is not None and not _answers(address.path):
            os.unlink(address.path)
        made.bind(address.path)
        uid = spec.socket_uid if spec.socket_uid >= 0 else spec.sandbox.uid
        gid = spec.socket_gid if spec.socket_gid >= 0 else spec.sandbox.gid
        if uid >= 0 or gid >= 0:
            os.chown(address.path, uid, gid)
        os.chmod(address.path, spec.socket_mode)
        made.listen(spec.backlog)
    except OSError:
        made.close()
        raise
    return int(made.detach())


def _answers(path: str) -> bool:
    asking = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        asking.connect(path)
    except OSError as error:
        # EAGAIN: its queue is full (unix(7)).
        return error.errno == errno.EAGAIN
    finally:
        asking.close()
    return True


def _is(fd: int, address: Address) -> bool:
    """Whether an fd is a socket that listens there."""
    try:
        one = socket(fileno=fd)
    except OSError:
        return False
    try:
        name, kind = one.getsockname(), one.type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)
        listens = kind == SOCK_DGRAM or one.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)
        if not listens or kind != (SOCK_DGRAM if address.kind == UDP else SOCK_STREAM):
            return False
        if one.family == AF_UNIX:
            return address.kind == UNIX and name == address.path
        hosts = (ANY, ANY_IPV4) if address.host == ANY else (address.host,)
        return one.family in (AF_INET, AF_INET6) and name[0] in hosts and name[1] == address.port
    except OSError:
        return False
    finally:
        one.detach()


def _listen(fd: int, backlog: int) -> None:
    one = socket(fileno=fd)
    try:
        one.listen(backlog)
    finally:
        one.detach()


def _salvage(pids: list[int], address: Address) -> int:
    """A copy of the one that a process has open; -1 without."""
    for pid, number in _open_sockets(pids):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            fd = native.pidfd_getfd(pidfd, number)
        except OSError:
            continue
        finally:
            os.close(pidfd)
        if _is(fd, address):
            return fd
        os.close(fd)
    return -1


def _open_sockets(pids: list[int]) -> "Iterator[tuple[int, int]]":
    for pid in pids:
        try:
            names = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
        except OSError:
            continue
        for number in names:
            try:
                if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                    yield pid, number
            except OSError:
                continue

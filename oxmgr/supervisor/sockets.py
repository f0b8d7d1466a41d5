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

    @property
    def is_there(self) -> bool:
        """Whether its path still leads to it."""
        return self.file is None or _file(self.path) == self.file


class Sockets:
    """`pids` gives the processes of an instance."""

    def __init__(self, guard: "Guard", pids: "Callable[[Instance], list[int]]") -> None:
        self.extras: Callable[[App], list[Instance]] = lambda app: []
        """Those of an app that were replaced, or are to replace one."""
        self._guard = guard
        self._pids = pids

    def open(self, instance: "Instance") -> "list[Held]":
        """Those of an instance, in the order of its spec; what is not held yet is bound. Taken or Refused: nothing has
        been bound then."""
        app, spec = instance.app, instance.app.spec
        self._trim(app)
        wanted = _wanted(spec, instance.index)
        # A unix socket that nobody finds any more is none.
        self._close(app, self._lost(instance))
        held = app.sockets or {}
        fresh: dict[tuple[str, int], Held] = {}
        try:
            for key, address in wanted.items():
                if key not in held:
                    fresh[key] = self._get(instance, key, address)
                elif address.kind == UNIX:
                    _set_rights(address, spec, held[key].file)
        except (Taken, Refused, OSError):
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
        """It is down."""
        self._trim(instance.app)

    def _trim(self, app: "App") -> None:
        """Close what nobody of it has who is up or about to be: who is up has those of the spec that it was started
        by."""
        if not app.sockets:
            return
        used: set[tuple[str, int]] = set()
        for one in (*app.instances.values(), *self.extras(app)):
            if _has_use(one):
                spec = one.born if one.state.pid else app.spec
                if spec is None:
                    return
                used.update(_wanted(spec, one.index))
        self._close(app, [key for key in app.sockets if key not in used])

    def lost(self, instance: "Instance") -> list[str]:
        """The places of those that are held for it, and have no file any more."""
        return [place for place, _ in self._lost(instance)]

    def _lost(self, instance: "Instance") -> list[tuple[str, int]]:
        held = instance.app.sockets or {}
        return [key for key in _wanted(instance.app.spec, instance.index) if key in held and not held[key].is_there]

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
        if one.file is not None and one.is_there:
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
        if _file(address.path) is not None:
            if _is_dead(address.path):
                os.unlink(address.path)
        elif os.path.lexists(address.path):
            raise Refused(f"listen at {address.place}: there is a file that is no socket: remove it")
        # The mode of its file (unix_bind_bsd, net/unix/af_unix.c): nobody's until it is decided whose.
        os.fchmod(made.fileno(), 0)
        made.bind(address.path)
        file = _file(address.path)
        try:
            _set_rights(address, spec)
            made.listen(spec.backlog)
        except (OSError, Refused):
            if file is not None and _file(address.path) == file:
                os.unlink(address.path)
            raise
    except (OSError, Refused):
        made.close()
        raise
    return int(made.detach())


def _set_rights(address: Address, spec: "Spec", file: tuple[int, int] | None = None) -> None:
    """By an fd of the file itself, that file or one that was just made: its folder may be somebody's who would like to
    have another one given to him."""
    uid = spec.socket_uid if spec.socket_uid >= 0 else spec.sandbox.uid
    gid = spec.socket_gid if spec.socket_gid >= 0 else spec.sandbox.gid
    fd = os.open(address.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        is_ours = found.st_uid == os.geteuid() if file is None else (found.st_dev, found.st_ino) == file
        if not (is_ours and stat.S_ISSOCK(found.st_mode)):
            raise Refused(f"listen at {address.place}: somebody has put another file there meanwhile")
        path = f"/proc/self/fd/{fd}"
        if (uid >= 0 and found.st_uid != uid) or (gid >= 0 and found.st_gid != gid):
            os.chown(path, uid, gid)
        if stat.S_IMODE(found.st_mode) != spec.socket_mode:
            os.chmod(path, spec.socket_mode)
    finally:
        os.close(fd)


def _is_dead(path: str) -> bool:
    """Whether nobody listens at a unix socket, of whatever kind (unix(7))."""
    asking = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        asking.connect(path)
    except OSError as error:
        return error.errno == errno.ECONNREFUSED
    finally:
        asking.close()
    return False


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

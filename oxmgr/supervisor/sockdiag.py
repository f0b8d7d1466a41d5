"""What the kernel says of the sockets of our network: asked by netlink for the very one, sock_diag(7) and
include/uapi/linux/inet_diag.h, or where that is refused, read from proc(5), /proc/net/tcp. Waits for nothing."""

import os
import sys
from _socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_RAW,
    SOCK_STREAM,
    inet_pton,
    socket,
)
from errno import EINVAL, ENOENT

from oxmgr.supervisor import owners
from oxmgr.supervisor.owners import LISTEN, Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    End = tuple[str, int]

BY_KERNEL = "each is asked of the kernel (sock_diag)"
BY_PROC = "read from /proc/net/tcp, for {}: a probe costs the more, the more connections the host has"

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_TCP = 6
_HEAD = 16
"""Bytes of struct nlmsghdr."""
_ANY_STATE = 0xFFF
_NO_COOKIE = b"\xff" * 8
_ROOM = 64 * 1024


class SockDiag:
    """Its netlink socket is opened with the first question. `refused` is why there is none, or ""."""

    def __init__(self) -> None:
        self.refused = ""
        self._socket: socket | None = None
        self._serial = 0

    def rung(self) -> str:
        """How it is found out, as words."""
        return BY_KERNEL if self._is_open() else BY_PROC.format(self.refused or "there are no file descriptors left")

    def connection(self, local: "End", remote: "End") -> Found | None:
        """The socket that has these ends; None when there is none in our network, or not any more."""
        asked, found = self._look_up(local, remote)
        if not asked:
            return owners.connection(local, remote)
        # Without one, the kernel gives the one that listens there.
        return found if found is not None and found.state != LISTEN else None

    def takers(self, local: "End", remote: "End") -> list[Found]:
        """The socket that would take a connection to `local` from `remote`, were it made now; where that cannot be
        told, all that might."""
        asked, found = self._look_up(local, remote)
        if not asked:
            return owners.takers(local)
        return [found] if found is not None and found.state == LISTEN else []

    def _look_up(self, local: "End", remote: "End") -> tuple[bool, Found | None]:
        """Whether the kernel has answered, and what."""
        if self._is_open():
            try:
                return True, self._get(local, remote)
            except OSError:
                pass
        return False, None

    def beside(self, taker: Found) -> list[int]:
        """The inodes of all that listen at that very address, itself among them (SO_REUSEPORT)."""
        if self._is_open():
            try:
                rows = self._dump(_of_inet(taker.family, taker.port, 0, bytes(32), 1 << LISTEN))
                return [row.inode for row in map(_found, rows) if row.host == taker.host]
            except OSError:
                pass
        return [row.inode for row in owners.listening() if (row.host, row.port) == (taker.host, taker.port)]

    def listening(self, pid: int) -> list[int]:
        """The inodes of all that listen in the network of a process, TCP and unix."""
        if _is_in_ours(pid) and self._is_open():
            try:
                inodes: list[int] = []
                for family in (AF_INET, AF_INET6):
                    rows = self._dump(_of_inet(family, 0, 0, bytes(32), 1 << LISTEN))
                    inodes += [_found(row).inode for row in rows]
                return inodes + [_number(row, 4) for row in self._dump(_of_unix(1 << LISTEN))]
            except OSError:
                pass
        return [*(row.inode for row in owners.listening(pid)), *owners.unix_listeners(pid)]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- netlink(7) ---

    def _is_open(self) -> bool:
        if self._socket is not None or self.refused:
            return self._socket is not None
        try:
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
            self._try()
        except OSError as error:
            self.close()
            if error.errno not in owners.SHORT:
                self.refused = error.strerror or str(error)
        return self._socket is not None

    def _try(self) -> None:
        """It must find a socket of ours: without its module the kernel says of each that there is none. OSError."""
        known = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            known.bind(("127.0.0.1", 0))
            known.listen(1)
            found = self._get(known.getsockname(), ("127.0.0.1", 1))
            if found is None or found.inode != os.fstat(known.fileno()).st_ino:
                raise OSError(ENOENT, "the kernel has no tcp_diag")
        finally:
            known.close()

    def _get(self, local: "End", remote: "End") -> Found | None:
        family = AF_INET6 if ":" in local[0] else AF_INET
        hosts = b"".join(inet_pton(family, end[0]).ljust(16, b"\0") for end in (local, remote))
        try:
            for payload in self._ask(_of_inet(family, local[1], remote[1], hosts, _ANY_STATE), 0):
                return _found(payload)
        except OSError as error:
            if error.errno != ENOENT:
                raise
        return None

    def _dump(self, body: bytes) -> "list[bytes]":
        return list(self._ask(body, _DUMP))

    def _ask(self, body: bytes, flags: int) -> "Iterator[bytes]":
        """What comes for a request, piece by piece. OSError, as the kernel has it."""
        assert self._socket is not None
        self._serial = self._serial % 0xFFFFFFFF + 1
        head = [(_HEAD + len(body), 4), (_SOCK_DIAG_BY_FAMILY, 2), (_REQUEST | flags, 2), (self._serial, 4), (0, 4)]
        self._socket.send(b"".join(value.to_bytes(size, sys.byteorder) for value, size in head) + body)
        while True:
            # It is there already: the kernel answers while it takes the request.
            data = self._socket.recv(_ROOM)
            at = 0
            while at + _HEAD <= len(data):
                size, kind = _number(data, at), _number(data, at + 4, 2)
                payload, serial = data[at + _HEAD : at + size], _number(data, at + 8)
                at += max(_HEAD, size + 3 & ~3)
                if serial != self._serial:
                    continue  # of a request that was given up
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    error = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                    raise OSError(error, os.strerror(error))
                if kind != _SOCK_DIAG_BY_FAMILY:
                    raise OSError(EINVAL, "the kernel answers something else")
                yield payload
                if not flags:
                    return


def _of_inet(family: int, port: int, remote: int, hosts: bytes, states: int) -> bytes:
    """struct inet_diag_req_v2; `hosts` are 16 bytes each, the socket's own first. A port of 0 is any."""
    sockid = port.to_bytes(2, "big") + remote.to_bytes(2, "big") + hosts + bytes(4) + _NO_COOKIE
    return bytes((family, _TCP, 0, 0)) + states.to_bytes(4, sys.byteorder) + sockid


def _of_unix(states: int) -> bytes:
    """struct unix_diag_req."""
    return bytes((AF_UNIX, 0, 0, 0)) + states.to_bytes(4, sys.byteorder) + bytes(8) + _NO_COOKIE


def _found(payload: bytes) -> Found:
    """From struct inet_diag_msg."""
    return Found(payload[0], payload[1], payload[8:24], int.from_bytes(payload[4:6], "big"), _number(payload, 68))


def _number(data: bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], sys.byteorder)


def _is_in_ours(pid: int) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), os.stat("/proc/self/ns/net"))
    except OSError:
        return False

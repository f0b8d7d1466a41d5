"""Asks the kernel about TCP sockets of our own network (sock_diag(7), linux/inet_diag.h): it finds one by its addresses
without looking at the others."""

import os
import sys
from _socket import AF_INET, AF_INET6, AF_NETLINK, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW, inet_pton, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = tuple[str, int]

LISTENING = 10
"""TCP_LISTEN of the kernel's net/tcp_states.h."""
_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST, _DUMP = 1, 0x300
_ERROR, _DONE = 2, 3
_TCP = 6
_HEAD = 16
_NO_COOKIE = b"\xff" * 8
_INODE = 68
"""Where struct inet_diag_msg has it; its second byte is the state."""
_ROOM = 65536


def find(local: "Address", remote: "Address") -> "tuple[int, int]":
    """State and inode of the socket with these two addresses, or of the one that listens at the first; an inode of 0:
    nobody has it yet. (0, 0) when there is none. OSError when the kernel does not tell."""
    family = AF_INET6 if ":" in local[0] else AF_INET
    ends = _port(local) + _port(remote) + _host(family, local) + _host(family, remote)
    try:
        return _ask(family, 0, 0xFFFFFFFF, ends)[0]
    except FileNotFoundError:
        return 0, 0


def listening(port: int) -> "list[tuple[int, int]]":
    """The same of all that listen at that port. OSError."""
    ends = _port(("", port)) + bytes(2 + 32)
    return [one for family in (AF_INET, AF_INET6) for one in _ask(family, _DUMP, 1 << LISTENING, ends)]


def _ask(family: int, flags: int, states: int, ends: bytes) -> "list[tuple[int, int]]":
    body = bytes((family, _TCP, 0, 0)) + _word(states) + ends + bytes(4) + _NO_COOKIE
    head = _word(_HEAD + len(body)) + _half(_BY_FAMILY) + _half(_REQUEST | flags) + bytes(8)
    asking = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _SOCK_DIAG)
    found: list[tuple[int, int]] = []
    try:
        asking.send(head + body)
        more = True
        while more:
            # Answered before the question has returned, and then as it is read: there is nothing to wait for.
            more = _read(asking.recv(_ROOM, MSG_DONTWAIT), found) and bool(flags)
    finally:
        asking.close()
    return found


def _read(data: bytes, found: "list[tuple[int, int]]") -> bool:
    """Whether there may be more. OSError."""
    while len(data) >= _HEAD:
        size, kind = _number(data[:4]), _number(data[4:6])
        message, data = data[_HEAD:size], data[(size + 3) & ~3 :]
        if kind == _DONE:
            return False
        if kind == _ERROR:
            number = -int.from_bytes(message[:4], sys.byteorder, signed=True)
            raise OSError(number, os.strerror(number))
        found.append((message[1], _number(message[_INODE : _INODE + 4])))
    return True


def _word(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _half(number: int) -> bytes:
    return number.to_bytes(2, sys.byteorder)


def _number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


def _port(address: "Address") -> bytes:
    return address[1].to_bytes(2, "big")


def _host(family: int, address: "Address") -> bytes:
    return inet_pton(family, address[0]).ljust(16, b"\0")

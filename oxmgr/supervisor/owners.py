"""Whose sockets are whose, by their inodes: what proc(5) has of it, /proc/net/tcp, /proc/net/unix, /proc/PID/fd.

What cannot be read is not there; but an OSError of SHORT goes to who asks.
"""

import errno
import os
import sys
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from oxmgr.model.codec import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    End = tuple[str, int]
    """A host and a port."""
    Row = tuple[End, End, int, int]
    """Local address, remote address, state, inode."""

ESTABLISHED, SYN_RECV, LISTEN = 1, 3, 10
"""include/net/tcp_states.h. In SYN_RECV the kernel waits for more before it lets anybody accept."""
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)
"""What there is not enough of is ours, which says nothing of anybody else."""
NO_FAULT = "through no fault of its own: "
"""Before what is wrong for one of these reasons."""
_BLOCK = 64 * 1024
_LINE = 512
"""Bytes that no line has."""
_MAPPED = bytes(10) + b"\xff\xff"
"""Before the IPv4 address of an IPv6 socket."""


class Found(Struct, frozen=True, gc=False):
    """A socket: `host` has 16 bytes, that of an IPv4 socket is the first 4. `inode` is 0 when nobody has it: it was not
    accepted yet, or is closed."""

    family: int
    state: int
    host: bytes
    port: int
    inode: int


def connection(local: "End", remote: "End") -> Found | None:
    """The socket of our network that has these ends."""
    for family, name in ((AF_INET, "tcp"), (AF_INET6, "tcp6")):
        one, other = _text(local, family), _text(remote, family)
        line = _line_with(f"/proc/self/net/{name}", b" %b %b " % (one, other)) if one and other else b""
        if line:
            return _found(line.split(), family)
    return None


def takers(local: "End") -> list[Found]:
    """All that might take a connection to it: that listen at this very address, or else at any."""
    family = AF_INET6 if ":" in local[0] else AF_INET
    host = inet_pton(family, local[0])
    there = [row for row in listening() if row.port == local[1]]
    exact = [row for row in there if row.host.startswith(host) or row.host == _MAPPED + host]
    # Whether one at any IPv6 address takes IPv4 as well cannot be told by these files.
    return exact or [row for row in there if not any(row.host) and row.family in (family, AF_INET6)]


def listening(pid: int = 0) -> list[Found]:
    """The TCP sockets that listen in the network of a process, or in ours."""
    found: list[Found] = []
    for family, name in ((AF_INET, "tcp"), (AF_INET6, "tcp6")):
        for words in _lines(f"/proc/{pid or 'self'}/net/{name}"):
            row = _found(words, family)
            if row.state != LISTEN:
                break  # those that listen come first
            found.append(row)
    return found


def unix_listeners(pid: int) -> set[int]:
    """The inodes of unix sockets that listen in the network of a process: flag __SO_ACCEPTCON of /proc/net/unix."""
    found: set[int] = set()
    for words in _lines(f"/proc/{pid}/net/unix"):
        if len(words) >= 7 and int(words[3], 16) & 0x10000:
            found.add(int(words[6]))
    return found


def inodes(pids: "list[int]") -> set[int]:
    """Of all sockets that these have open, as far as that may be looked at."""
    found: set[int] = set()
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found


def rows(pid: int, kind: str = "tcp") -> "Iterator[Row]":
    """The sockets of a process's network, of `tcp` or `udp`, IPv4 and IPv6."""
    for name in (kind, f"{kind}6"):
        for words in _lines(f"/proc/{pid}/net/{name}"):
            if len(words) >= 10:
                yield _address(words[1]), _address(words[2]), int(words[3], 16), int(words[9])


def _lines(path: str) -> "Iterator[list[bytes]]":
    try:
        with open(path, "rb") as file:
            file.readline()
            for line in file:
                yield line.split()
    except OSError as error:
        if error.errno in SHORT:
            raise


def _line_with(path: str, words: bytes) -> bytes:
    """The rest of a line from there on; no other is taken apart."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORT:
            raise
        return b""
    rest = b""
    try:
        while block := os.read(file, _BLOCK):
            data = rest + block
            at = data.find(words)
            if at >= 0:
                # The number of the line, which goes before, for the words to have their places.
                return b"0: " + (data[at:] + os.read(file, _LINE)).partition(b"\n")[0]
            rest = data[-_LINE:]
    finally:
        os.close(file)
    return b""


def _found(words: list[bytes], family: int) -> Found:
    digits, _, port = words[1].partition(b":")
    return Found(family, int(words[3], 16), _raw(digits).ljust(16, b"\0"), int(port, 16), int(words[9]))


def _text(end: "End", family: int) -> bytes:
    """How a socket of that family has it there; nothing when none can."""
    own = AF_INET6 if ":" in end[0] else AF_INET
    raw = inet_pton(own, end[0])
    if own != family:
        if own == AF_INET6:
            return b""
        raw = _MAPPED + raw
    words = (int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4))
    return "".join(f"{word:08X}" for word in words).encode() + b":%04X" % end[1]


def _raw(digits: bytes) -> bytes:
    """From words of 32 bits in the host's order, as hexadecimal digits."""
    return b"".join(int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8))


def _address(text: bytes) -> tuple[str, int]:
    digits, _, port = text.partition(b":")
    raw = _raw(digits)
    host = inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)
    return host.removeprefix("::ffff:") if "." in host else host, int(port, 16)

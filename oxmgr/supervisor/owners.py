"""Who listens at a port, and who has answered a connection: by the inodes of sockets.

The kernel looks them up (sock_diag(7)). Where it may not be asked, and in the network of another process, all of
/proc/net/tcp is read (proc(5)), which takes the longer the more connections there are.
"""

import os
import sys
from _socket import AF_INET, AF_INET6, inet_ntop

from oxmgr.supervisor import diag

LISTEN = b"0A"
ESTABLISHED = b"01"
_ANY = ("0.0.0.0", "::")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Row = tuple[tuple[str, int], tuple[str, int], bytes, int]
"""Local address, remote address, state, inode (0: nobody has it yet)."""


def port_listeners(port: int) -> set[int]:
    """The inodes of TCP sockets that listen at that port in our own network."""
    try:
        return {inode for state, inode in diag.listening(port) if inode}
    except OSError:
        return listeners(os.getpid(), port)


def listeners(pid: int, port: int = 0) -> set[int]:
    """The inodes of TCP sockets that listen in the network of a process, at that port or at any."""
    return {inode for local, _, state, inode in rows(pid) if state == LISTEN and port in (0, local[1]) and inode}


def answerer(local: tuple[str, int], remote: tuple[str, int]) -> int:
    """The inode of the other end of a connection of ours in our own network, from `local` here to `remote`; 0 when
    nobody has accepted it, or it is over."""
    try:
        state, inode = diag.find(remote, local)
        return 0 if state == diag.LISTENING else inode
    except OSError:
        pass
    for one, other, _, inode in rows(os.getpid()):
        if one == remote and other == local:
            return inode
    return 0


def has_any(pids: "list[int]", wanted: set[int]) -> bool:
    """Whether one of these has one of these sockets open, as far as that may be looked at."""
    return any(inode in wanted for pid in pids for inode in _sockets(pid))


def inodes(pids: "list[int]") -> set[int]:
    """Of all sockets that these have open, as far as that may be looked at."""
    return {inode for pid in pids for inode in _sockets(pid)}


def _sockets(pid: int) -> "Iterator[int]":
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    # The last ones first, for a connection that was just made is among these.
    for name in reversed(names):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def unix_listeners(pid: int) -> set[int]:
    """The inodes of unix sockets that listen in the network of a process: flag __SO_ACCEPTCON of /proc/net/unix."""
    found: set[int] = set()
    for words in _lines(f"/proc/{pid}/net/unix"):
        if len(words) >= 7 and int(words[3], 16) & 0x10000:
            found.add(int(words[6]))
    return found


def rows(pid: int, kind: str = "tcp") -> "Iterator[Row]":
    """The sockets of a process's network, of `tcp` or `udp`, IPv4 and IPv6."""
    for name in (kind, f"{kind}6"):
        for words in _lines(f"/proc/{pid}/net/{name}"):
            if len(words) >= 10:
                yield _address(words[1]), _address(words[2]), words[3], int(words[9])


def _lines(path: str) -> "Iterator[list[bytes]]":
    try:
        with open(path, "rb") as file:
            file.readline()
            for line in file:
                yield line.split()
    except OSError:
        return


def _address(text: bytes) -> tuple[str, int]:
    """From words of 32 bits in the host's order, as hexadecimal digits, and a port."""
    digits, _, port = text.partition(b":")
    raw = b"".join(int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8))
    host = inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)
    return host.removeprefix("::ffff:") if "." in host else host, int(port, 16)

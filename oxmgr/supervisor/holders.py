"""Who has an address that somebody else wants (proc(5): /proc/net, /proc/PID/fd). Reads a lot: not for the loop."""

import os

from oxmgr.model.listen import ANY, UDP, UNIX, Address
from oxmgr.supervisor import owners

SHOWN = 60
"""Characters of a command line."""


def holder(address: Address) -> str:
    """`pid 123 (node server.js)`, or why nothing is known of it."""
    inodes = _unix(address.path) if address.kind == UNIX else _inodes(address)
    if not inodes:
        return "somebody in another network namespace"
    for name in os.listdir("/proc"):
        if name.isdecimal() and inodes & owners.inodes([int(name)]):
            return f"pid {name} ({_command(name)})"
    return "a process of another user"


def _inodes(address: Address) -> set[int]:
    """Of those sockets that stand in its way."""
    found: set[int] = set()
    for (host, port), _, state, inode in owners.rows(os.getpid(), address.kind):
        meets = host == address.host or host in (ANY, "0.0.0.0") or address.host in (ANY, "0.0.0.0")
        if port == address.port and meets and (state == owners.LISTEN or address.kind == UDP):
            found.add(inode)
    return found


def _unix(path: str) -> set[int]:
    with open("/proc/net/unix", "rb") as file:
        rows = [line.split(None, 7) for line in file]
    return {int(words[6]) for words in rows[1:] if len(words) == 8 and words[7].rstrip(b"\n") == os.fsencode(path)}


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/comm", "rb") as file:
            words = words or file.read().decode(errors="replace").strip()
    except OSError:
        return "it has ended meanwhile"
    shown = "".join(char if char.isprintable() else "?" for char in words[:SHOWN])
    return shown if len(words) <= SHOWN else f"{shown}…"

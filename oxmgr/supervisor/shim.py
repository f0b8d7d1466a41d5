"""How a program that binds by itself gets oxmgr-shim.so (csrc/shim.c), and what that is told."""

import os
from _socket import AF_INET, AF_INET6, inet_pton

from oxmgr.model.listen import UDP, UNIX, Address
from oxmgr.model.spec import Spec
from oxmgr.supervisor.reach import is_readable

PRELOAD = "LD_PRELOAD"
_OWN = f"{__file__.rpartition('/supervisor/')[0]}/oxmgr-shim.so"


def place(spec: Spec) -> tuple[str, str]:
    """The file; "" with why this app cannot have it."""
    if not is_readable(_OWN, spec.sandbox):
        return "", f"{_OWN} is not its to read"
    if set(_OWN) & set(" :"):
        # Either ends a name in LD_PRELOAD (ld.so(8)).
        return "", f"{_OWN} has a space or a colon in it"
    return _OWN, ""


def preload(path: str, spec: Spec, environ: bytes) -> str:
    """LD_PRELOAD with what the user has in it."""
    given = spec.env.get(PRELOAD)
    if given is None:
        words = (word for word in environ.split(b"\0") if word.startswith(b"LD_PRELOAD="))
        given = os.fsdecode(next(words, b"").partition(b"=")[2])
    return given if path in given else f"{path} {given}".strip()


def entry(fd: int, inode: int, backlog: int, address: Address) -> str:
    """As csrc/shim.c reads it."""
    if address.kind == UNIX:
        kind, data = "u", os.fsencode(address.path)
    else:
        is_six = ":" in address.host
        kind = f"{'d' if address.kind == UDP else ''}{6 if is_six else 4}"
        data = address.port.to_bytes(2, "big") + inet_pton(AF_INET6 if is_six else AF_INET, address.host)
    return f"{fd}:{inode}:{backlog}:{kind}:{data.hex()}"

"""The sockets that an app listens at and oxmgr holds: how they are written. Pure."""

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from oxmgr.model.codec import Struct

TCP, UDP, UNIX = "tcp", "udp", "unix"
ANY = "::"
"""Of IPv6 and IPv4; of IPv4 alone where the host has no IPv6."""
UNIX_LIMIT = 107
"""Bytes of a socket's path: sun_path of unix(7), without the NUL."""
NAME_LIMIT = 64
MOST = 64
"""Sockets of an app."""
FIRST_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


class Address(Struct, frozen=True, gc=False):
    """`host` and `port`, or, of a unix socket, `path`. `name` is what LISTEN_FDNAMES says, "" for the app's own."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    @property
    def place(self) -> str:
        """All of it but the name: two with the same place are the same socket."""
        if self.kind == UNIX:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'udp:' if self.kind == UDP else ''}{host}:{self.port}"

    @property
    def text(self) -> str:
        """As `read_address` takes it; one spelling for each."""
        return f"{self.name}={self.place}" if self.name else self.place


def read_address(text: str) -> Address:
    """`127.0.0.1:3000`, `[::1]:3000`, `3000` and `:3000` (all addresses), `unix:/path`, `udp:127.0.0.1:53`, each with
    `name=` in front or not. ValueError, as a sentence."""
    name, rest = _split_name(text)
    if rest.startswith("unix:"):
        return Address(UNIX, path=_path(rest.removeprefix("unix:")), name=name)
    kind = UDP if rest.startswith("udp:") else TCP
    place = rest.removeprefix(f"{kind}:")
    host, _, port = place.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:9]) <= 65535):
        raise ValueError(
            f"expected a port from 1 to 65535, as 3000, 127.0.0.1:3000 or [::1]:3000, or unix:/path, got {text[:80]!r}"
        )
    return Address(kind, _host(host, text), int(port), name=name)


def _split_name(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not equals or ":" in name or "/" in name:
        return "", text
    fits = all(char.isascii() and (char.isalnum() or char in "._-") for char in name)
    if not fits or not 1 <= len(name) <= NAME_LIMIT:
        known = "letters, digits, '.', '_' and '-'"
        raise ValueError(f"a socket's name has 1 to {NAME_LIMIT} of {known}, got {name[:80]!r}")
    return name, rest


def _path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"expected an absolute path behind unix:, got {path[:80]!r}")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > UNIX_LIMIT:
        raise ValueError(f"a socket's path has at most {UNIX_LIMIT} bytes, this one has {size}")
    return path


def _host(host: str, text: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare in ("", "*"):
        return ANY
    if bare == "localhost":
        return "127.0.0.1"
    if ":" in bare and bare == host:
        raise ValueError(f"an IPv6 address stands in brackets, as [::1]:3000, got {text[:80]!r}")
    family = AF_INET6 if ":" in bare else AF_INET
    try:
        return inet_ntop(family, inet_pton(family, bare))
    except (OSError, UnicodeError, ValueError):
        raise ValueError(f"{bare[:80]!r} is no IP address; a name would have to be looked up") from None

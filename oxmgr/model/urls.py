"""Addresses that are asked whether somebody answers. Pure."""

LOCAL = "localhost"
LOCALS = ("127.0.0.1", "::1")
"""What it means, in the order in which they are asked."""


def address(text: str) -> tuple[str, int]:
    """`3000`, `host:3000` or `[::1]:3000` → (host, port); the host of a port alone is LOCAL. ValueError, as a
    sentence."""
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:9]) <= 65535):
        raise ValueError(f"expected a port from 1 to 65535, alone or as host:port, got {text[:80]!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets, as [::1]:{port}, got {text[:80]!r}")
    if colon and not host:
        raise ValueError(f"expected host:port, got {text[:80]!r}")
    host = host or LOCAL
    if not (host == LOCAL or ":" in host or is_ipv4(host)):
        raise ValueError(f"{host[:80]!r} would have to be looked up: write its address, or use command:")
    return host, int(port)


def is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(part.isascii() and part.isdecimal() and int(part[:4]) < 256 for part in parts)


def endpoint(text: str) -> tuple[str, int, str, str]:
    """`http://host:port/path` → (host, port, path with query, what belongs into the Host header)."""
    rest = text.removeprefix("http://")
    cut = min((at for at in (rest.find("/"), rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:].partition("#")[0]
    if "@" in authority:
        raise ValueError("a name and password cannot stand in it")
    if not authority or not all(" " < char < "\x7f" for char in rest):
        raise ValueError(f"expected http://host:port/path, got {text[:80]!r}")
    has_port = ":" in authority.rpartition("]")[2]
    host, port = address(authority if has_port else f"{authority}:80")
    return host, port, path if path.startswith("/") else f"/{path}", authority

"""Lines that carry their own time: `cri`, `TIME stdout F text`, and `json`, one object a line; see csrc/format.c.

Told from other lines by what they look like, since a file may hold both after its app's format was changed.
"""

from oxmgr.model.codec import DecodeError, decode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    Frame = tuple[int, str, bool, bytes]

STREAMS = {b"stdout": "out", b"stderr": "err"}
SECOND = 10**9
_JSON = b'{"time":"'
_seconds: dict[bytes, int | None] = {}


def may_have_frames(data: bytes) -> bool:
    """False for nearly all that has none, at the speed of memchr."""
    return b" stdout " in data or b" stderr " in data or b'"stream":"std' in data


def unframe(line: bytes) -> "Frame | None":
    """Its time in ns, its stream, whether its text goes on in the next one, and the text, with its newline; None when
    it is an ordinary line."""
    return _unframe_json(line) if line.startswith(_JSON) else _unframe_cri(line)


def _unframe_cri(line: bytes) -> "Frame | None":
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in STREAMS or parts[2] not in (b"F", b"P"):
        return None
    time_ns = parse_rfc3339(parts[0])
    if time_ns is None:
        return None
    partial = parts[2] == b"P"
    return time_ns, STREAMS[parts[1]], partial, parts[3].removesuffix(b"\n") if partial else parts[3]


def _unframe_json(line: bytes) -> "Frame | None":
    if b'"stream":"std' not in line[:80]:
        return None
    try:
        found = decode_json(line)
    except (DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict):
        return None
    stream, message = STREAMS.get(str(found.get("stream")).encode()), found.get("message")
    time_ns = parse_rfc3339(str(found["time"]).encode("utf-8", "replace"))
    if time_ns is None or stream is None or not isinstance(message, str):
        return None
    partial = found.get("partial") is True
    return time_ns, stream, partial, message.encode() + (b"" if partial else b"\n")


def parse_rfc3339(text: bytes) -> int | None:
    """Nanoseconds of Unix time, of a date and time with an offset."""
    if len(text) < 20 or text[10:11] not in (b"T", b"t") or not text.isascii():
        return None
    seconds = _seconds.get(text[:19])
    if seconds is None:
        if len(_seconds) > 1000:
            _seconds.clear()
        seconds = _seconds[text[:19]] = _of_date(text[:19])
        if seconds is None:
            return None
    rest = text[19:]
    fraction = 0
    if rest[:1] == b".":
        digits = rest[1:].rstrip(b"Zz") if rest[-1:] in b"Zz" else rest[1:-6]
        if not digits.isdigit():
            return None
        fraction = int(digits[:9].ljust(9, b"0"))
        rest = rest[1 + len(digits) :]
    if rest in (b"Z", b"z"):
        return seconds * SECOND + fraction
    if len(rest) != 6 or rest[:1] not in (b"+", b"-") or rest[3:4] != b":":
        return None
    if not (rest[1:3].isdigit() and rest[4:].isdigit()):
        return None
    east = int(rest[1:3]) * 3600 + int(rest[4:]) * 60
    return (seconds + (east if rest[:1] == b"-" else -east)) * SECOND + fraction


def _of_date(text: bytes) -> int | None:
    """Unix time of `2026-11-24T08:01:25` in UTC."""
    from datetime import UTC, datetime

    try:
        return int(datetime.fromisoformat(text.decode()).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None

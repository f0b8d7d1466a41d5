"""The index beside a log file: which of its bytes were written when. Pure; both ends use it, and it may be lost.

`NAME.log.idx` starts with HEAD and the inode number of the file that it is of; behind it are entries of an offset and
a time: the bytes from there on, up to the next entry's, were written at that time or before it, and after the time of
the entry before. Numbers have 8 bytes, little-endian; times are nanoseconds of Unix time.

A rotated file is `NAME.log~TIME`, compressed `NAME.log~TIME.gz`, with its index `NAME.log~TIME.idx`; TIME is UTC and
sorts. No app's own log is called so, since no app's name has a `~`.
"""

HEAD = b"oxidx 1\n"
HEAD_SIZE = 16
ENTRY_SIZE = 16
SUFFIX = ".idx"
ROTATED = "~"
COMPRESSED = ".gz"


def pack_head(inode: int) -> bytes:
    return HEAD + inode.to_bytes(8, "little")


def pack_entry(offset: int, time_ns: int) -> bytes:
    return offset.to_bytes(8, "little") + time_ns.to_bytes(8, "little")


def head_inode(data: bytes) -> int | None:
    """Whose index it is; None when it is none."""
    return int.from_bytes(data[8:16], "little") if data[:8] == HEAD and len(data) >= HEAD_SIZE else None

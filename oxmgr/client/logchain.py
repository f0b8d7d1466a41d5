"""The files that a log consists of, as one: rotated ones, oldest first, and the one that is written to."""

import errno
import os
import time
from _stat import S_ISREG

from oxmgr.client.logfile import BLOCK, LogFile, Run, Source, open_regular
from oxmgr.model.logindex import COMPRESSED, ROTATED, SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_LOGS = (SUFFIX, "next", ".part")
GRAIN_NS = 50_000_000
"""A folder's mtime goes by the kernel's tick: two changes within one cannot be told apart by it."""


class Folders:
    """Which rotated files each log has; a folder with a thousand logs is listed once, and again when it has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, dict[str, list[str]]]] = {}

    def rotated(self, path: str) -> list[str]:
        """The rotated files of a log as they were before being compressed, oldest first."""
        folder, _, name = path.rpartition("/")
        folder = folder or "/"
        try:
            changed = os.stat(folder).st_mtime_ns
            known = self._known.get(folder)
            if known is None or known[0] != changed:
                found = _list(folder)
                known = (changed if time.time_ns() - changed > GRAIN_NS else -1), found
                self._known[folder] = known
        except OSError:
            return []
        return [f"{path}{ROTATED}{stamp}" for stamp in known[1].get(name, [])]


def _list(folder: str) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    # Twice: a file that is compressed while the folder is read can be missed under its old name and its new one, since
    # readdir(3) promises nothing of what comes and goes meanwhile. The second time it has the new one.
    for entry in {*os.listdir(folder), *os.listdir(folder)}:
        name, mark, stamp = entry.rpartition(ROTATED)
        if mark and not stamp.endswith(NOT_LOGS):
            found.setdefault(name, set()).add(stamp.removesuffix(COMPRESSED))
    return {name: sorted(stamps) for name, stamps in found.items()}


def rotated_at(path: str) -> int | None:
    """When a file was rotated, as its name says, in ns."""
    from oxmgr.client.logframe import parse_rfc3339

    stamp = path.rpartition(ROTATED)[2]
    if len(stamp) < 16 or stamp[8] != "T":
        return None
    parts = stamp[:4], stamp[4:6], stamp[6:8] + stamp[8:11], stamp[11:13], stamp[13:]
    return parse_rfc3339(f"{'-'.join(parts[:3])}:{':'.join(parts[3:])}".encode())


def open_rotated(path: str, live: str, source: Source) -> LogFile | None:
    """Compressed or not yet; None when it has been removed, or cannot be read."""
    for ending in ("", COMPRESSED, ""):
        fd = open_regular(path + ending)
        if fd >= 0:
            # The index that a kill between two renames has left behind bears the inode of what it is of.
            return LogFile(fd, source, (f"{path}{SUFFIX}", f"{live}{SUFFIX}"), compressed=bool(ending))
    return None


def open_live(path: str, source: Source) -> LogFile | None:
    fd = open_regular(path)
    return LogFile(fd, source, (f"{path}{SUFFIX}",)) if fd >= 0 else None


class Chain:
    """A log as it was when it was looked at: what comes later is a Follower's, which goes on at `live`, `end`, and
    behind the rotated file `last`."""

    def __init__(self, path: str, source: Source, folders: Folders) -> None:
        self.path = path
        self.source = source
        self.folders = folders
        # In this order: what is rotated between the two is found twice, and not never.
        self.live = open_live(path, source)
        self.end = self.live.size if self.live is not None else 0
        self._rotated: list[str] | None = None

    @property
    def rotated(self) -> list[str]:
        if self._rotated is None:
            self._rotated = list(self.folders.rotated(self.path))
            if self.live is not None and not is_inode(self.path, self.live.inode):
                for number, path in enumerate(self._rotated):
                    if is_same(path, self.path, self.live):
                        del self._rotated[number:]
                        break
        return self._rotated

    @property
    def last(self) -> str:
        return self.rotated[-1] if self.rotated else ""

    @property
    def trouble(self) -> str:
        """Why it cannot be read, if it is there."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return error.strerror or ""
        denied = S_ISREG(found.st_mode) and not os.access(self.path, os.R_OK)
        return os.strerror(errno.EACCES) if denied else ""

    def hold_partial(self) -> None:
        """Leave the last line to the follower when it has no newline yet."""
        if self.live is not None:
            self.end = self.live.last_line_end()

    def forward(self, since: int | None = None, until: int | None = None) -> "Iterator[Run]":
        for path in self.rotated:
            ended = rotated_at(path)
            if since is None or ended is None or ended >= since:
                yield from _forward(open_rotated(path, self.path, self.source), since, until)
        if self.live is not None:
            yield from _forward(self.live, since, until, self.end)

    def backward(self, since: int | None = None, until: int | None = None) -> "Iterator[Run]":
        """The last runs first."""
        if self.live is not None:
            yield from _backward(self.live, since, until, self.end)
        for number in range(len(self.rotated) - 1, -1, -1):
            path = self.rotated[number]
            ended = rotated_at(path)
            if since is not None and ended is not None and ended < since:
                return
            began = rotated_at(self.rotated[number - 1]) if number else None
            if until is None or began is None or began <= until:
                yield from _backward(open_rotated(path, self.path, self.source), since, until)


def is_inode(path: str, inode: int) -> bool:
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False


def is_same(path: str, live: str, file: LogFile) -> bool | None:
    """Whether that rotated file, compressed meanwhile perhaps, is the one that is open; None when it is gone."""
    if is_inode(path, file.inode):
        return True
    other = open_rotated(path, live, file.source)
    if other is None:
        return None
    if other.inode:
        return other.inode == file.inode
    # Compressed, and its index is lost: told by what is in it.
    size = file.look()
    ends = [os.pread(one.fd, BLOCK, max(0, size - BLOCK)) for one in (file, other)]
    return size == other.size and ends[0] == ends[1]


def _range(file: LogFile, since: int | None, until: int | None, end: int | None) -> tuple[int, int]:
    end = file.size if end is None else end
    begin = file.offset_since(since) if since is not None else 0
    return begin, min(end, file.offset_since(until + 1)) if until is not None else end


def _forward(file: LogFile | None, since: int | None, until: int | None, end: int | None = None) -> "Iterator[Run]":
    if file is not None:
        yield from file.forward(*_range(file, since, until, end))


def _backward(file: LogFile | None, since: int | None, until: int | None, end: int | None = None) -> "Iterator[Run]":
    if file is not None:
        begin, end = _range(file, since, until, end)
        yield from file.backward(end, begin)

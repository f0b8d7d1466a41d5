"""The index beside a log file, as its writer sees it (oxmgr.model.logindex has the format). Whatever is wrong with it,
the log goes on: it is cut, made anew, or done without."""

import os
import time
from _bisect import bisect_right

from oxmgr.folders import open_file, open_folder
from oxmgr.model.logindex import ENTRY_SIZE, HEAD_SIZE, SUFFIX, head_inode, pack_entry, pack_head
from oxmgr.supervisor.archive import rotated_names

ENTRY_EVERY_NS = 5_000_000
"""Lines that come within this time share an entry, so that the index of an app that prints all the time stays small."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND


def first_line_ns(log: str) -> int:
    """When the first line came of a log that is not open, as far as that is known; 0 when it has none."""
    folder, _, name = log.rpartition("/")
    try:
        within = open_folder(folder)
    except OSError:
        return 0
    try:
        return _first_line_ns(within, name)
    finally:
        os.close(within)


def _first_line_ns(within: int, name: str) -> int:
    try:
        found = os.stat(name, dir_fd=within, follow_symlinks=False)
    except OSError:
        return 0
    if not found.st_size:
        return 0
    try:
        fd = open_file(within, f"{name}{SUFFIX}", os.O_RDONLY)
        with open(fd, "rb", 0) as file:
            data = file.read(HEAD_SIZE + ENTRY_SIZE)
    except OSError:
        data = b""
    first = int.from_bytes(data[HEAD_SIZE + 8 :], "little") if head_inode(data) == found.st_ino else 0
    return first if 0 < first <= time.time_ns() else found.st_mtime_ns


class Times:
    """Of the log at `path`. `first_ns` is when its first line came, 0 when that is not known."""

    __slots__ = ("_fd", "_name", "_noted_ns", "first_ns")

    def __init__(self, path: str) -> None:
        self._name = path.rpartition("/")[2]
        self._fd = -1
        self._noted_ns = 0
        self.first_ns = 0

    def open(self, within: int, inode: int, size: int) -> None:
        """In the log's folder, for a file that has this inode and size. An index that is another file's goes to that,
        if a kill has come between the renames of a rotation; one that is ahead of its file or torn is cut."""
        self.first_ns = self._noted_ns = 0
        name = f"{self._name}{SUFFIX}"
        try:
            self._fd = open_file(within, name, _FLAGS)
            whose = head_inode(os.pread(self._fd, HEAD_SIZE, 0))
            if whose is not None and whose != inode:
                self.close()
                self._give_back(within, name, whose)
                self._fd = open_file(within, name, _FLAGS)
                whose = None
            if whose is None:
                self.start(inode)
            else:
                self._cut(size)
        except OSError:
            self.close()

    def _give_back(self, within: int, name: str, inode: int) -> None:
        for rotated in rotated_names(within, self._name):
            try:
                if os.stat(rotated, dir_fd=within, follow_symlinks=False).st_ino == inode:
                    os.rename(name, f"{rotated}{SUFFIX}", src_dir_fd=within, dst_dir_fd=within)
                    return
            except OSError:
                continue
        os.unlink(name, dir_fd=within)

    def _cut(self, size: int) -> None:
        """To the entries of bytes that are there."""
        has = os.fstat(self._fd).st_size
        count = bisect_right(range((has - HEAD_SIZE) // ENTRY_SIZE), size, key=lambda number: self._number(number, 0))
        if HEAD_SIZE + count * ENTRY_SIZE != has:
            os.ftruncate(self._fd, HEAD_SIZE + count * ENTRY_SIZE)
        if count:
            self.first_ns = self._number(0, 8)

    def _number(self, entry: int, at: int) -> int:
        return int.from_bytes(os.pread(self._fd, 8, HEAD_SIZE + entry * ENTRY_SIZE + at), "little")

    def start(self, inode: int) -> None:
        """With nothing in it."""
        self.first_ns = self._noted_ns = 0
        if self._fd >= 0:
            try:
                os.ftruncate(self._fd, 0)
                os.write(self._fd, pack_head(inode))
            except OSError:
                self.close()

    def note(self, offset: int, now: int) -> None:
        """What stands from there on was written until now."""
        if not self.first_ns:
            self.first_ns = now
        if self._fd < 0 or 0 <= now - self._noted_ns < ENTRY_EVERY_NS:
            return
        self._noted_ns = now
        try:
            if os.write(self._fd, pack_entry(offset, now)) != ENTRY_SIZE:
                self._cut(offset)
        except OSError:
            # Its disk is full: the bytes themselves are what counts.
            return

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

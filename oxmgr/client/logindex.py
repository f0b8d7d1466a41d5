"""Looks things up in the index beside a log file; see oxmgr.model.logindex."""

import os
from bisect import bisect_right

from oxmgr.model.logindex import ENTRY_SIZE, HEAD_SIZE, head_inode

PAGE = 16 * 1024


class FileBytes:
    """A file's bytes, read a page at a time: an index of any size costs no more than one, and one that is cut while
    it is read gives zeros where an mmap would give SIGBUS."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._at = -1
        self._page = b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> bytes:
        """What is asked for never crosses a page, since both sizes of an index divide PAGE."""
        start, stop = wanted.start or 0, wanted.stop
        at = start - start % PAGE
        if at != self._at:
            self._page, self._at = os.pread(self._fd, PAGE, at), at
        return self._page[start - at : stop - at]


class Index:
    """The entries of an index, looked up without being unpacked. A torn last entry is left out."""

    def __init__(self, data: bytes | FileBytes) -> None:
        self.inode = head_inode(data[:HEAD_SIZE])
        known = self.inode is not None
        self._data = data
        self._count = (len(data) - HEAD_SIZE) // ENTRY_SIZE if known else 0

    def __len__(self) -> int:
        return self._count

    def offset(self, number: int) -> int:
        at = HEAD_SIZE + number * ENTRY_SIZE
        return int.from_bytes(self._data[at : at + 8], "little")

    def time_ns(self, number: int) -> int:
        at = HEAD_SIZE + number * ENTRY_SIZE + 8
        return int.from_bytes(self._data[at : at + 8], "little")

    def number_at(self, offset: int) -> int:
        """Which entry the byte at that offset belongs to; -1 when it comes before all."""
        return bisect_right(range(self._count), offset, key=self.offset) - 1

    def time_at(self, offset: int) -> int | None:
        """When the byte at that offset was written; None when the index does not say."""
        number = self.number_at(offset)
        return self.time_ns(number) if number >= 0 else None

    def offset_since(self, time_ns: int) -> int | None:
        """Where what was written at that time or later begins; None: nothing that the index knows of."""
        number = bisect_right(range(self._count), time_ns - 1, key=self.time_ns)
        return self.offset(number) if number < self._count else None

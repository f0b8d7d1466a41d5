"""Looks things up in the index beside a log file; see oxmgr.model.logindex."""

from bisect import bisect_right

from oxmgr.model.logindex import ENTRY_SIZE, HEAD_SIZE, head_inode


class Index:
    """The entries of an index, looked up without being unpacked. A torn last entry is left out."""

    def __init__(self, data: bytes) -> None:
        known = head_inode(data) is not None
        self._data = data if known else b""
        self._count = (len(data) - HEAD_SIZE) // ENTRY_SIZE if known else 0

    def __len__(self) -> int:
        return self._count

    def offset(self, number: int) -> int:
        at = HEAD_SIZE + number * ENTRY_SIZE
        return int.from_bytes(self._data[at : at + 8], "little")

    def time_ns(self, number: int) -> int:
        at = HEAD_SIZE + number * ENTRY_SIZE + 8
        return int.from_bytes(self._data[at : at + 8], "little")

    def time_at(self, offset: int) -> int | None:
        """When the byte at that offset was written; None when the index does not say."""
        number = bisect_right(range(self._count), offset, key=self.offset) - 1
        return self.time_ns(number) if number >= 0 else None

    def offset_since(self, time_ns: int) -> int | None:
        """Where what was written at that time or later begins; None: nothing that the index knows of."""
        number = bisect_right(range(self._count), time_ns - 1, key=self.time_ns)
        return self.offset(number) if number < self._count else None

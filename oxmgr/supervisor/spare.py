"""What a state file would hold, while it cannot be written: a file in memory, of which the guard keeps a copy for the
next daemon."""

import os

from oxmgr.supervisor.guard import memory_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.guard import Guard


class Spare:
    """Without a guard there is none: `fd` is -1, and what is put is lost with this daemon."""

    def __init__(self, kind: str, guard: "Guard") -> None:
        self.fd = -1
        # The guard's other names are of instances, which have no slash.
        self._name = f"state/{kind}"
        self._guard = guard

    def claim(self) -> bytes | None:
        """What an earlier daemon could not write; None when it could."""
        self.fd = self._guard.claim(self._name)
        if self.fd < 0:
            return None
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def put(self, data: bytes) -> None:
        """In the place of what was there. What is appended to `fd` goes behind it."""
        if self._guard.fd < 0:
            return
        try:
            fd = memory_file(self._name, data)
        except OSError:
            return  # the earlier one is older, and better than nothing
        os.lseek(fd, 0, os.SEEK_END)
        self._guard.keep(self._name, fd)
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = fd

    @property
    def who_ends(self) -> str:
        """With whom all that is in memory goes, in words."""
        return "this daemon ends" if self.fd < 0 else "this daemon and its guard both end"

    def drop(self) -> None:
        """The disk has it."""
        if self.fd >= 0:
            self._guard.forget(self._name)
            os.close(self.fd)
            self.fd = -1

"""A log file that holds the very bytes of an app. Owns the file, its index, its rotation; one writer, by flock(2).

No other name of the app's is ever written: a symbolic link in a log's place is refused, since who may write to the
folder could lead root anywhere by it.
"""

import errno
import fcntl
import os
import stat
import time

from oxmgr.model.logindex import COMPRESSED, ENTRY_SIZE, HEAD_SIZE, ROTATED, SUFFIX, head_inode, pack_entry, pack_head
from oxmgr.model.spec import Logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.native import Pipe

MIB = 1024 * 1024
DAY_NS = 24 * 3600 * 10**9
MODE = 0o640
ENTRY_EVERY_NS = 5_000_000
"""Lines that come within this time share an entry, so that the index of an app that prints all the time stays small."""
HARD_CAP = 2
"""A file that has no end of a line by so many times max_size_mb is rotated in the middle of one."""


class RawLog:
    """`path` is absolute. `rotated` is called with the name of a file that was just put aside."""

    def __init__(self, path: str, logs: Logs, rotated: "Callable[[str], None]") -> None:
        self.path = path
        self.logs = logs
        self.rotated = rotated
        self._fd = -1
        self._index = -1
        self._inode = 0
        self._offset = 0
        self._first_ns = 0
        self._noted_ns = 0

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def move(self, pipe: "Pipe", budget: int) -> int:
        """Up to so many bytes of the pipe into the file; 0 when there are none. OSError when they stay in the pipe."""
        self.prepare()
        before = pipe.offset = self._offset
        try:
            moved = pipe.splice(self._fd, budget)
        finally:
            self._offset = pipe.offset
        if moved:
            self._note(before)
        return moved

    def prepare(self) -> None:
        """Have the file open, its offset right, and not too large. OSError."""
        if self._fd < 0:
            self._open()
        found = os.fstat(self._fd)
        if not found.st_nlink:
            # Somebody has removed it.
            self.close()
            self._open()
        elif found.st_size < self._offset:
            # Somebody has emptied it (logrotate's copytruncate): its times were those of the bytes that are gone.
            self._offset = found.st_size
            self._start_index()
        if self._is_due():
            self._rotate()

    def append(self, data: bytes) -> None:
        """Words of ours, at a line's beginning."""
        self.prepare()
        if self._offset and os.pread(self._fd, 1, self._offset - 1) != b"\n":
            data = b"\n" + data
        self._offset += os.pwrite(self._fd, data, self._offset)

    def reopen(self) -> None:
        """Somebody has renamed the file, and wants a fresh one."""
        self.close()

    def empty(self) -> None:
        """Cut it to nothing; rotated ones stay."""
        self.prepare()
        os.ftruncate(self._fd, 0)
        self._offset = 0
        self._start_index()

    def close(self) -> None:
        for fd in (self._fd, self._index):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index = -1

    # --- opening ---

    def _open(self) -> None:
        fd = open_log(self.path)
        try:
            self._inode, self._offset = os.fstat(fd).st_ino, os.fstat(fd).st_size
            self._fd = fd
            self._open_index()
        except OSError:
            os.close(fd)
            self._fd = -1
            raise

    def _open_index(self) -> None:
        """One that is another file's goes to that, if a kill has come between the renames of a rotation; one that is
        ahead of its file or torn is cut. What cannot be had is done without."""
        path = f"{self.path}{SUFFIX}"
        self._index, self._first_ns, self._noted_ns = -1, 0, 0
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_APPEND, MODE)
        except OSError:
            return
        size = os.fstat(fd).st_size
        inode = head_inode(os.pread(fd, HEAD_SIZE, 0))
        if inode != self._inode and inode is not None:
            os.close(fd)
            self._give_index_back(path, inode)
            self._open_fresh_index(path)
            return
        self._index = fd
        whole = HEAD_SIZE + (size - HEAD_SIZE) // ENTRY_SIZE * ENTRY_SIZE
        while whole > HEAD_SIZE and int.from_bytes(os.pread(fd, 8, whole - ENTRY_SIZE), "little") > self._offset:
            whole -= ENTRY_SIZE
        if inode is None:
            self._start_index()
            return
        if whole != size:
            os.ftruncate(fd, whole)
        if whole > HEAD_SIZE:
            self._first_ns = int.from_bytes(os.pread(fd, 8, HEAD_SIZE + 8), "little")

    def _open_fresh_index(self, path: str) -> None:
        try:
            self._index = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_APPEND, MODE)
        except OSError:
            return
        self._start_index()

    def _give_index_back(self, path: str, inode: int) -> None:
        for rotated in rotated_files(self.path):
            try:
                if os.stat(rotated).st_ino == inode:
                    os.rename(path, f"{rotated}{SUFFIX}")
                    return
            except OSError:
                continue
        os.unlink(path)

    def _start_index(self) -> None:
        self._first_ns = self._noted_ns = 0
        if self._index >= 0:
            try:
                os.ftruncate(self._index, 0)
                os.write(self._index, pack_head(self._inode))
            except OSError:
                os.close(self._index)
                self._index = -1

    def _note(self, offset: int) -> None:
        now = time.time_ns()
        if not self._first_ns:
            self._first_ns = now
        if self._index < 0 or 0 <= now - self._noted_ns < ENTRY_EVERY_NS:
            return
        self._noted_ns = now
        try:
            os.write(self._index, pack_entry(offset, now))
        except OSError:
            # Its disk is full: the bytes themselves are what counts.
            return

    # --- rotation ---

    def _is_due(self) -> bool:
        logs = self.logs
        size = logs.max_size_mb * MIB
        old = logs.max_days and self._first_ns and time.time_ns() - self._first_ns > logs.max_days * DAY_NS
        if not self._offset or not (old or (size and self._offset >= size)):
            return False
        at_line_end = os.pread(self._fd, 1, self._offset - 1) == b"\n"
        return at_line_end or bool(size and self._offset >= HARD_CAP * size)

    def _rotate(self) -> None:
        """In an order that a kill at any point survives:

        1. a fresh file is made aside and locked, so that a full disk is met before anything is moved
        2. the full one is renamed to its time
        3. its index is renamed with it; an index that was left behind is recognised by its inode
        4. the fresh one gets the name; without this step the next writer makes one
        5. the old one is let go, compressed, and those that are too many removed
        """
        aside = f"{self.path}{ROTATED}next"
        try:
            os.unlink(aside)
        except FileNotFoundError:
            pass
        fresh = open_log(aside)
        name = self._free_name()
        try:
            os.rename(self.path, name)
        except OSError:
            os.close(fresh)
            os.unlink(aside)
            raise
        try:
            os.rename(f"{self.path}{SUFFIX}", f"{name}{SUFFIX}")
        except OSError:
            pass
        os.rename(aside, self.path)
        self.close()
        self._fd, self._inode, self._offset = fresh, os.fstat(fresh).st_ino, 0
        self._open_index()
        prune(self.path, self.logs)
        self.rotated(name)

    def _free_name(self) -> str:
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        return f"{self.path}{ROTATED}{stamp}.{now % 10**9:09}Z"


def open_log(path: str) -> int:
    """A regular file to write to, ours alone; made if it is not there. OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags, MODE)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
        fd = os.open(path, flags, MODE)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        if found.st_nlink > 1 and found.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "it is another name of somebody else's file", path)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise OSError(errno.EBUSY, "another process writes to it", path) from None
    except OSError:
        os.close(fd)
        raise
    return fd


def rotated_files(path: str) -> list[str]:
    """The rotated files of a log, compressed or not, oldest first."""
    folder, _, name = path.rpartition("/")
    start = f"{name}{ROTATED}"
    try:
        names = sorted(one for one in os.listdir(folder or "/") if one.startswith(start))
    except OSError:
        return []
    return [f"{folder}/{one}" for one in names if not one.endswith((SUFFIX, "next", ".part"))]


def prune(path: str, logs: Logs) -> None:
    """Remove the rotated files that are too many or too old, with their indexes."""
    files = rotated_files(path)
    now = time.time()
    keep = max(0, logs.max_files)
    for number, file in enumerate(files):
        try:
            old = logs.max_days and now - os.stat(file).st_mtime > logs.max_days * 86400
            if number < len(files) - keep or old:
                os.unlink(file)
                os.unlink(f"{file.removesuffix(COMPRESSED)}{SUFFIX}")
        except OSError:
            continue

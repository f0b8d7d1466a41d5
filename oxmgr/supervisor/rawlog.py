"""A log file that holds the very bytes of an app. Owns the file and its rotation; one writer, by flock(2).

No other name of the app's is ever written: a symbolic link in a log's place is refused, since who may write to the
folder could lead root anywhere by it.
"""

import errno
import fcntl
import os
import time

from oxmgr.folders import open_file, open_folder
from oxmgr.model.logindex import ROTATED, SUFFIX
from oxmgr.supervisor.archive import ASIDE
from oxmgr.supervisor.logtimes import Times

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.spec import Logs
    from oxmgr.supervisor.archive import Archive
    from oxmgr.supervisor.native import Pipe

MIB = 1024 * 1024
DAY_NS = 24 * 3600 * 10**9
HARD_CAP = 2
"""A file that has no end of a line by so many times max_size_mb is rotated in the middle of one."""
ROTATION_RETRY_NS = 10 * 10**9
PASSING = (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""The disk has no room or fails, or there are no file descriptors."""


class RawLog:
    """`path` is absolute. `trouble` says why it is not rotated, or ""."""

    __slots__ = (
        "_archive",
        "_not_before_ns",
        "_taken_up",
        "_times",
        "fd",
        "inode",
        "logs",
        "offset",
        "path",
        "trouble",
    )

    behind = False
    """Whether bytes have left the pipe that are not where they go."""

    def __init__(self, path: str, logs: "Logs", archive: "Archive") -> None:
        self.path = path
        self.logs = logs
        self.trouble = ""
        self.fd = -1
        self.inode = 0
        self.offset = 0
        self._archive = archive
        self._times = Times(path)
        self._taken_up = False
        self._not_before_ns = 0

    def move(self, pipe: "Pipe", budget: int) -> int:
        """Up to so many bytes of the pipe into the file; 0 when there are none. OSError when they stay in the pipe."""
        self.prepare()
        if self._is_due() and not self.at_line_end() and not self._not_before_ns:
            # Up to the end of the line that it ends in, so that the next move begins with a rotation.
            budget = pipe.line_end() or budget
        before = pipe.offset = self.offset
        try:
            moved = pipe.splice(self.fd, budget)
        finally:
            self.offset = pipe.offset
        if moved:
            self._times.note(before, time.time_ns())
        return moved

    def wrote(self, size: int, now: int) -> None:
        """Somebody else has written so many bytes at `offset`."""
        self._times.note(self.offset, now)
        self.offset += size

    def append(self, data: bytes, now: int) -> None:
        """All of it or, with an OSError, nothing: what the disk took of it is taken back."""
        size = os.pwrite(self.fd, data, self.offset)
        if size < len(data):
            os.ftruncate(self.fd, self.offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        self.wrote(size, now)

    def notice(self, text: str) -> None:
        """A line of ours."""
        self.prepare()
        data = f"{text}\n".encode()
        if not self.at_line_end():
            data = b"\n" + data
        self.append(data, time.time_ns())

    def finish(self) -> None:
        """Its app has ended: there is nothing that waits for the end of a line."""

    def again(self) -> float | None:
        """When to move again though nothing new has come."""
        return None

    def passes(self, error: OSError) -> bool:
        """Whether it may be better later; if not, the path is no place for a log."""
        return error.errno in PASSING

    def prepare(self) -> None:
        """Have the file open, its offset right, and not too large. OSError."""
        self.open()
        if self._is_due() and (self.at_line_end() or self._is_over_cap()):
            self._try_to_rotate()

    def open(self) -> None:
        """Have the file open and its offset right. OSError."""
        if self.fd < 0:
            self._open()
        found = os.fstat(self.fd)
        if not found.st_nlink:
            # Somebody has removed it.
            self.close()
            self._open()
        elif found.st_size < self.offset:
            # Somebody has emptied it (logrotate's copytruncate): its times were those of the bytes that are gone.
            self.offset = found.st_size
            self._times.start(self.inode)
        else:
            # Somebody may have added to it, which is not overwritten.
            self.offset = found.st_size

    def empty(self) -> None:
        """Cut it to nothing; rotated ones stay."""
        self.open()
        os.ftruncate(self.fd, 0)
        self.offset = 0
        self._times.start(self.inode)

    def leave(self) -> None:
        """It is closed, and what has not arrived goes to another."""
        self.close()

    def close(self) -> None:
        self._times.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def at_line_end(self) -> bool:
        return not self.offset or os.pread(self.fd, 1, self.offset - 1) == b"\n"

    def _open(self) -> None:
        folder, _, name = self.path.rpartition("/")
        within = open_folder(folder, make=True)
        try:
            self._open_in(within, name)
        except OSError as error:
            error.filename = self.path
            raise
        finally:
            os.close(within)

    def _open_in(self, within: int, name: str) -> None:
        self.fd = open_log(within, name)
        found = os.fstat(self.fd)
        self.inode, self.offset = found.st_ino, found.st_size
        self._times.open(within, self.inode, self.offset)
        if self.offset and not 0 < self._times.first_ns <= time.time_ns():
            self._times.first_ns = found.st_mtime_ns
        if not self._taken_up:
            self._taken_up = True
            self._archive.take_up(within, self.path, self.logs)

    # --- rotation ---

    def _is_due(self) -> bool:
        size = self.logs.max_size_mb * MIB
        if not self.offset:
            return False
        return bool(size and self.offset >= size) or is_old(self._times.first_ns, self.logs)

    def _is_over_cap(self) -> bool:
        size = self.logs.max_size_mb * MIB
        return bool(size and self.offset >= HARD_CAP * size)

    def _try_to_rotate(self) -> None:
        """A file that cannot be rotated, for its folder is not ours to write to, is still one that takes lines."""
        if time.time_ns() < self._not_before_ns:
            return
        try:
            self._rotate()
            self.trouble, self._not_before_ns = "", 0
        except OSError as error:
            self.trouble = f"{self.path} cannot be rotated: {error.strerror}"
            self._not_before_ns = time.time_ns() + ROTATION_RETRY_NS
            self.open()

    def _rotate(self) -> None:
        folder, _, name = self.path.rpartition("/")
        within = open_folder(folder)
        try:
            self._rotate_in(within, name)
        finally:
            os.close(within)

    def _rotate_in(self, within: int, name: str) -> None:
        """In an order that a kill at any point survives:

        1. a fresh file is made aside and locked, so that a full disk is met before anything is moved
        2. the full one is renamed to its time
        3. its index is renamed with it; an index that was left behind is recognised by its inode
        4. the fresh one gets the name; without this step the next writer makes one
        5. the old one is let go, compressed, and those that are too many removed
        """
        try:
            is_named = os.path.samestat(os.stat(name, dir_fd=within, follow_symlinks=False), os.fstat(self.fd))
        except FileNotFoundError:
            is_named = False
        if not is_named:
            # Somebody has renamed it: then it is not ours to put aside.
            self.close()
            self._open_in(within, name)
            return
        aside = f"{name}{ASIDE}"
        try:
            os.unlink(aside, dir_fd=within)
        except FileNotFoundError:
            pass
        fresh = open_log(within, aside)
        rotated = _free_name(name)
        try:
            _rename(within, name, rotated)
        except OSError:
            os.close(fresh)
            os.unlink(aside, dir_fd=within)
            raise
        try:
            _rename(within, f"{name}{SUFFIX}", f"{rotated}{SUFFIX}")
        except OSError:
            pass
        self.close()
        try:
            _rename(within, aside, name)
        except OSError:
            os.close(fresh)
            raise
        self.fd, self.inode, self.offset = fresh, os.fstat(fresh).st_ino, 0
        self._times.open(within, self.inode, 0)
        self._archive.put(self.path, self.logs, rotated)


def _rename(within: int, name: str, to: str) -> None:
    os.rename(name, to, src_dir_fd=within, dst_dir_fd=within)


def _free_name(name: str) -> str:
    now = time.time_ns()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
    return f"{name}{ROTATED}{stamp}.{now % 10**9:09}Z"


def is_old(first_ns: int, logs: "Logs") -> bool:
    """Whether a log whose first line came then (0: that is not known) is to be rotated for it."""
    return bool(logs.max_days and first_ns and time.time_ns() - first_ns > logs.max_days * DAY_NS)


def open_log(within: int, name: str) -> int:
    """A regular file in that folder to write to, ours alone; made if it is not there. OSError."""
    fd = open_file(within, name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise OSError(errno.EBUSY, "another process writes to it", name) from None
        raise
    return fd

"""inotify(7) for the command, which has no C extension of its own: folders are watched, and tell of what is in them."""

import ctypes
import errno
import os
import sys

MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
Q_OVERFLOW, IGNORED = 0x4000, 0x8000
ONLYDIR = 0x01000000
MASK_ADD = 0x20000000
NAMES = MOVED_FROM | MOVED_TO | CREATE | DELETE
CHANGES = NAMES | MODIFY | DELETE_SELF | MOVE_SELF
BUFFER = 64 * 1024

# In struct inotify_event: int wd, and three uint32_t: mask, cookie, len; then a name of len bytes, padded with NULs.
_EVENT = 16


class Inotify:
    """`fd` is readable when something has happened. OSError when the host has no more of them to give."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"{os.strerror(error)}: more of fs.inotify.max_user_instances are needed", "inotify")
        self._folders: dict[int, str] = {}

    def watch(self, folder: str, mask: int) -> bool:
        """Whether it is there. Watching one again adds to what is told of it."""
        number = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), mask | ONLYDIR | MASK_ADD)
        if number >= 0:
            self._folders[number] = folder
            return True
        error = ctypes.get_errno()
        if error in (errno.ENOSPC, errno.ENOMEM):
            raise OSError(error, f"{os.strerror(error)}: more of fs.inotify.max_user_watches are needed", folder)
        return False

    def read(self) -> "list[tuple[str, str, int]]":
        """What has happened: folder, name in it, mask. An empty folder: events were lost, anything may have happened;
        IGNORED: the folder is not watched any more."""
        found: list[tuple[str, str, int]] = []
        try:
            data = os.read(self.fd, BUFFER)
        except BlockingIOError:
            return found
        at = 0
        while at < len(data):
            number = int.from_bytes(data[at : at + 4], sys.byteorder, signed=True)
            mask = int.from_bytes(data[at + 4 : at + 8], sys.byteorder)
            size = int.from_bytes(data[at + 12 : at + 16], sys.byteorder)
            name = os.fsdecode(data[at + _EVENT : at + _EVENT + size].rstrip(b"\0"))
            at += _EVENT + size
            folder = "" if mask & Q_OVERFLOW else self._folders.get(number, "")
            if mask & IGNORED:
                self._folders.pop(number, None)
            found.append((folder, name, mask))
        return found


class FolderWatch:
    """Folders that may come and go; of one that is not there, the nearest above it is watched until it comes."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self.fd = self._inotify.fd
        self._wanted: set[str] = set()
        self._watched: set[str] = set()

    def want(self, folder: str) -> None:
        self._wanted.add(folder)
        self._watch(folder)

    def look(self) -> "list[tuple[str, str, int]]":
        """What has happened in them: folder, name in it, mask. An empty folder: anything may have happened."""
        found: list[tuple[str, str, int]] = []
        for folder, name, mask in self._inotify.read():
            if not folder or mask & (IGNORED | DELETE_SELF | MOVE_SELF):
                self._watched.clear()
                found.append(("", "", mask))
                continue
            path = f"{folder.rstrip('/')}/{name}"
            if mask & NAMES and any(one == path or one.startswith(f"{path}/") for one in self._wanted):
                self._watched.clear()
                found.append(("", "", mask))
            if folder in self._wanted:
                found.append((folder, name, mask))
        for folder in self._wanted:
            self._watch(folder)
        return found

    def suspect(self, folder: str) -> None:
        """It may be about to be removed, and would not tell while a file that was in it is held open: all folders above
        are watched as well."""
        above = folder
        while above != "/":
            above = os.path.dirname(above)
            self._inotify.watch(above, NAMES)
        self._watched.discard(folder)
        self._watch(folder)

    def _watch(self, wanted: str) -> None:
        folder = wanted
        while folder not in self._watched:
            if self._inotify.watch(folder, CHANGES if folder in self._wanted else NAMES | DELETE_SELF | MOVE_SELF):
                self._watched.add(folder)
                # It may have come between the look at it and the watch above it.
                folder = wanted
            elif folder == "/":
                return
            else:
                folder = os.path.dirname(folder)

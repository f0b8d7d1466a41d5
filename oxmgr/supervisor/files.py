"""How a file of the state folder is written. One function does it; everybody uses it."""

import errno
import os

from oxmgr.supervisor.native import read_whole
from oxmgr.supervisor.process import start_ticks

RETRY = 5.0
"""Seconds until what could not be written is tried again."""
MISSING = (FileNotFoundError, NotADirectoryError)
"""There is no such file; its folder may be missing as well."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


def write_safely(path: str, data: bytes, before: str = "") -> None:
    """Put the file there whole, or leave what was there; on return it is on the disk. OSError if that is not known.
    Waits for the disk. `before` as in `replace`."""
    os.close(replace(path, data, before, sync=True))


def replace(path: str, data: bytes, before: str = "", *, sync: bool = False) -> int:
    """An fd that appends to the file, which holds this data instead. OSError, and no fd, if not.

    `before` is a name under which what was there stays. In this order, so that at each moment a whole file is at `path`
    (rename(2)), and with `sync` after a power cut as well (fsync(2)):

    1. the data into `path.new`; with `sync`, fsync of it
    2. the file at `path` gets its second name
    3. rename of `path.new` to `path`
    4. with `sync`, fsync of the folder
    """
    folder, aside = os.path.dirname(path), f"{path}.new"
    # It can have been missing, or been unmounted, when the daemon started.
    os.makedirs(folder, 0o700, exist_ok=True)
    fd = os.open(aside, _APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
        if before:
            _name_also(path, before)
        os.rename(aside, path)
        if sync:
            _sync_folder(folder)
    except OSError:
        os.close(fd)
        remove(aside)
        raise
    return fd


def _name_also(path: str, before: str) -> None:
    """Where a file can have one name only, or the kernel forbids a second (fs.protected_hardlinks), it moves there:
    then for a moment there is none at `path`, and whoever reads takes the one before."""
    remove(before)
    try:
        os.link(path, before)
    except FileNotFoundError:
        return
    except OSError:
        os.rename(path, before)


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """If it is there, and can be."""
    try:
        os.unlink(path)
    except OSError:
        pass


def append(fd: int, data: bytes) -> None:
    """All of it or, with an OSError, nothing: a short write is taken back."""
    written = os.write(fd, data)
    if written < len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_append(path: str) -> int:
    """One of MISSING when there is none: `replace` makes one, with its header."""
    return os.open(path, _APPEND)


def boot_id() -> str:
    """Differs from boot to boot (random(4)) and, by when process 1 began (proc(5), stat field 22), from one start of a
    container to the next. Without the latter where that cannot be seen, /proc being mounted so that it hides others'
    processes say."""
    boot = read_whole("/proc/sys/kernel/random/boot_id").decode().strip()
    ticks = start_ticks(1)
    return f"{boot}/{ticks}" if ticks else boot


def is_same_boot(one: str, other: str) -> bool:
    """Whether processes that are known by their numbers under the one may be there under the other. Where only one of
    them says when process 1 began, the boot decides."""
    (boot, _, ticks), (other_boot, _, other_ticks) = one.partition("/"), other.partition("/")
    return boot == other_boot and (ticks == other_ticks or not (ticks and other_ticks))

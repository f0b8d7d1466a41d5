"""Compresses rotated log files of one folder, one after the other, in an order that a kill at any point survives:

1. NAME.gz.part is written, with the owner, mode and times of NAME
2. it is synced to the disk
3. it gets the name NAME.gz, and the folder is synced
4. NAME is removed; where both are there, NAME.gz is whole

The folder may be an app's user's own: it is known by its fd alone, and nothing but regular files with no other name is
read or written in it.
"""

import errno
import gzip
import os
import stat
import sys
from _signal import SIGKILL

import _prctl

LEVEL = 6
PIECE = 256 * 1024
FOLDER = 3
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def main() -> int:
    """The words behind the first two are the daemon's pid and the names of files in the folder that FOLDER is an fd of.
    A line on standard output for each that cannot be compressed says why; it stays as it is. Ends with the daemon."""
    _prctl.prctl(_prctl.PR_SET_PDEATHSIG, SIGKILL)
    daemon, *names = sys.argv[3:]
    if os.getppid() != int(daemon):
        # It has ended before we could hear of it.
        return 1
    for name in names:
        try:
            compress(FOLDER, name)
        except OSError as error:
            os.write(1, os.fsencode(f"{name}: {error.strerror}\n"))
    return 0


def compress(within: int, name: str) -> None:
    """`within` is an fd of its folder. OSError."""
    try:
        source = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=within)
    except FileNotFoundError:
        return
    with open(source, "rb", 0) as file:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_nlink > 1:
            raise OSError(errno.EPERM, "the file has another name as well")
        part = f"{name}.gz.part"
        target = _make(within, part)
        try:
            with open(target, "wb", 0) as raw:
                with gzip.GzipFile("", "wb", LEVEL, raw, found.st_mtime) as packed:
                    while piece := file.read(PIECE):
                        packed.write(piece)
                os.fchown(target, found.st_uid, found.st_gid)
                os.fchmod(target, found.st_mode & 0o777)
                os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
                os.fsync(target)
            if not os.fstat(source).st_nlink:
                # It was one too many, and is not to come back.
                os.unlink(part, dir_fd=within)
                return
            os.rename(part, f"{name}.gz", src_dir_fd=within, dst_dir_fd=within)
        except OSError:
            os.unlink(part, dir_fd=within)
            raise
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    os.unlink(name, dir_fd=within)


def _make(within: int, name: str) -> int:
    """A file of that name which nobody else has made; what a killed one has left goes."""
    try:
        os.unlink(name, dir_fd=within)
    except FileNotFoundError:
        pass
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=within)

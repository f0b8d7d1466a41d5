"""Compresses rotated log files, one after the other, in an order that a kill at any point survives:

1. NAME.gz.part is written, with the owner, mode and times of NAME
2. it is synced to the disk
3. it gets the name NAME.gz, and the folder is synced
4. NAME is removed; where both are there, NAME.gz is whole
"""

import gzip
import os
import sys
from _signal import SIGKILL

import _prctl

LEVEL = 6
PIECE = 256 * 1024


def main() -> int:
    """The words behind the first two are the daemon's pid and the files. A line on standard output for each that cannot
    be compressed says why; it stays as it is. Ends with the daemon."""
    _prctl.prctl(_prctl.PR_SET_PDEATHSIG, SIGKILL)
    daemon, *names = sys.argv[3:]
    if os.getppid() != int(daemon):
        # It has ended before we could hear of it.
        return 1
    for name in names:
        try:
            compress(name)
        except OSError as error:
            os.write(1, os.fsencode(f"{name}: {error.strerror}\n"))
    return 0


def compress(name: str) -> None:
    try:
        source = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with open(source, "rb", 0) as file:
        found = os.fstat(source)
        part = f"{name}.gz.part"
        target = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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
                os.unlink(part)
                return
            os.rename(part, f"{name}.gz")
        except OSError:
            os.unlink(part)
            raise
    folder = os.open(os.path.dirname(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    os.unlink(name)

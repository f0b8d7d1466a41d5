"""How many bytes of a pipe were dropped and not told of yet: in the run folder, as `NAME.dropped`, so that the next
daemon tells of what a killed one has dropped. What it was dropping at that very moment is not in it."""

import os

from oxmgr.supervisor.native import read_whole

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def _path(fifo: str) -> str:
    return f"{fifo}.dropped"


def save(fifo: str, count: int, why: str) -> None:
    """In one write, so that a kill leaves the old count or the new one; what was longer stands behind it unread."""
    try:
        fd = os.open(_path(fifo), _FLAGS, 0o600)
    except OSError:
        # The run folder has no room either: then only this daemon knows.
        return
    try:
        os.pwrite(fd, f"{count}\n{why}\n".encode(errors="surrogateescape"), 0)
    except OSError:
        return
    finally:
        os.close(fd)


def load(fifo: str) -> tuple[int, str]:
    """The count and why; 0 and "" when there is none."""
    try:
        count, why, _ = read_whole(_path(fifo)).split(b"\n", 2)
        return int(count), os.fsdecode(why)
    except (OSError, ValueError):
        return 0, ""


def forget(fifo: str) -> None:
    """It was told."""
    try:
        os.unlink(_path(fifo))
    except OSError:
        return

"""Opens files where others than root may have put something else, for the daemon, its helpers and the command alike."""

import errno
import os

LINKS_LIMIT = 40
"""As the kernel has it (path_resolution(7))."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_to_read(path: str) -> int:
    """An fd; where root reads, of what stands at that very place: a symbolic link or a second name in a folder that
    others can change may be of a file that only root can read, and whoever put it there is not to be shown that.
    OSError."""
    if os.geteuid():
        return os.open(path, _READ)
    folder, _, name = os.path.abspath(path).rpartition("/")
    within = open_folder(folder or "/")
    try:
        ours = is_roots(within)
        fd = os.open(name, _READ if ours else _READ | os.O_NOFOLLOW, dir_fd=within)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(within)
    if not ours and os.fstat(fd).st_nlink > 1:
        os.close(fd)
        raise OSError(errno.EPERM, "the file has another name as well", path)
    return fd


def is_roots(folder: int) -> bool:
    """Whether nobody else can change what is in it."""
    found = os.fstat(folder)
    return not found.st_uid and not found.st_mode & 0o022


def open_folder(path: str) -> int:
    """An fd of a folder, for whom it is root's business where that is: no symbolic link is followed that somebody else
    could have put there, that is, in a folder that is not root's or that others may write to. OSError."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid():
        return os.open(path, flags)
    fd = os.open("/", flags)
    todo = [part for part in reversed(path.split("/")) if part]
    links = 0
    try:
        while todo:
            part = todo.pop()
            try:
                step = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                error.filename = path
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                try:
                    to = os.readlink(part, dir_fd=fd)
                except OSError:
                    raise error from None
                links += 1
                if not is_roots(fd) or links > LINKS_LIMIT:
                    why = f"{part} is a symbolic link that others than root can change"
                    raise OSError(errno.EPERM, why, path) from None
                todo += [one for one in reversed(to.split("/")) if one]
                step = os.open("/" if to.startswith("/") else ".", flags, dir_fd=fd)
            os.close(fd)
            fd = step
    except BaseException:
        os.close(fd)
        raise
    return fd

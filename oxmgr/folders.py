"""Folders of logs, which may be an app's user's own. What root does in one it does by an fd of it, so that nobody leads
it elsewhere by a symbolic link in the place of a folder or of a file. For the daemon, its helpers and the command."""

import errno
import os
import stat

LINKS_LIMIT = 40
"""As the kernel has it (path_resolution(7))."""
MODE = 0o640
FOLDER_MODE = 0o750
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FILE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def open_folder(path: str, *, make: bool = False) -> int:
    """An O_PATH fd of a folder, for whom it is root's business where that is: no symbolic link is followed that
    somebody else could have put there, that is, in a folder that is not root's or that others may write to. With
    `make`, what is missing is made. OSError."""
    path = path or "/"
    if os.geteuid():
        if make:
            os.makedirs(path, FOLDER_MODE, exist_ok=True)
        return os.open(path, _FOLDER)
    fd = os.open("/", _FOLDER)
    todo = [part for part in reversed(path.split("/")) if part]
    links = 0
    try:
        while todo:
            part = todo.pop()
            try:
                step = _step(fd, part, make)
            except OSError as error:
                error.filename = path
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                try:
                    to = os.readlink(part, dir_fd=fd)
                except OSError:
                    raise error from None
                links += 1
                if not _is_roots(fd) or links > LINKS_LIMIT:
                    why = f"{part} is a symbolic link that others than root can change"
                    raise OSError(errno.EPERM, why, path) from None
                todo += [one for one in reversed(to.split("/")) if one]
                step = os.open("/" if to.startswith("/") else ".", _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = step
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_roots(folder: int) -> bool:
    """Whether nobody else can change what is in it."""
    found = os.fstat(folder)
    return not found.st_uid and not found.st_mode & 0o022


def _step(within: int, name: str, make: bool) -> int:
    flags = _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=within)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=within)
    except FileExistsError:
        pass
    return os.open(name, flags, dir_fd=within)


def names_in(within: int) -> list[str]:
    """In order. OSError."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def open_file(within: int, name: str, flags: int) -> int:
    """A regular file that has no other name, without waiting for anybody; one that is made may be read by its group,
    whatever the daemon's umask is. OSError."""
    fd = os.open(name, flags | _FILE, MODE, dir_fd=within)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", name)
        if found.st_nlink > 1:
            raise OSError(errno.EPERM, "the file has another name as well", name)
        if flags & os.O_CREAT and not found.st_size and found.st_uid == os.geteuid():
            os.fchmod(fd, MODE)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_to_read(path: str) -> int:
    """What stands there; where root reads in a folder that others can change, a regular file that has no other name: a
    link may lead to one that only root can read, and whoever has put it there is not to be shown that. OSError."""
    if os.geteuid():
        return os.open(path, _READ)
    folder, _, name = os.path.abspath(path).rpartition("/")
    within = open_folder(folder)
    try:
        return os.open(name, _READ, dir_fd=within) if _is_roots(within) else open_file(within, name, os.O_RDONLY)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(within)

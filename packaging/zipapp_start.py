"""The first that runs of oxmgr.pyz: sees to it that what is in it lies unpacked in the user's cache, and goes on there.

What is executed out of that folder is as good as what is typed. So nobody else may write to it, nor to one above it.
"""

import fcntl
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zipfile import ZipFile

OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Unusable(Exception):
    """Says what the matter is with the cache, and what to do."""


def main(name: str) -> int:
    """The exit code. `name` is the folder's, after what is in it."""
    try:
        folder = _find(name)
    except Unusable as error:
        sys.stderr.write(f"oxmgr: {error}\n")
        return 1
    # All is in the folder: what this machine has of the same names might be another version.
    sys.path[:] = [folder, *(path for path in sys.path[1:] if not path.endswith("-packages"))]
    from oxmgr.__main__ import main as run

    return run()


def _cache() -> str:
    home, cache, user = (os.environ.get(key, "") for key in ("OXMGR_HOME", "XDG_CACHE_HOME", "HOME"))
    if home:
        return f"{os.path.abspath(home)}/cache"
    if os.geteuid() == 0:
        return "/var/cache/oxmgr"
    if cache.startswith("/"):
        return f"{cache}/oxmgr"
    if user.startswith("/"):
        return f"{user}/.cache/oxmgr"
    raise Unusable("none of OXMGR_HOME, XDG_CACHE_HOME and HOME is set: set one to a folder of yours")


def _find(name: str) -> str:
    """The folder, unpacked, and held for as long as this process lives and executes nothing else."""
    base = os.path.realpath(_cache())
    folder = f"{base}/{name}"
    try:
        while not _hold(folder):
            os.makedirs(base, 0o700, exist_ok=True)
            wrong = _wrong(base)
            if wrong:
                raise _unusable(base, wrong)
            _unpack(base, name)
        wrong = _wrong(folder)
    except OSError as error:
        wrong = f"{error.filename or base}: {error.strerror}"
    if wrong:
        raise _unusable(base, wrong)
    return folder


def _unusable(base: str, why: str) -> Unusable:
    places = "OXMGR_HOME" if os.geteuid() == 0 else "XDG_CACHE_HOME, or OXMGR_HOME,"
    return Unusable(
        f"this file unpacks itself into {base} and runs from there, but {why}: "
        f"mend that, or set {places} to a folder of yours where programs can be executed"
    )


def _wrong(folder: str) -> str:
    """Why nothing may be run out of it, or ""."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & OTHERS:
        return f"{folder} is not a folder that you alone can write to"
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return "nothing can be executed there, its file system is mounted with noexec"
    while folder != "/":
        folder = os.path.dirname(folder)
        found = os.stat(folder)
        if found.st_uid not in (0, os.geteuid()) or (found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX):
            return f"{folder} can be written to by others"
    return ""


def _hold(folder: str) -> bool:
    """Whether it is there; nobody removes it then (_remove_unused)."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        _lock(fd, fcntl.LOCK_SH)
        return os.path.samestat(os.fstat(fd), os.stat(folder))
    except FileNotFoundError:
        return False


def _lock(fd: int, how: int) -> bool:
    """False where there are no locks, and with LOCK_NB where another has it."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True


# --- the first start ---


def _unpack(base: str, name: str) -> None:
    """Aside, and renamed when all of it is on the disk: what has the name is whole, whenever this was interrupted."""
    import io
    import shutil
    import zipfile

    lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock, fcntl.LOCK_EX)
        if os.path.isdir(f"{base}/{name}"):
            return  # by another, meanwhile
        for left in filter(_is_aside, os.listdir(base)):
            shutil.rmtree(f"{base}/{left}")
        aside = f"{base}/{_aside(name)}"
        os.mkdir(aside, 0o700)
        data = __loader__.get_data(f"{__loader__.archive}/payload.zip")  # type: ignore[name-defined]
        with zipfile.ZipFile(io.BytesIO(data)) as payload:
            _extract(payload, aside)
        os.rename(aside, f"{base}/{name}")
        os.fsync(lock)
        _remove_unused(base, name)
    finally:
        os.close(lock)


def _aside(name: str) -> str:
    return f".{name}"


def _is_aside(name: str) -> bool:
    return name.startswith(".")


def _extract(payload: "ZipFile", folder: str) -> None:
    for info in payload.infolist():
        path = f"{folder}/{info.filename}"
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, info.external_attr >> 16), "wb") as file:
            file.write(payload.read(info))
    # Once all are written: that is one write of the journal for most of them.
    for info in payload.infolist():
        fd = os.open(f"{folder}/{info.filename}", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _remove_unused(base: str, name: str) -> None:
    """The folders of other versions, but those that a command holds or that a process was started from: its guard, a
    daemon, an app that a part of it was loaded into, and whose children will load it."""
    import shutil

    held = {}
    for other in os.listdir(base):
        if other != name and not _is_aside(other):
            fd = os.open(f"{base}/{other}", os.O_RDONLY)
            if _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                held[other] = fd
    # Only now, for whoever begins from now on waits for us.
    said = _said_by_processes() if held else b""
    for other in held:
        if f"{base}/{other}".encode() not in said:
            os.rename(f"{base}/{other}", f"{base}/{_aside(other)}")
            shutil.rmtree(f"{base}/{_aside(other)}", ignore_errors=True)
    for fd in held.values():
        os.close(fd)


def _said_by_processes() -> bytes:
    """Where the programs lie that run, their words and their environments, as far as they are ours to read."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            # Executing, a process has its program first, then it gives up what it holds, then it has words.
            found.append(os.fsencode(os.readlink(f"/proc/{pid}/exe")))
            for kind in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{kind}", "rb") as file:
                    found.append(file.read())
        except OSError:
            continue
    return b"\n".join(found)

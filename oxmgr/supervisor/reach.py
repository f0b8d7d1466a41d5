"""Whether an app can reach a file of ours, with its user and its mounts; and so where its NOTIFY_SOCKET is."""

import os
import stat
from binascii import crc32

from oxmgr.model.listen import UNIX_LIMIT
from oxmgr.model.spec import Sandbox
from oxmgr.supervisor.rights import TMP_FOLDERS

OPEN = 0o711
"""What anybody may go through, and nobody else look into."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxmgr.model.places import Places
    from oxmgr.supervisor.instance import Instance


def is_hidden(path: str, sandbox: Sandbox) -> bool:
    """Whether its private /tmp covers it."""
    real = os.path.realpath(path)
    return sandbox.private_tmp and any(real == folder or real.startswith(f"{folder}/") for folder in TMP_FOLDERS)


def is_searchable(path: str, sandbox: Sandbox) -> bool:
    """Whether its user may go as far as to this folder (path_resolution(7))."""
    if sandbox.uid <= 0:
        return True
    path = os.path.realpath(path)
    while True:
        try:
            found = os.stat(path)
        except OSError:
            return False
        if not _may(found, sandbox, stat.S_IXOTH):
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


def is_readable(path: str, sandbox: Sandbox) -> bool:
    """Whether it can read this file."""
    if is_hidden(path, sandbox) or not is_searchable(os.path.dirname(path), sandbox):
        return False
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (sandbox.uid <= 0 or _may(found, sandbox, stat.S_IROTH))


def _may(found: os.stat_result, sandbox: Sandbox, others: int) -> bool:
    if found.st_uid == sandbox.uid:
        return bool(found.st_mode & others << 6)
    if found.st_gid in (sandbox.gid, *sandbox.groups):
        return bool(found.st_mode & others << 3)
    return bool(found.st_mode & others)


def notify_place(instance: "Instance", places: "Places") -> tuple[str, str]:
    """A path, of which the rights say who may send to it: in the run folder, or else in a folder of ours that anybody
    may go through. Where the app can reach neither, @ and an abstract name, which has no rights and is of one network
    (unix(7)); and a warning when it cannot reach that either."""
    sandbox = instance.app.spec.sandbox
    name = f"{instance.folder}.notify"
    for folder in _folders(places):
        path = f"{folder}/{name}"
        if len(os.fsencode(path)) <= UNIX_LIMIT and not is_hidden(path, sandbox) and is_searchable(folder, sandbox):
            return path, ""
    why = "it cannot reach its NOTIFY_SOCKET from its sandbox" if sandbox.private_network else ""
    return f"@{_own_name(places)}/{name}", why


def _folders(places: "Places") -> "Iterator[str]":
    """The next one is made when the ones before are no use."""
    yield places.run
    for above in ("/run", "/dev/shm"):
        path = f"{above}/{_own_name(places)}"
        try:
            os.mkdir(path)
        except FileExistsError:
            pass
        except OSError:
            continue
        found = os.lstat(path)
        # Where everybody may write nobody can replace ours: the sticky bit.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            os.chmod(path, OPEN)
            yield path


def _own_name(places: "Places") -> str:
    return f"oxmgr-{crc32(os.fsencode(places.run)):08x}"

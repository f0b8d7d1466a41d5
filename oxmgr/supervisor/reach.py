"""Whether an app can reach a file of ours, with its user and its mounts; and so where its NOTIFY_SOCKET is."""

import os
import stat
from binascii import crc32

from oxmgr.model.listen import UNIX_LIMIT
from oxmgr.model.spec import Sandbox
from oxmgr.supervisor.rights import TMP_FOLDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    """A path in the run folder, or @ and an abstract name, which needs no way through folders but is of one network
    (unix(7)); and a warning when it can reach neither."""
    sandbox = instance.app.spec.sandbox
    path = f"{places.run}/{instance.folder}.notify"
    short = len(os.fsencode(path)) <= UNIX_LIMIT
    if short and not is_hidden(path, sandbox) and is_searchable(places.run, sandbox):
        return path, ""
    name = f"@oxmgr-{crc32(os.fsencode(places.run)):08x}/{instance.folder}.notify"
    if not sandbox.private_network:
        return name, ""
    return (
        path if short else name,
        f"it cannot reach its NOTIFY_SOCKET from its sandbox: {places.run} is not its to enter",
    )

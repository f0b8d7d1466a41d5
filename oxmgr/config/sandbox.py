"""`[processes.NAME.sandbox]` → Sandbox. Looks users and groups up, so that the daemon asks no name service."""

import grp
import os
import pwd
from collections.abc import Callable
from typing import NamedTuple

from oxmgr.config.errors import nearest
from oxmgr.config.values import show
from oxmgr.model.spec import Sandbox

ID_LIMIT = 2**31 - 1
"""Above it, not all of the kernel's interfaces know a number from -1 and its like."""

PRIVATE_TMP = ("/tmp", "/var/tmp")
"""The folders that private_tmp covers."""

NEEDS_ROOT = ("capabilities", "private_tmp", "private_network", "read_only_paths")

Tell = Callable[..., None]
"""tell(message, key, …): what is wrong, and the keys of the table that it is about."""


class Caller(NamedTuple):
    """Who reads the file; the daemon that gets the specs has the same rights."""

    uid: int
    gid: int


class User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str
    shell: str
    known: bool


def this_caller() -> Caller:
    return Caller(os.geteuid(), os.getegid())


def make_sandbox(values: dict[str, object], caller: Caller, tell: Tell) -> Sandbox:
    """From values that were read one by one; `tell` gets what this host or the caller's rights do not allow."""
    rest = dict(values)
    identity = _identity(rest.pop("user", None), rest.pop("group", None), caller, tell)
    if caller.uid != 0:
        for key in NEEDS_ROOT:
            # `capabilities = []` is asked for too: to have none.
            if rest.get(key) or (key == "capabilities" and key in rest):
                tell(needs_root(caller), key)
    return Sandbox(**identity, **rest)  # type: ignore[arg-type]


def _identity(user: object, group: object, caller: Caller, tell: Tell) -> dict[str, object]:
    """The fields of Sandbox that say who an app runs as."""
    found: dict[str, object] = {}
    gid = -1
    if group is not None:
        try:
            gid = find_group(group)
        except ValueError as wrong:
            tell(str(wrong), "group")
    one: User | None = None
    if user is not None:
        try:
            one = find_user(user, gid)
        except ValueError as wrong:
            tell(str(wrong), "user")
    if one is not None:
        found.update(user=one.name, home=one.home, shell=one.shell)
    if caller.uid != 0:
        # An app runs as the caller anyway; to set that anew, the groups above all, would take root's rights.
        if one is not None and one.uid != caller.uid:
            tell(needs_root(caller), "user")
        if gid not in (-1, caller.gid):
            tell(needs_root(caller), "group")
        return found
    if one is not None:
        gid = one.gid if gid == -1 else gid
        found.update(uid=one.uid, groups=os.getgrouplist(one.name, gid) if one.known else [gid])
    elif gid != -1:
        found.update(groups=[gid])
    return found | {"gid": gid}


def find_user(wanted: object, gid: int) -> User:
    """A number that no user has stands for itself; its group is `gid`, or else the same number."""
    entry = _passwd_entry(wanted)
    if entry is None:
        number = int(str(wanted))
        return User(str(number), number, number if gid == -1 else gid, "/", "/bin/sh", known=False)
    # passwd(5): an empty shell is /bin/sh.
    home, shell = entry.pw_dir or "/", entry.pw_shell or "/bin/sh"
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, home, shell, known=True)


def _passwd_entry(wanted: object) -> pwd.struct_passwd | None:
    """By name, else by number; None for a number that nobody has."""
    if isinstance(wanted, str):
        try:
            return pwd.getpwnam(wanted)
        except KeyError:
            pass
    number = _number("user", wanted)
    if number is None:
        near = nearest(str(wanted), [one.pw_name for one in pwd.getpwall()])
        raise ValueError(f"there is no user {show(wanted)} on this host{near}")
    try:
        return pwd.getpwuid(number)
    except KeyError:
        return None


def find_group(wanted: object) -> int:
    """By name, else by number, which need not be anybody's."""
    if isinstance(wanted, str):
        try:
            return grp.getgrnam(wanted).gr_gid
        except KeyError:
            pass
    number = _number("group", wanted)
    if number is None:
        near = nearest(str(wanted), [one.gr_name for one in grp.getgrall()])
        raise ValueError(f"there is no group {show(wanted)} on this host{near}")
    return number


def _number(what: str, wanted: object) -> int | None:
    """None for what is a name."""
    text = str(wanted)
    if isinstance(wanted, str) and not (text.isascii() and text.isdecimal()):
        return None
    # Python reads no more than 4300 digits.
    if len(text) > 10 or not 0 <= int(text) <= ID_LIMIT:
        raise ValueError(f"expected the name of a {what} or a number from 0 to {ID_LIMIT}, got {text[:20]}")
    return int(text)


def needs_root(caller: Caller) -> str:
    try:
        who = pwd.getpwuid(caller.uid).pw_name
    except KeyError:
        who = f"user {caller.uid}"
    return f"needs a daemon with root's rights: yours has those of {who}; start oxmgr as root, or take this out"

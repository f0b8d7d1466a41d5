"""What `listen` and the keys beside it do not go together with."""

import os
from collections.abc import Callable
from typing import Any

from oxmgr.config.sandbox import Caller, find_group, find_user, needs_root
from oxmgr.model.listen import FIRST_FD, UNIX, Address, read_address
from oxmgr.model.node import is_node

Tell = Callable[[str, str], None]
"""tell(message, key)"""


def check_sockets(read: dict[str, Any], command: tuple[list[str], str] | None, caller: Caller, tell: Tell) -> None:
    """What of an app's values does not go together; `socket_user` and `socket_group` become numbers."""
    listen = [read_address(text) for text in read.get("listen", ())]
    ready = str(read.get("ready", ""))
    node = command is not None and is_node(*command)
    if listen and getattr(read.get("sandbox"), "private_network", False):
        tell("would be a way out of the private_network of its sandbox: take one of them out", "listen")
    if ready.startswith("fd:") and int(ready[3:]) < FIRST_FD + len(listen):
        last = FIRST_FD + len(listen) - 1
        held = f"fds {FIRST_FD} to {last} are" if listen[1:] else f"fd {FIRST_FD} is"
        tell(f'{held} what it is to listen at: take "fd:{last + 1}"', "ready")
    if ready == "listen" and listen and command is not None and not (node or read.get("bind_shim")):
        tell('what oxmgr holds listens from the start: use "notify", "http://…" or "command:…"', "ready")
    if read.get("shutdown_with_message") and command is not None and not node:
        tell(f"is for Node apps, and {os.path.basename(command[0][0])} is none", "shutdown_with_message")
    _check_kinds(read, listen, tell)
    _own(read, caller, tell)


def _check_kinds(read: dict[str, Any], listen: list[Address], tell: Tell) -> None:
    unix = next((one for one in listen if one.kind == UNIX), None)
    if read.get("reuse_port") and unix is not None:
        tell(f"a port can be shared so, {unix.place} cannot", "reuse_port")
    for key in ("reuse_port", "bind_shim"):
        if read.get(key) and not listen:
            tell("there is no listen that it would be for", key)
    for key in ("socket_mode", "socket_user", "socket_group"):
        if key in read and unix is None:
            tell('is for a "unix:/path" in listen, and there is none', key)


def _own(read: dict[str, Any], caller: Caller, tell: Tell) -> None:
    user, group = read.pop("socket_user", None), read.pop("socket_group", None)
    try:
        if user is not None:
            read["socket_uid"] = find_user(user, -1).uid
            if caller.uid not in (0, read["socket_uid"]):
                tell(needs_root(caller), "socket_user")
    except ValueError as wrong:
        tell(str(wrong), "socket_user")
    try:
        if group is not None:
            read["socket_gid"] = find_group(group)
            if caller.uid != 0 and read["socket_gid"] not in (caller.gid, *os.getgroups()):
                tell(needs_root(caller), "socket_group")
    except ValueError as wrong:
        tell(str(wrong), "socket_group")

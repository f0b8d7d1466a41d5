"""What an apply does: pure, from what is desired and what is asked for."""

from binascii import crc32

from oxmgr.model.codec import encode
from oxmgr.model.messages import Change
from oxmgr.model.node import has_channel
from oxmgr.model.spec import Spec
from oxmgr.supervisor.outputs import plumbing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

_PLAIN = Spec("", "", [], "")
RESTARTING_KEYS = (
    *("argv", "working_dir", "env", "sandbox", "stdin", "watchdog_secs"),
    *("listen", "reuse_port", "bind_shim", "socket_mode", "socket_uid", "socket_gid"),
)
"""A change of any other key needs no new process, but for one of logs that changes what its fds 1 and 2 are, and one
that gives it a channel."""


def must_restart(new: Spec, old: Spec) -> bool:
    if new.schedule and old.schedule:
        # Its next run is another process anyway.
        return False
    if bool(new.schedule) != bool(old.schedule):
        return True
    changed = any(getattr(new, key) != getattr(old, key) for key in RESTARTING_KEYS)
    return changed or plumbing(new) != plumbing(old) or (has_channel(new) and not has_channel(old))


def fingerprint(spec: Spec) -> int:
    """Of what cannot be changed while an app runs. What is as it is by default does not count, so that a version that
    knows more keys finds the same."""
    own = {key: getattr(spec, key) for key in RESTARTING_KEYS if getattr(spec, key) != getattr(_PLAIN, key)}
    return crc32(encode([own, plumbing(spec), has_channel(spec)]))


def plan(
    asked: "Iterable[Spec]",
    desired: dict[str, Spec],
    idle: "Container[str]",
    stale: "Container[str]",
    *,
    prune: bool,
) -> list[Change]:
    """A change for each spec, in their order, then the deletions. Of the `idle` something is to be started, and of the
    `stale` replaced, although nothing of their spec has changed."""
    changes: list[Change] = []
    named: set[str] = set()
    for spec in asked:
        named.add(spec.name)
        old = desired.get(spec.name)
        if old is None:
            changes.append(Change(spec.name, "add"))
            continue
        keys = [key for key in Spec.__struct_fields__ if getattr(spec, key) != getattr(old, key)]
        same = "start" if spec.name in idle else "reload" if spec.name in stale else "keep"
        changes.append(Change(spec.name, "change" if keys else same, keys))
    if prune:
        changes += [Change(name, "delete") for name in desired if name not in named]
    return changes

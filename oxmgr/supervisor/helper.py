"""Starts helper processes: programs of oxmgr.helpers, in a bare interpreter as the daemon's own is."""

import os
import sys
from _signal import SIGKILL, pidfd_send_signal

from oxmgr.supervisor import native

BESIDE: set[int] = set()
"""The pids of children that are no app's, and not reaped yet: helpers, and commands that were born as what they are run
for. Of what just executes nothing says whose it is, and a helper would be taken for what an app has left."""


def start_helper(
    name: str,
    words: "list[str]",
    fds: list[int],
    *,
    environ: bytes = b"",
    cgroup: int = -1,
    nice: int | None = None,
    network: int = -1,
) -> tuple[int, int]:
    """(pid, pidfd), as of native.spawn. The words follow the name and the folders of the libraries. OSError."""
    package = __file__.rpartition("/supervisor/")[0]
    command = [sys.executable, "-I", "-S", f"{package}/__main__.py", name, ":".join(sys.path[1:]), *words]
    argv = os.fsencode("".join(f"{word}\0" for word in command))
    return start_beside(argv, environ, fds, cgroup=cgroup, nice=nice, network=network)


def start_beside(
    argv: bytes, environ: bytes, fds: list[int], *, cgroup: int = -1, nice: int | None = None, network: int = -1
) -> tuple[int, int]:
    """Of the loop's thread alone. As native.spawn."""
    pid, pidfd = native.spawn(argv, environ, b"", b"/", fds, [], 0o077, cgroup=cgroup, nice=nice, network=network)
    BESIDE.add(pid)
    return pid, pidfd


def end_helper(pidfd: int) -> None:
    """Kill it, if it has not ended; without a pidfd it ends with the daemon."""
    if pidfd < 0:
        return
    try:
        pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        pass
    os.close(pidfd)

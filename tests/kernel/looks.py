"""What the tests of this suite look at: a daemon's events, an instance's cgroup, a process."""

import sys
from pathlib import Path

from oxmgr.model.messages import Event, GetDaemon, GetEvents
from oxmgr.supervisor import cgroup
from tests.conftest import Home, wait_until
from tests.kernel.systemd import CGROUPS

# The interpreter and the repository where every user can reach them.
PYTHON_FOR_ALL = f"/usr/for-all/python/{Path(sys.executable).resolve().relative_to(sys.base_prefix)}"
REPOSITORY_FOR_ALL = "/usr/for-all/repository"

SLEEP = "echo up; exec sleep 1000"


def events(home: Home, kind: str, instance: str) -> list[Event]:
    """All of that kind that the daemon has told of an instance."""
    told = home.connect().stream(GetEvents(limit=10_000))
    return [one for one in told if isinstance(one, Event) and (one.kind, one.instance) == (kind, instance)]


def ladders(home: Home) -> dict[str, str]:
    """On which steps the daemon says that it stands."""
    return home.connect().request(GetDaemon()).ladders  # type: ignore[union-attr]


def folder(home: Home, name: str) -> Path:
    """The cgroup of an instance."""
    return Path(home.views()[name].cgroup or "/none")


def read(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()


def members(folder: Path) -> list[int]:
    """What lives in a cgroup and below it."""
    return cgroup.pids(str(folder))


def switched_on() -> str:
    """The controllers at the top of the hierarchy."""
    return read(CGROUPS, "cgroup.subtree_control")


def is_alive(pid: int) -> bool:
    return state(pid) not in ("Z", "gone")


def state(pid: int) -> str:
    """One letter, as proc(5) has it, or "gone"."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def until_said(home: Home, name: str, text: str, times: int = 1) -> str:
    """The log of an app as soon as that is in it so many times."""
    wait_until(lambda: home.log(name).count(text) >= times, f"{name} to say {text!r} {times} times")
    return home.log(name)


def until_exited(home: Home, name: str) -> str:
    """The log of an app that ends by itself, whole."""
    home.until(name, lambda view: view.status == "exited", "its end")
    return home.log(name)

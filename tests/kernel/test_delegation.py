"""The daemon as a service of systemd's: in the cgroup that was delegated to it, and what it does without one."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.launch import daemon_argv
from oxmgr.model.spec import STARTED, Limits
from tests.conftest import DEADLINE, Home, wait_until
from tests.kernel.conftest import cgroups
from tests.kernel.looks import (
    PYTHON_FOR_ALL,
    REPOSITORY_FOR_ALL,
    SLEEP,
    events,
    is_alive,
    ladders,
    members,
    read,
    until_said,
)
from tests.kernel.marks import REPOSITORY
from tests.kernel.systemd import CONTROLLERS, Service, Systemd

NOBODY = 65534
Start = Callable[..., Service]


@pytest.fixture
def start(systemd: Systemd, empty_home: Home) -> Iterator[Start]:
    """Makes the home's daemon a service that answers; nothing but systemd stops it."""
    started: list[Service] = []

    def run(*, delegate: bool, user: int = 0) -> Service:
        if user:
            os.chown(empty_home.folder, user, user)
        argv = [word.replace(str(REPOSITORY), REPOSITORY_FOR_ALL) for word in daemon_argv()]
        argv[0] = PYTHON_FOR_ALL
        settings = (
            f"Type=exec\nKillMode=mixed\nTimeoutStopSec=30\nUser={user}\nEnvironment=OXMGR_HOME={empty_home.folder}"
        )
        service = systemd.start(*argv, delegate=delegate, settings=settings)
        started.append(service)
        wait_until(lambda: answers(empty_home), f"an answer from the daemon: {service.output}", 3 * DEADLINE)
        return service

    yield run
    for service in started:
        service.stop()


def answers(home: Home) -> bool:
    try:
        connect(home.places).close()
    except NoDaemon:
        return False
    return True


def in_the_container(systemd: Systemd, home: Home, name: str) -> Path:
    """The cgroup of an instance as it is seen from here; the daemon has another root."""
    return systemd.cgroup / (home.views()[name].cgroup or "/none").removeprefix("/sys/fs/cgroup/")


def left(systemd: Systemd) -> tuple[set[str], str]:
    """What the end of a daemon must not have changed, below the root that it saw."""
    return cgroups(), read(systemd.cgroup, "cgroup.subtree_control")


def ordered(home: Home, name: str, **keys: object) -> object:
    return home.sh(
        name, f"trap 'echo {name} >>{home.folder}/ends; exit 0' TERM; {SLEEP.replace('exec ', '')} & wait", **keys
    )


@pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "nobody"])
def test_a_daemon_divides_what_was_delegated_to_it_and_limits_hold(
    systemd: Systemd, empty_home: Home, start: Start, user: int
) -> None:
    home = empty_home
    service = start(delegate=True, user=user)
    assert read(service.cgroup, "cgroup.procs") == "", "the daemon has moved to a leaf"
    [pid] = members(service.cgroup / "daemon")
    assert b"__main__.py" in Path(f"/proc/{pid}/cmdline").read_bytes() and os.stat(f"/proc/{pid}").st_uid == user
    assert set(CONTROLLERS) <= set(read(service.cgroup, "cgroup.subtree_control").split())
    assert ladders(home)["trees"].endswith(f"/system.slice/{service.name}")

    script = "[ -e taken ] && exec sleep 1000; touch taken; exec tail /dev/zero"
    done = home.apply(home.sh("app", script, limits=Limits(memory_max_mb=50, tasks_max=9, cpus="1", required=True)))
    assert done.warnings == []
    home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    assert "memory_max_mb is 50" in events(home, "oom", "app")[0].reason
    path = in_the_container(systemd, home, "app")
    assert path == service.cgroup / "app:0" and read(path, "pids.max") == "9" and len(members(path)) == 1
    assert service.show("MainPID") != "0" and service.show("ActiveState") == "active"


def test_the_end_of_the_service_stops_the_apps_in_order_and_its_next_start_starts_them(
    systemd: Systemd, empty_home: Home, start: Start
) -> None:
    home, before = empty_home, left(systemd)
    service = start(delegate=True)
    home.apply(
        ordered(home, "db"),  # type: ignore[arg-type]
        ordered(home, "web", depends_on={"db": STARTED}),  # type: ignore[arg-type]
        ordered(home, "proxy", depends_on={"web": STARTED}),  # type: ignore[arg-type]
    )
    for name in ("db", "web", "proxy"):
        until_said(home, name, "up")
    pids = members(service.cgroup)
    service.stop()
    assert (home.folder / "ends").read_text().split() == ["proxy", "web", "db"]
    assert service.show("Result") == "success" and not any(map(is_alive, pids))
    assert left(systemd) == before
    systemd.systemctl("start", service.name)
    wait_until(lambda: answers(home), "the next daemon", 3 * DEADLINE)
    for name in ("db", "web", "proxy"):
        until_said(home, name, "up", 2)


def test_root_without_delegation_takes_a_subtree_at_the_top_and_gives_it_back(
    systemd: Systemd, empty_home: Home, start: Start
) -> None:
    home, before = empty_home, left(systemd)
    service = start(delegate=False)
    assert len(members(service.cgroup)) == 1, "the daemon stays where systemd has put it"
    home.apply(home.sh("app", f"(setsid sleep 1000 &); {SLEEP}", limits=Limits(memory_max_mb=50, required=True)))
    until_said(home, "app", "up")
    path = in_the_container(systemd, home, "app")
    assert path.parent.parent == systemd.cgroup and path.parent.name.startswith("oxmgr-")
    assert read(path, "memory.max") == str(50 << 20)
    wait_until(lambda: len(members(path)) == 2, "both")
    pids = members(path)
    home.apply(home.sh("app", f"(setsid sleep 1000 &); {SLEEP}", stop_timeout_ms=200))
    service.stop()
    assert not any(map(is_alive, pids)) and left(systemd) == before


def test_a_user_without_delegation_is_told_so_and_nothing_of_a_tree_is_left_all_the_same(
    systemd: Systemd, empty_home: Home, start: Start
) -> None:
    home, before = empty_home, left(systemd)
    service = start(delegate=False, user=NOBODY)
    done = home.apply(
        home.sh("app", f"(setsid sleep 1000 &); {SLEEP}", limits=Limits(memory_max_mb=50), stop_timeout_ms=200)
    )
    [warning] = done.warnings
    assert "limits.memory_max_mb cannot be enforced here" in warning and "Delegate=yes" in warning
    assert "by a walk of descendants" in ladders(home)["trees"]
    view = home.views()["app"]
    assert view.status == "running" and view.cgroup is None and len(view.warnings) == 1
    until_said(home, "app", "up")
    wait_until(lambda: len(members(service.cgroup)) == 3, "the daemon, the app and its runaway")
    pids = members(service.cgroup)
    home.apply(prune=True)
    assert len(members(service.cgroup)) == 1 and sum(map(is_alive, pids)) == 1
    service.stop()
    assert left(systemd) == before

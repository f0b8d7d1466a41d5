"""Where a filter denies a system call, the next rung of its ladder keeps the same promises."""

import os
import signal
import sys
from pathlib import Path

import pytest

from oxmgr.model.messages import Act
from oxmgr.model.spec import NEVER, Limits, Sandbox
from tests.conftest import Home, wait_until
from tests.kernel import deny
from tests.kernel.looks import SLEEP, folder, is_alive, ladders, members, read, switched_on, until_exited, until_said

ALL = ",".join(deny.NUMBERS)
CASES = [(names, error) for names in (*deny.NUMBERS, ALL) for error in ("EPERM", "ENOSYS")]
RUNAWAY = "(setsid sleep 1000 &)"


def id_of(case: tuple[str, str]) -> str:
    return "-".join(case).replace(ALL, "all")


@pytest.fixture
def denied(request: pytest.FixtureRequest, empty_home: Home) -> list[str]:
    """The names of what the daemon may not call; it runs."""
    names, error = request.param
    empty_home.wrap = [sys.executable, "-I", "-S", deny.__file__, error, names]
    empty_home.start_daemon()
    return str(names).split(",")


@pytest.mark.parametrize("denied", CASES, ids=id_of, indirect=True)
def test_the_promises_are_kept_without_that_call(denied: list[str], empty_home: Home) -> None:
    home = empty_home
    in_the_beginning = "cat /proc/self/cgroup; ls -l /proc/self/fd | grep -c -- '->'"
    script = f"{in_the_beginning}; {RUNAWAY}; echo up; exec sleep 1001"
    limits = Limits(tasks_max=9, memory_max_mb=50, required=True)
    home.apply(home.sh("app", script, limits=limits, stop_timeout_ms=200, restart_delay_max_ms=0))
    path = folder(home, "app")
    # Its own first words: the cgroup from before its exec on, and three fds and the one that lists them.
    words = until_said(home, "app", "up").split()
    assert words[0].endswith(f"/{path.name}") and words[1] == "4"
    assert read(path, "pids.max") == "9"
    assert ladders(home)["spawn"].startswith("clone3") == ("clone3" not in denied)
    wait_until(lambda: len(members(path)) == 2, "the main process and the runaway")
    first = members(path)

    os.kill(home.pid("app"), signal.SIGKILL)
    home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    until_said(home, "app", "up", 2)
    assert not any(map(is_alive, first))

    home.apply(home.sh("app", script, limits=Limits(tasks_max=8), stop_timeout_ms=200, restart_delay_max_ms=0))
    path = folder(home, "app")
    assert read(path, "pids.max") == "8" and read(path, "memory.max") == "max", "changed while it runs"
    wait_until(lambda: len(members(path)) == 2, "the main process and the runaway")
    second = members(path)
    home.request(Act("stop", ["app"]))
    assert home.views()["app"].status == "stopped" and not any(map(is_alive, second))


@pytest.mark.parametrize("denied", [case for case in CASES if "mount_setattr" in case[0]], ids=id_of, indirect=True)
def test_what_is_read_only_is_so_with_all_that_is_mounted_below(denied: list[str], empty_home: Home) -> None:
    home = empty_home
    places = ["/usr", str(home.folder), "/dev/shm", "/tmp"]
    script = "; ".join(f"touch {place}/written && echo {place}" for place in places)
    sandbox = Sandbox(private_tmp=True, read_only_paths=["/"])
    home.apply(home.sh("app", script, sandbox=sandbox, restart=NEVER))
    assert until_exited(home, "app") == "/tmp\n"
    assert not any(Path(place, "written").exists() for place in places)


@pytest.mark.parametrize(
    "denied", [case for case in CASES if "pidfd_open" in case[0] or "clone3" in case[0]], ids=id_of, indirect=True
)
def test_the_next_daemon_makes_no_second_tree(denied: list[str], empty_home: Home) -> None:
    home, before = empty_home, switched_on()
    home.apply(home.sh("app", f"{RUNAWAY}; {SLEEP}", stop_timeout_ms=200))
    until_said(home, "app", "up")
    path = folder(home, "app")
    wait_until(lambda: len(members(path)) == 2, "the main process and the runaway")
    first = members(path)
    home.kill_daemon()
    home.start_daemon()
    home.until("app", lambda view: view.status == "running")
    if "pidfd_open" in denied:
        # What cannot be held is not taken over, but ended.
        wait_until(lambda: not any(map(is_alive, first)), "the first tree to be gone")
        until_said(home, "app", "up", 2)
    else:
        assert home.pid("app") in first and members(folder(home, "app")) == first
    assert switched_on() == before

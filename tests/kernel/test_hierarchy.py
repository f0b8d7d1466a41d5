"""A daemon of root's with no service manager: its subtree at the top of the hierarchy, which it leaves as it found it."""

import os
import signal
from pathlib import Path

from oxmgr.model.messages import Act
from oxmgr.model.snapshot import pack
from oxmgr.model.spec import Limits
from tests.conftest import Home, wait_until
from tests.kernel.conftest import cgroups
from tests.kernel.looks import SLEEP, folder, is_alive, ladders, members, read, switched_on, until_said
from tests.kernel.systemd import CGROUPS, CONTROLLERS


def test_the_subtree_and_its_controllers_come_with_the_daemon_and_go_with_it(empty_home: Home) -> None:
    home, before, known = empty_home, switched_on(), cgroups()
    home.start_daemon()
    [base] = CGROUPS.glob("oxmgr-*")
    assert set(CONTROLLERS) <= set(switched_on().split()) & set(read(base, "cgroup.subtree_control").split())
    assert str(base) in ladders(home)["trees"] and "cgroup.kill" in ladders(home)["kill"]
    assert all(controller in ladders(home)["limits"] for controller in CONTROLLERS)
    home.apply(home.sh("app", SLEEP, instances=3))
    assert {folder(home, f"app:{index}") for index in range(3)} == {base / f"app:{index}" for index in range(3)}
    assert home.stop_daemon() == 0
    assert switched_on() == before and cgroups() == known


def test_of_two_daemons_the_last_one_switches_the_controllers_off(empty_home: Home, tmp_path: Path) -> None:
    before, known = switched_on(), cgroups()
    first, second = empty_home, Home(tmp_path)
    first.start_daemon()
    second.start_daemon()
    try:
        assert len(list(CGROUPS.glob("oxmgr-*"))) == 2
        first.stop_daemon()
        second.apply(second.sh("app", SLEEP, limits=Limits(memory_max_mb=50, required=True)))
        assert read(folder(second, "app"), "memory.max") == str(50 << 20), "nothing was taken from the other"
    finally:
        second.end()
    assert switched_on() == before and cgroups() == known


def test_what_a_killed_daemon_left_running_is_taken_over_with_its_limits(empty_home: Home) -> None:
    home, before, known = empty_home, switched_on(), cgroups()
    home.start_daemon()
    script = f"(setsid sleep 1000 &); {SLEEP}"
    limits = Limits(memory_max_mb=50, tasks_max=9, required=True)
    spec = home.sh("app", script, limits=limits, stop_timeout_ms=200, restart_delay_max_ms=0)
    home.apply(spec)
    until_said(home, "app", "up")
    path = folder(home, "app")
    wait_until(lambda: len(members(path)) == 2, "both")
    pids = sorted(members(path))

    home.kill_daemon()
    assert sorted(members(path)) == pids and read(path, "memory.max") == str(50 << 20)
    home.start_daemon()
    assert sorted(members(path)) == pids and home.pid("app") in pids and folder(home, "app") == path
    assert (read(path, "memory.max"), read(path, "pids.max")) == (str(50 << 20), "9")

    home.apply(home.sh("app", script, limits=Limits(tasks_max=8), stop_timeout_ms=200, restart_delay_max_ms=0))
    assert (read(path, "memory.max"), read(path, "pids.max")) == ("max", "8"), "the next daemon knows what was there"
    os.kill(home.pid("app"), signal.SIGKILL)
    until_said(home, "app", "up", 2)
    assert not any(map(is_alive, pids)) and read(folder(home, "app"), "pids.max") == "8"
    home.request(Act("stop", ["app"]))
    assert home.stop_daemon() == 0
    assert switched_on() == before and cgroups() == known, "what the first daemon switched on the last one switches off"


def test_an_end_of_memory_while_no_daemon_was_there_is_one_for_the_next(empty_home: Home) -> None:
    """It is told by what the cgroup has counted, which outlives the daemon that made it."""
    home = empty_home
    home.start_daemon()
    script = "[ -e taken ] && exec sleep 1000; touch taken; echo up; read line; exec tail /dev/zero"
    home.apply(home.sh("app", script, limits=Limits(memory_max_mb=50)))
    until_said(home, "app", "up")
    pid = home.pid("app")
    home.kill_daemon()
    home.start_daemon()
    assert home.pid("app") == pid
    Path(home.places.stdin("app:0")).write_text("go\n")
    view = home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    assert view.oom_kills == 1


def test_left_overs_of_what_nobody_desires_any_more_are_gone_before_anything_starts(empty_home: Home) -> None:
    home = empty_home
    home.start_daemon()
    home.apply(home.sh("app", f"(setsid sleep 1000 &); {SLEEP}"), home.sh("gone", "exec sleep 1001"))
    until_said(home, "app", "up")
    base = folder(home, "app").parent
    wait_until(lambda: len(members(base)) == 3, "all")
    pids = members(base)
    (base / "gone:0" / "below").mkdir()
    home.kill_daemon()
    os.unlink(home.places.journal)
    Path(home.places.desired).write_bytes(pack({}, {}))
    home.start_daemon()
    wait_until(lambda: not any(map(is_alive, pids)), "all of the earlier ones to be gone")
    wait_until(lambda: not list(base.glob("*:*")), "their cgroups to go")
    assert home.views() == {}

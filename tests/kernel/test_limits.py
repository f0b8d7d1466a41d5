"""The other limits of the kernel: in the files of an instance's cgroup, in force, changed while it runs."""

import os
import time
from pathlib import Path

import pytest

from oxmgr.client.connection import Refused
from oxmgr.model.messages import Act
from oxmgr.model.spec import NEVER, Hooks, Limits
from oxmgr.supervisor.cgroup import FREEZE, Cgroups
from tests.conftest import Home, actions, wait_until
from tests.kernel.looks import SLEEP, events, folder, is_alive, members, read, until_said

EVERY = Limits(
    memory_max_mb=100,
    memory_high_mb=80,
    swap_max_mb=10,
    cpu_quota_percent=50,
    cpu_weight=300,
    tasks_max=20,
    io_weight=200,
    cpus="1",
    required=True,
)
FILES = {
    "memory.max": str(100 << 20),
    "memory.high": str(80 << 20),
    "memory.swap.max": str(10 << 20),
    "memory.oom.group": "1",
    "cpu.max": "50000 100000",
    "cpu.weight": "300",
    "pids.max": "20",
    "io.weight": "default 200",
    "cpuset.cpus": "1",
}
NO_LIMIT = {
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "max",
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "pids.max": "max",
    "io.weight": "default 100",
    "cpuset.cpus": "",
}
# A cpuset that something runs in cannot be emptied again: it gets all CPUs that there are.
TAKEN_AWAY = {**NO_LIMIT, "cpuset.cpus": "0-1"}
MEASURED_SECONDS = 5.0
BOMB = """import os, signal
signal.signal(15, signal.SIG_IGN)
print('up')
while True:
    try: os.fork()
    except OSError: pass
"""


def files(path: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: read(path, name) for name in names}


def test_every_limit_is_in_its_file_and_none_is_told_as_missing(home: Home) -> None:
    done = home.apply(home.sh("app", SLEEP, limits=EVERY))
    assert done.warnings == [] and done.failed == {}
    assert files(folder(home, "app"), FILES) == FILES
    assert home.views()["app"].warnings == []


def test_a_hook_has_the_limits_of_its_app_for_itself(home: Home) -> None:
    names = " ".join(FILES)
    looks = f"cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup) && pwd && head -n 1 -v {names}"
    home.apply(home.sh("app", SLEEP, limits=EVERY, hooks=Hooks(pre_start=f"({looks}) > {home.folder}/seen")))
    first, *lines = (home.folder / "seen").read_text().splitlines()
    told = [line for line in lines if line]
    seen = {name.split()[1]: value for name, value in zip(told[::2], told[1::2], strict=True)}
    assert seen == FILES
    assert Path(first) != folder(home, "app")


def test_cpus_are_all_that_the_tree_may_run_on(home: Home) -> None:
    script = "(setsid sleep 1000 &); nproc; exec sleep 1001"
    home.apply(home.sh("app", script, stop_timeout_ms=300, limits=Limits(cpus="1")))
    assert until_said(home, "app", "1\n") == "1\n"
    path = folder(home, "app")
    wait_until(lambda: len(members(path)) == 2, "both")
    assert all(os.sched_getaffinity(pid) == {1} for pid in members(path))
    home.apply(home.sh("app", script, stop_timeout_ms=300))
    assert all(os.sched_getaffinity(pid) == {0, 1} for pid in members(path)), "changed while it runs"


def test_a_fifth_of_a_cpu_is_what_a_tree_gets_that_would_take_two(home: Home) -> None:
    home.apply(
        home.sh("app", "(while :; do :; done) & echo up; while :; do :; done", limits=Limits(cpu_quota_percent=20))
    )
    until_said(home, "app", "up")
    path = folder(home, "app")

    def used() -> tuple[float, float]:
        spent = dict(line.split() for line in read(path, "cpu.stat").splitlines())
        return time.monotonic(), int(spent["usage_usec"]) / 1e6

    begun, before = used()
    time.sleep(MEASURED_SECONDS)
    ended, after = used()
    assert 18 < 100 * (after - before) / (ended - begun) < 22
    assert home.views()["app"].status == "running"


def test_limits_change_while_it_runs_and_can_be_taken_away(home: Home) -> None:
    home.apply(home.sh("app", SLEEP))
    pid, path = home.pid("app"), folder(home, "app")
    assert files(path, NO_LIMIT) == NO_LIMIT
    assert actions(home.apply(home.sh("app", SLEEP, limits=EVERY))) == {"app": "change"}
    assert files(path, FILES) == FILES
    home.apply(home.sh("app", SLEEP, limits=Limits(memory_max_mb=60, cpu_quota_percent=0.5, tasks_max=3)))
    now = {**TAKEN_AWAY, "memory.max": str(60 << 20), "cpu.max": "1000 100000", "pids.max": "3"}
    assert files(path, NO_LIMIT) == now
    home.apply(home.sh("app", SLEEP))
    assert files(path, NO_LIMIT) == TAKEN_AWAY
    assert home.pid("app") == pid and is_alive(pid)


def test_a_value_that_this_machine_cannot_have_is_told(home: Home) -> None:
    done = home.apply(home.sh("app", SLEEP, limits=Limits(cpus="63")))
    [warning] = done.warnings
    assert "limits.cpus = 63 was refused by the kernel: cpuset.cpus: " in warning
    view = home.views()["app"]
    assert view.status == "running" and len(view.warnings) == 1


def test_a_value_that_this_machine_cannot_have_is_an_error_where_it_must_be_held(home: Home) -> None:
    try:
        failed = home.apply(home.sh("app", SLEEP, limits=Limits(cpus="63", required=True))).failed["app"]
    except Refused as refused:
        failed = str(refused)
    assert "limits.cpus = 63 was refused by the kernel" in failed and "required" in failed
    assert home.views()["app"].status == "errored" and home.log("app") == ""


# --- a fork bomb ---


def test_a_fork_bomb_is_contained_while_the_daemon_serves_others_and_is_gone_after_a_stop(home: Home) -> None:
    home.apply(home.python("bomb", BOMB, limits=Limits(tasks_max=30), stop_timeout_ms=500))
    until_said(home, "bomb", "up")
    path = folder(home, "bomb")
    wait_until(lambda: read(path, "pids.current") == "30", "the limit to be reached")
    assert home.apply(home.sh("other", "exit 0", restart=NEVER)).failed == {}
    home.until("other", lambda view: view.status == "exited")
    assert home.views()["bomb"].status == "running" and int(read(path, "pids.current")) <= 30
    assert read(path, "pids.events") != "max 0"
    bombs = members(path)
    assert len(bombs) > 10
    home.request(Act("stop", ["bomb"]))
    assert home.views()["bomb"].status == "stopped" and not any(map(is_alive, bombs))
    assert "still there" in events(home, "killed", "bomb")[0].reason
    wait_until(lambda: not path.exists(), "its cgroup to go")


def test_a_fork_bomb_is_ended_by_freezing_it_where_the_kernel_cannot_kill_a_cgroup(home: Home) -> None:
    home.apply(home.python("bomb", BOMB, limits=Limits(tasks_max=30), restart=NEVER))
    until_said(home, "bomb", "up")
    path = folder(home, "bomb")
    wait_until(lambda: read(path, "pids.current") == "30", "the limit to be reached")
    bombs = members(path)
    others = Cgroups(str(path.parent))
    others.kill_by = FREEZE
    others.kill(str(path))
    wait_until(lambda: not any(map(is_alive, bombs)), "all of it to be gone")
    home.until("bomb", lambda view: view.status == "exited")
    wait_until(lambda: not path.exists(), "its cgroup to go")


@pytest.mark.parametrize("end", ["stop", "delete"])
def test_a_cgroup_goes_with_its_instance(home: Home, end: str) -> None:
    home.apply(home.sh("app", SLEEP, limits=EVERY))
    path = folder(home, "app")
    home.request(Act(end, ["app"]))
    wait_until(lambda: not path.exists(), "its cgroup to go")

"""The cgroups of instances, on the core of cgroup v2 that every host with a unified or hybrid hierarchy has."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oxmgr.model.spec import NO_LIMITS, Limits
from oxmgr.supervisor import cgroup, limits, native
from oxmgr.supervisor.cgroup import CGROUP_KILL, FREEZE, Cgroups
from tests.conftest import wait_until


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    mount, _ = cgroup._own_cgroup()
    base = f"{mount}/oxmgr-test-{os.getpid()}"
    os.mkdir(base)
    yield Cgroups(base, base, mount)
    for path in Cgroups(base).folders():
        Cgroups(base).kill(path)
        wait_until(lambda path=path: cgroup.remove(path), f"{path} to be empty")  # type: ignore[misc]
    os.rmdir(base)


@contextmanager
def run_in(path: str, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that enters that cgroup and then does this; ended whatever the test finds."""
    words = f"echo 0 > {path}/cgroup.procs\n{script}"
    child = subprocess.Popen(["sh", "-c", words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait(10)


@pytest.mark.parametrize("kill_by", [CGROUP_KILL, FREEZE])
@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 & sleep 1001",
        "(setsid nohup sleep 1000 >/dev/null 2>&1 &); exec sleep 1001",
        "chain() { chain & }; chain; sleep 1000 & exec sleep 1001",
        "trap '' TERM; sleep 1000 & sleep 1001",
    ],
    ids=["two", "runaway", "forks-for-ever", "deaf"],
)
def test_a_kill_leaves_nothing(cgroups: Cgroups, kill_by: str, script: str) -> None:
    cgroups.kill_by = kill_by
    path, _ = cgroups.make("app:0")
    with run_in(path, script) as child:
        wait_until(lambda: len(cgroup.pids(path)) > 1, "its processes")

        def gone() -> bool:
            cgroups.kill(path)
            return not cgroup.is_populated(path)

        wait_until(gone, "an empty cgroup")
        child.wait(10)
    assert cgroup.pids(path) == []


def test_a_kill_reaches_what_is_below_and_what_is_stopped(cgroups: Cgroups) -> None:
    for kill_by in (CGROUP_KILL, FREEZE):
        cgroups.kill_by = kill_by
        path, _ = cgroups.make("app:0")
        os.makedirs(f"{path}/a/b", exist_ok=True)
        with run_in(f"{path}/a/b", "kill -STOP $$; exec sleep 1000") as child:
            wait_until(lambda: cgroup.pids(path) == [child.pid], "the child in its cgroup")  # noqa: B023
            cgroups.kill(path)
            assert child.wait(10) == -9


def test_to_kill_what_is_not_there_is_no_error(cgroups: Cgroups) -> None:
    for cgroups.kill_by in (CGROUP_KILL, FREEZE):
        cgroups.kill(f"{cgroups.base}/nothing:0")


def test_only_what_lives_populates(cgroups: Cgroups) -> None:
    path, made = cgroups.make("app:0")
    assert made and cgroups.make("app:0") == (path, False) and cgroups.folders() == [path]
    assert not cgroup.is_populated(path) and not cgroup.is_populated(f"{path}/not-there")
    with run_in(path, "exec sleep 1000") as child:
        wait_until(lambda: cgroup.is_populated(path), "the child")
        assert cgroup.folder_of(child.pid, cgroups.mount) == path
        assert not cgroup.remove(path)
        child.kill()
        # Also as a zombie that its parent has not looked at yet.
        wait_until(lambda: not cgroup.is_populated(path), "an empty cgroup")
    assert cgroup.remove(path) and cgroup.remove(path)


def test_a_child_is_not_born_into_what_was_killed_once(cgroups: Cgroups) -> None:
    """A fact of the kernel since 6.14 that the launcher goes around; before it, such a child lives."""
    path, _ = cgroups.make("app:0")
    assert cgroup._is_survived(path)
    cgroups.kill(path)
    survived = cgroup._is_survived(path)
    assert survived or os.uname().release.split(".")[:2] >= ["6", "14"]
    rung = native.spawn_rung(1)
    try:
        assert cgroup._is_survived(path), "one that enters by itself always does"
    finally:
        native.spawn_rung(0)
    assert rung == 1
    assert cgroup.remove(path) and cgroup._is_survived(cgroups.make("app:0")[0])


# --- limits, as far as they need no kernel that holds them ---


def test_every_limit_is_written_as_the_kernel_takes_it(tmp_path: Path) -> None:
    files = {
        "memory.max": "memory_max_mb",
        "memory.high": "memory_high_mb",
        "memory.swap.max": "swap_max_mb",
        "cpu.max": "cpu_quota_percent",
        "cpu.weight": "cpu_weight",
        "pids.max": "tasks_max",
        "io.weight": "io_weight",
        "cpuset.cpus": "cpus",
    }
    for name in files:
        (tmp_path / name).write_text("")
    some = Limits(
        memory_max_mb=50, memory_high_mb=40.5, swap_max_mb=0, cpu_quota_percent=150, cpu_weight=200, tasks_max=7,
        io_weight=300, cpus="0-1",
    )  # fmt: skip
    everything = frozenset(cgroup.CONTROLLERS)
    assert limits.write_all(str(tmp_path), some, NO_LIMITS, everything) == []
    wanted = {
        "memory.max": "52428800", "memory.high": "42467328", "memory.swap.max": "0", "cpu.max": "150000 100000",
        "cpu.weight": "200", "pids.max": "7", "io.weight": "default 300", "cpuset.cpus": "0-1",
    }  # fmt: skip
    assert {name: (tmp_path / name).read_text()[: len(text)] for name, text in wanted.items()} == wanted
    for name in files:
        (tmp_path / name).write_text("")
    assert limits.write_all(str(tmp_path), NO_LIMITS, some, everything) == []
    assert {name: (tmp_path / name).read_text() for name in files} == {
        "memory.max": "max", "memory.high": "max", "memory.swap.max": "max", "cpu.max": "max 100000",
        "cpu.weight": "100", "pids.max": "max", "io.weight": "default 100", "cpuset.cpus": "\n",
    }  # fmt: skip


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    for name in ("memory.max", "pids.max"):
        (tmp_path / name).write_text("untouched")
    before = Limits(memory_max_mb=50, tasks_max=7)
    limits.write_all(str(tmp_path), Limits(memory_max_mb=50, tasks_max=8), before, frozenset(("memory", "pids")))
    assert (tmp_path / "memory.max").read_text() == "untouched" and (tmp_path / "pids.max").read_text()[0] == "8"


def test_what_cannot_be_written_is_told_by_its_key(tmp_path: Path) -> None:
    wrong = limits.write_all(str(tmp_path), Limits(tasks_max=7), NO_LIMITS, frozenset(("pids",)))
    assert wrong == ["limits.tasks_max cannot be enforced here: this kernel has no pids.max"]


def test_what_a_host_cannot_hold_is_told_with_the_reason() -> None:
    here = Cgroups("/x", "/x")
    here.controllers = frozenset(("memory",))
    some = Limits(memory_max_mb=50, tasks_max=7, nice=3, memory_mb=20)
    assert limits.not_enforceable(some, here) == [
        "limits.tasks_max cannot be enforced here: the pids controller of cgroup v2 is not available"
    ]
    nothing = Cgroups(why="no cgroup v2 is mounted")
    assert [line.rpartition(": ")[2] for line in limits.not_enforceable(some, nothing)] == [
        "no cgroup v2 is mounted"
    ] * 2

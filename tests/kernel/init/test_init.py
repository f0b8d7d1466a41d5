"""All that oxmgr promises, where its guard is process 1 of the machine, and this test run an app. The apps and what the
host sees of all this are in tests/kernel/boots.py. One order, for it is one machine: what is done in one is there in the next."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oxmgr.model.messages import Act
from oxmgr.model.places import find_places
from tests.conftest import DEADLINE, REPOSITORY, Home, wait_until
from tests.containers import COMMAND, ORPHANS

NAMES = ["api", "counts", "db", "driver", "eats", "web:0", "web:1"]
HEARD = Path("/run/heard")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Root's usual one."""
    found = Home(tmp_path)
    found.places = find_places({}, 0)
    return found


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=3 * DEADLINE).stdout


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def pids(home: Home) -> dict[str, int | None]:
    """Of those that run all the time."""
    return {name: view.pid for name, view in home.views().items() if name not in ("eats", "strays")}


def test_the_guard_is_process_1_and_the_commands_find_the_daemon(home: Home) -> None:
    about = home.about_daemon()
    assert (about.guard, parent(about.pid), about.warnings) == (1, 1, [])
    assert sorted(one["name"] for one in json.loads(run(COMMAND, "list", "--json"))) == NAMES
    for name in ("api", "counts", "db", "web:0", "web:1"):
        view = home.until(name, lambda view: view.status == "running")
        assert view.warnings == [], view


def test_each_instance_has_a_cgroup_with_the_controllers_of_its_limits(home: Home) -> None:
    for name in ("web:0", "web:1"):
        cgroup = home.views()[name].cgroup
        assert cgroup, name
        held = [Path(f"{cgroup}/{file}").read_text() for file in ("pids.max", "memory.max", "cpu.max")]
        assert held == ["9\n", f"{64 << 20}\n", "50000 100000\n"]
        assert str(home.pid(name)) in Path(f"{cgroup}/cgroup.procs").read_text().split()


def test_the_kernel_kills_what_takes_more_memory_than_it_may(home: Home) -> None:
    view = home.until("eats", lambda view: view.status == "exited")
    assert (view.oom_kills, view.signal) == (1, "SIGKILL") and "memory_max_mb is 40" in view.reason


def test_a_crash_is_followed_by_a_start(home: Home) -> None:
    run(COMMAND, "signal", "KILL", "web:0")
    home.until("web:0", lambda view: view.restarts == 1 and view.status == "running")


def catches(pid: int, number: int) -> bool:
    """Whether it has a handler for a signal (proc(5), SigCgt); a shell that has just begun has none."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)


def test_a_signal_to_process_1_comes_to_each_app(home: Home) -> None:
    for name in ("web:0", "web:1"):
        wait_until(lambda name=name: catches(home.pid(name), signal.SIGWINCH), f"{name} to listen")  # type: ignore[misc]
    os.kill(1, signal.SIGWINCH)
    wait_until(lambda: HEARD.exists() and sorted(HEARD.read_text().split()) == ["0", "1"], "both have heard of it")


def test_a_stop_leaves_nothing_and_the_start_gives_it_all_back(home: Home) -> None:
    before = home.views()["web:1"]
    home.request(Act("stop", ["web"]))
    assert not os.path.exists(f"/proc/{before.pid}") and before.cgroup and not os.path.exists(before.cgroup)
    home.request(Act("start", ["web"]))
    assert Path(f"{home.views()['web:1'].cgroup}/pids.max").read_text() == "9\n"


def test_the_hosts_files_cannot_be_written() -> None:
    """Not even by who makes its mount of them one to write to."""
    run("mount", "-o", "remount,rw", "/run/root")
    with pytest.raises(OSError, match="Read-only file system"):
        Path(f"/run/root{REPOSITORY}/written-in-the-guest").touch()


def test_a_killed_daemon_ends_neither_the_machine_nor_an_app(home: Home) -> None:
    before = pids(home)
    for _ in range(3):
        home.kill_guarded()
        assert pids(home) == before
    assert home.about_daemon().guard == 1


def test_orphans_are_reaped_by_the_daemon_and_by_process_1(home: Home) -> None:
    """What ran before the daemon was killed is process 1's by now, and so is what it leaves."""
    driver, web = home.pid("driver"), home.pid("web:0")
    assert (parent(driver), parent(web)) == (1, 1)
    # An emulated CPU that others share takes its time.
    script = ORPHANS.replace("1000", "50").replace("+ 10", "+ 60")
    assert run(sys.executable, "-I", "-S", "-c", script) == "zombies 0\n"
    assert home.apply(home.python("strays", script, restart="never")).failed == {}
    wait_until(lambda: "\n" in home.log("strays"), "what it has found", 3 * DEADLINE)
    assert home.log("strays") == "zombies 0\n"


def test_a_daemon_is_replaced(home: Home) -> None:
    before, daemon = pids(home), home.about_daemon().pid
    assert "the daemon was replaced" in run(COMMAND, "daemon", "reexec")
    after = home.about_daemon()
    assert (after.pid, after.guard, pids(home)) == (daemon, 1, before)


def test_each_line_is_there_once(home: Home) -> None:
    """As it was printed while daemons were killed."""
    view = home.views()["counts"]
    assert view.restarts == 0
    lines = Path(view.log_file).read_text().split("\n")[:-1]
    assert lines == [str(number) for number in range(len(lines))] and len(lines) > 50

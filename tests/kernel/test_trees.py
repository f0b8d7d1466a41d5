"""Nothing of an app outlives its stop or its crash, whatever it does to get away; and there are never two trees of it."""

import os
import signal

import pytest

from oxmgr.model.messages import Act
from tests.conftest import Home, wait_until
from tests.kernel.looks import folder, is_alive, members, read, state, until_said
from tests.kernel.systemd import CGROUPS

RUNAWAY = "(setsid nohup sh -c '(sleep 1000 &)' >/dev/null 2>&1 &)"
CHAIN = "chain() { chain & }; chain"
OWN_CGROUP = 'own=/sys/fs/cgroup$(cut -d: -f3- /proc/self/cgroup); cd "$own"'


def stop(home: Home, name: str = "app") -> None:
    home.request(Act("stop", [name]))
    assert home.views()[name].status == "stopped"


def crash(home: Home, times: int = 1) -> int:
    """Kill the main process, as often; the pid of the next that runs."""
    for _ in range(times):
        before, pid = home.views()["app"].restarts, home.pid("app")
        os.kill(pid, signal.SIGKILL)
        until_restarted(home, before + 1)
    return home.pid("app")


def until_restarted(home: Home, times: int) -> None:
    home.until("app", lambda view: view.restarts == times and view.status == "running")


def own(home: Home) -> list[int]:
    """All that lives in any cgroup of the app's."""
    base = next(CGROUPS.glob("oxmgr-*"))
    return [pid for path in base.glob("app:0*") for pid in members(path)]


# --- stop ---


def test_a_daemon_that_forked_twice_into_a_session_of_its_own_is_gone_after_a_stop(home: Home) -> None:
    runaway = "(setsid nohup sh -c 'sleep 1000 & echo $! >away' >/dev/null 2>&1 &)"
    home.apply(home.sh("app", f"{runaway}; exec sleep 1001", stop_timeout_ms=300))
    path, away = folder(home, "app"), home.folder / "away"
    wait_until(lambda: away.exists() and away.read_text(), "it to run")
    pids = [home.pid("app"), int(away.read_text())]
    wait_until(lambda: sorted(members(path)) == sorted(pids), "the shell between them to end")
    stop(home)
    assert not any(map(is_alive, pids))
    wait_until(lambda: not path.exists(), "its cgroup to go")


@pytest.mark.parametrize(
    ("mode", "hearing"), [("main", {"main"}), ("group", {"main", "child"}), ("tree", {"main", "child", "runaway"})]
)
def test_those_hear_the_stop_signal_whom_the_stop_mode_names_and_all_are_gone(
    home: Home, mode: str, hearing: set[str]
) -> None:
    script = """
    hear() { trap "echo heard-$1; exit 0" TERM; echo up; sleep 1000 & wait; }
    hear child &
    setsid sh -c 'trap "echo heard-runaway; exit 0" TERM; echo up; sleep 1000 & wait' &
    hear main
    """
    home.apply(home.sh("app", script, stop_mode=mode, stop_timeout_ms=1500))
    until_said(home, "app", "up", 3)
    path = folder(home, "app")
    wait_until(lambda: len(members(path)) == 6, "three that hear, and the sleep of each")
    pids = members(path)
    stop(home)
    assert {word.removeprefix("heard-") for word in home.log("app").split() if word != "up"} == hearing
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("mode", ["main", "group", "tree"])
def test_a_stopped_process_hears_the_stop_signal(home: Home, mode: str) -> None:
    home.apply(home.sh("app", "trap 'echo heard; exit 0' TERM; echo up; while :; do :; done", stop_mode=mode))
    until_said(home, "app", "up")
    pid = home.pid("app")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state(pid) == "T", "it to stand still")
    stop(home)
    assert home.log("app") == "up\nheard\n" and home.views()["app"].exit_code == 0


def test_a_stopped_child_in_a_session_of_its_own_hears_the_stop_signal_to_a_tree(home: Home) -> None:
    child = 'trap "echo heard; exit 0" TERM; echo up $$; kill -STOP $$; while :; do :; done'
    home.apply(home.sh("app", f"(setsid sh -c '{child}' &); exec sleep 1000", stop_mode="tree"))
    pid = int(until_said(home, "app", "\n").split()[1])
    wait_until(lambda: state(pid) == "T", "it to stand still")
    stop(home)
    assert home.log("app") == f"up {pid}\nheard\n" and not is_alive(pid)


def test_a_chain_that_forks_and_exits_for_ever_is_gone_after_a_stop(home: Home) -> None:
    home.apply(home.sh("app", f"{CHAIN}; exec sleep 1000", stop_timeout_ms=300))
    path = folder(home, "app")
    wait_until(lambda: any(pid != home.pid("app") for pid in members(path)), "the chain")
    stop(home)
    wait_until(lambda: not path.exists(), "its cgroup to go, which it does when it is empty")


# --- crash ---


def test_a_chain_that_forks_and_exits_for_ever_is_gone_after_a_crash(home: Home) -> None:
    home.apply(home.sh("app", f"[ -e once ] || {{ touch once; {CHAIN}; }}; exec sleep 1000"))
    wait_until(lambda: any(pid != home.pid("app") for pid in own(home)), "the chain")
    pid = crash(home)
    assert own(home) == [pid]


def test_no_crash_with_left_overs_makes_two_trees(home: Home) -> None:
    """Each main process looks, as its first deed, whether anything of the one before it is left."""
    script = (
        "for file in /sys/fs/cgroup/oxmgr-*/app:0*/cgroup.procs; do while read pid; do "
        f"[ $pid = $$ ] || echo double; done <$file; done; {RUNAWAY}; trap '' TERM; sleep 1000 & echo up; wait"
    )
    home.apply(home.sh("app", script, restart_delay_max_ms=0, stop_timeout_ms=300))
    for times in range(1, 6):
        until_said(home, "app", "up", times)
        crash(home)
    assert "double" not in until_said(home, "app", "up", 6)


def test_what_has_moved_itself_out_of_its_cgroup_is_ended_all_the_same(home: Home) -> None:
    script = """
    setsid sh -c 'echo 0 >/sys/fs/cgroup/cgroup.procs; echo up $$; (setsid sleep 1000 &); exec sleep 1001' &
    echo 0 >/sys/fs/cgroup/cgroup.procs
    echo up $$
    wait
    """
    home.apply(home.sh("app", script, stop_timeout_ms=300, restart_delay_max_ms=0))
    pids = [int(word) for word in until_said(home, "app", "up", 2).split() if word != "up"]
    assert home.pid("app") in pids and members(folder(home, "app")) == []
    crash(home)
    assert not any(map(is_alive, pids))
    pids = [int(word) for word in until_said(home, "app", "up", 4).split()[4:] if word != "up"]
    stop(home)
    assert not any(map(is_alive, pids))


# --- what an app does with its cgroup ---


def test_an_app_may_divide_its_cgroup_and_is_stopped_and_started_as_any_other(home: Home) -> None:
    script = f"""
    {OWN_CGROUP}
    mkdir -p main/deep rest
    echo 0 >main/cgroup.procs
    echo '+memory +pids' >cgroup.subtree_control
    sh -c "echo 0 >$own/rest/cgroup.procs; exec sleep 1000" &
    echo up
    wait
    """
    home.apply(home.sh("app", script, stop_timeout_ms=300, restart_delay_max_ms=0))
    for times in range(1, 5):
        until_said(home, "app", "up", times)
        assert home.log("app", "err") == ""
        wait_until(lambda: len(own(home)) == 2, "both of its processes, and no other")
        pids, path = own(home), folder(home, "app")
        assert read(path, "cgroup.subtree_control") == "memory pids"
        if times % 2:
            stop(home)
            home.request(Act("start", ["app"]))
        else:
            crash(home)
        assert not any(map(is_alive, pids))
    stop(home)
    wait_until(lambda: not list(CGROUPS.glob("oxmgr-*/app:0*")), "all that it has made to go")


def test_an_app_that_left_an_empty_cgroup_with_controllers_behind_is_started_again(home: Home) -> None:
    script = f"{OWN_CGROUP}; mkdir main; echo 0 >main/cgroup.procs; echo +pids >cgroup.subtree_control; echo up; exec sleep 1000"
    home.apply(home.sh("app", script, restart_delay_max_ms=0))
    for times in range(1, 4):
        until_said(home, "app", "up", times)
        assert home.log("app", "err") == "" and home.views()["app"].warnings == []
        assert own(home) == [home.pid("app")]
        crash(home)

"""Limits and sandboxes under a real daemon, as far as a host without the controllers of cgroup v2 can show them."""

import os
import signal
from pathlib import Path

import pytest

from oxmgr.client.connection import Refused
from oxmgr.model.messages import Act, Apply
from oxmgr.model.snapshot import pack, unpack
from oxmgr.model.spec import NEVER, Limits, Sandbox
from tests.conftest import Home, actions, tree, wait_until

SLEEP = "echo up; exec sleep 1000"


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- cgroups ---


def test_an_instance_and_all_that_it_forks_are_in_a_cgroup_of_its_own_until_it_is_down(empty_home: Home) -> None:
    home = empty_home
    home.start_daemon()
    home.apply(home.sh("app", "cat /proc/self/cgroup; (setsid sleep 1000 &) ; exec sleep 1001", instances=2))
    wait_until(lambda: len(tree(home.pid("app:1"))) > 0 and "0::" in home.log("app:1"), "its own words")
    folders = [Path(home.views()[name].cgroup or "") for name in ("app:0", "app:1")]
    assert folders[0].name == "app:0" and folders[1].name == "app:1"
    for folder, name in zip(folders, ("app", "app:1"), strict=True):
        assert f"/{folder.parent.name}/{folder.name}\n" in home.log(name)
        wait_until(lambda folder=folder: len((folder / "cgroup.procs").read_text().split()) == 2, "both")  # type: ignore[misc]
    home.request(Act("stop", ["app"]))
    wait_until(lambda: not any(folder.exists() for folder in folders), "the folders to go")
    assert home.views()["app:0"].cgroup is None


def test_left_overs_of_a_lost_journal_are_ended_before_the_next_start(empty_home: Home) -> None:
    home = empty_home
    home.start_daemon()
    home.apply(home.sh("app", f"(setsid sleep 1000 &); {SLEEP}"), home.sh("gone", SLEEP))
    wait_until(lambda: "up" in home.log("app") and "up" in home.log("gone"), "both")
    folder = Path(home.views()["app"].cgroup or "")
    pids = [
        int(pid) for name in ("app:0", "gone:0") for pid in (folder.parent / name / "cgroup.procs").read_text().split()
    ]
    assert len(pids) == 3
    home.kill_daemon()
    os.unlink(home.places.journal)
    desired = Path(home.places.desired)
    snapshot = unpack(desired.read_bytes())
    del snapshot.apps["gone"]
    desired.write_bytes(pack(snapshot.apps, snapshot.environs))
    home.start_daemon()
    wait_until(lambda: not any(map(alive, pids)), "all of the earlier ones to be gone")
    home.until("app", lambda view: view.status == "running")
    wait_until(lambda: home.log("app").count("up") == 2, "its second start")


def test_a_host_without_cgroup_v2_is_told_why_and_keeps_trees_all_the_same(home: Home) -> None:
    view = home.apply(home.sh("app", SLEEP)).instances[0]
    assert bool(view.cgroup) != bool(home.wrap)


# --- limits ---


def test_limits_that_cannot_be_held_are_told_at_the_start_and_later(home: Home) -> None:
    done = home.apply(home.sh("app", SLEEP, limits=Limits(memory_max_mb=50)))
    assert len(done.warnings) == 1 and "app: limits.memory_max_mb cannot be enforced here" in done.warnings[0]
    view = home.views()["app"]
    assert view.status == "running" and len(view.warnings) == 1 and view.limits == {"memory_max_mb": 50}


def test_required_limits_that_cannot_be_held_are_refused_and_nothing_is_registered(home: Home) -> None:
    with pytest.raises(Refused, match=r"limits\.tasks_max cannot be enforced here.*required") as refused:
        home.apply(home.sh("app", SLEEP, limits=Limits(tasks_max=5, required=True)))
    assert refused.value.code == 1 and home.views() == {}


def test_limits_of_processes_are_seen_by_the_app(home: Home) -> None:
    script = "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; nice; exec sleep 1000"
    home.apply(home.sh("app", script, limits=Limits(open_files=99, core_mb=1, nice=3, oom_score_adj=200)))
    wait_until(lambda: home.log("app").split() == ["99", "2048", "200", "3"], home.log("app"))


def test_limits_change_without_a_restart(home: Home) -> None:
    home.apply(home.sh("app", "sleep 1001 & echo up; wait"))
    wait_until(lambda: "up" in home.log("app") and len(tree(home.pid("app"))) == 2, "its child")
    pids = tree(home.pid("app"))
    done = home.apply(
        home.sh("app", "sleep 1001 & echo up; wait", limits=Limits(open_files=77, nice=4, oom_score_adj=9))
    )
    assert actions(done) == {"app": "change"} and tree(home.pid("app")) == pids
    for pid in pids:
        assert "Max open files            77                   77" in Path(f"/proc/{pid}/limits").read_text()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "9\n" and os.getpriority(os.PRIO_PROCESS, pid) == 4


def test_who_uses_more_memory_than_the_soft_limit_is_restarted_gracefully(home: Home) -> None:
    script = "import signal, time, os, sys\nsignal.signal(15, lambda *_: (print('asked', flush=True), sys.exit(0)))\nprint('up', flush=True)\nx = bytearray(80 << 20) if not os.path.exists('big') else 0\nopen('big', 'w').close()\nwhile True: signal.pause()"
    home.apply(home.python("app", script, limits=Limits(memory_mb=50)))
    view = home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    wait_until(lambda: home.log("app") == "up\nasked\nup\n", "a stop in order and a second start")
    assert view.oom_kills == 0


def test_who_uses_more_cpu_than_the_soft_limit_over_its_window_is_restarted(home: Home) -> None:
    home.apply(
        home.sh("busy", "(while :; do :; done) & wait", limits=Limits(cpu_percent=30, cpu_window_secs=0.5)),
        home.sh("calm", SLEEP, limits=Limits(cpu_percent=30, cpu_window_secs=0.5)),
    )
    home.until("busy", lambda view: view.restarts >= 1)
    assert home.views()["calm"].restarts == 0


# --- sandbox ---


def test_home_and_the_like_follow_the_user_and_yield_to_env(home: Home) -> None:
    sandbox = Sandbox(user="nobody", uid=65534, gid=65534, groups=[65534], home="/nonexistent", shell="/bin/false")
    home.apply(
        home.sh(
            "app",
            "id -u; id -G; echo $HOME $USER $LOGNAME $SHELL",
            sandbox=sandbox,
            working_dir="/",
            env={"SHELL": "mine"},
            restart=NEVER,
        )
    )
    home.until("app", lambda view: view.status == "exited")
    assert home.log("app").split() == ["65534", "65534", "/nonexistent", "nobody", "nobody", "mine"]


def test_a_private_tmp_and_read_only_paths_are_seen_from_inside_only(home: Home) -> None:
    marker = Path(f"/tmp/oxmgr-test-{os.getpid()}")
    marker.write_text("")
    try:
        script = f"ls -A /tmp; touch /tmp/x && ls /tmp; touch {home.folder}/no 2>&1; touch /etc/no 2>&1"
        home.apply(
            home.sh(
                "app",
                script,
                working_dir="/",
                sandbox=Sandbox(private_tmp=True, read_only_paths=["/etc"]),
                restart=NEVER,
            )
        )
        home.until("app", lambda view: view.status == "exited")
        lines = home.log("app").splitlines()
        assert lines[0] == "x" and "No such file" in lines[1] and "Read-only" in lines[2] and len(lines) == 3
    finally:
        marker.unlink()


def test_a_private_network_is_the_apps_own_and_is_kept_over_restarts_and_daemons(home: Home) -> None:
    script = "readlink /proc/self/ns/net; grep -c : /proc/net/dev; exec sleep 1000"
    home.apply(
        *(home.sh(name, script, sandbox=Sandbox(private_network=True), restart_delay_max_ms=0) for name in ("a", "b"))
    )

    def said(name: str, times: int) -> bool:
        return len(home.log(name).splitlines()) == 2 * times

    wait_until(lambda: said("a", 1) and said("b", 1), "both in their networks", 60)
    first = {name: home.log(name).split()[0] for name in ("a", "b")}
    assert len({*first.values(), os.readlink("/proc/self/ns/net")}) == 3
    assert home.log("a").split()[1] == "1", "a loopback and nothing else"
    os.kill(home.pid("a"), 9)
    wait_until(lambda: said("a", 2), "a restart")
    home.kill_daemon()
    home.start_daemon()
    os.kill(home.pid("a"), 9)
    wait_until(lambda: said("a", 3), "a restart by the next daemon")
    assert set(home.log("a").split()) - {"1"} == {first["a"]}


def test_the_loopback_of_a_private_network_is_up(home: Home) -> None:
    script = (
        "import socket\ns = socket.create_server(('127.0.0.1', 4999))\nc = socket.create_connection(('127.0.0.1', 4999))\n"
        "print('answered', flush=True)"
    )
    home.apply(home.python("app", script, sandbox=Sandbox(private_network=True), restart=NEVER))
    home.until("app", lambda view: view.status == "exited", "the end")
    assert home.log("app") == "answered\n"


def test_a_stop_while_the_network_is_being_made_is_a_stop(home: Home) -> None:
    waiting = home.connect()
    waiting._send(Apply([home.sh("app", SLEEP, sandbox=Sandbox(private_network=True))]))
    wait_until(lambda: "app" in home.views() and home.views()["app"].status == "starting", "its start")
    home.request(Act("stop", ["app"]))
    assert home.views()["app"].status == "stopped"
    home.request(Act("start", ["app"]))
    home.until("app", lambda view: view.status == "running")
    wait_until(lambda: home.log("app") == "up\n", "its one start")


def test_a_step_that_fails_stops_the_start_with_its_name_and_reason(home: Home) -> None:
    cases = {
        "mount /nowhere read-only: No such file or directory": Sandbox(read_only_paths=["/nowhere"]),
        "change to the folder": Sandbox(private_tmp=True),
    }
    for number, (why, sandbox) in enumerate(cases.items()):
        done = home.apply(home.sh(f"app{number}", SLEEP, sandbox=sandbox))
        assert why in done.failed[f"app{number}"] and home.log(f"app{number}") == ""


def test_denied_gpus_are_told_to_libraries(home: Home) -> None:
    home.apply(
        home.sh(
            "app", "echo [$CUDA_VISIBLE_DEVICES] $NVIDIA_VISIBLE_DEVICES", sandbox=Sandbox(deny_gpu=True), restart=NEVER
        )
    )
    home.until("app", lambda view: view.status == "exited")
    assert home.log("app") == "[] none\n"


def test_a_change_of_the_sandbox_replaces_the_process(home: Home) -> None:
    home.apply(home.sh("app", SLEEP))
    pid = home.pid("app")
    home.apply(home.sh("app", SLEEP, sandbox=Sandbox(no_new_privileges=True)))
    assert home.pid("app") != pid
    assert "NoNewPrivs:\t1" in Path(f"/proc/{home.pid('app')}/status").read_text()
    os.kill(home.pid("app"), signal.SIGKILL)

"""What happens at the same time: commands and saving, ends and shutdowns, many starts and one restart."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from oxmgr.client.connection import Refused
from oxmgr.model.messages import Act, Apply, GetInstances, Scale
from oxmgr.model.spec import Limits, Sandbox
from tests.conftest import DEADLINE, Home, wait_until

SLEEP = "echo up; exec sleep 1000"
SLOW = "trap 'sleep 0.4; exit 0' TERM; echo up; while :; do sleep 0.01; done"


def statuses(home: Home) -> dict[str, tuple[str, str]]:
    return {name: (view.status, view.desired) for name, view in home.views().items()}


def settled(home: Home) -> None:
    between = {"starting", "stopping"}
    wait_until(lambda: between.isdisjoint(status for status, _ in statuses(home).values()), "all to be done")


def test_a_stop_after_a_restart_of_what_depends_on_it_ends(home: Home) -> None:
    home.apply(home.sh("db", SLEEP), home.sh("api", SLEEP, depends_on={"db": "started"}))
    home.request(Act("restart", ["api"]))
    assert home.request(Act("stop", ["db"])).instances[0].status == "stopped"


def test_a_soft_limit_below_what_is_used_restarts_and_breaks_nothing(home: Home) -> None:
    script = "import signal\nx = bytearray(60 << 20)\nprint('up', flush=True)\nsignal.pause()"
    home.apply(home.python("app", script))
    wait_until(lambda: home.log("app") == "up\n", "its memory")
    done = home.apply(home.python("app", script, limits=Limits(memory_mb=10)))
    assert done.changes[0].action == "change"
    home.until("app", lambda view: view.restarts >= 1)
    home.apply(home.python("app", script))
    home.request(Act("stop", ["app"]))
    assert home.stop_daemon() == 0


def test_a_start_that_is_being_saved_when_the_daemon_is_told_to_end_does_not_keep_it(home: Home) -> None:
    home.apply(home.sh("slow", SLOW))
    wait_until(lambda: "up" in home.log("slow"), "the trap")
    assert home.daemon is not None
    waiting = home.connect()
    waiting._send(Apply([home.sh("late", SLEEP)]))
    home.daemon.send_signal(signal.SIGTERM)
    assert home.daemon.wait(DEADLINE) == 0
    home.start_daemon()
    home.until("late", lambda view: view.status == "running")


def test_apps_that_are_told_to_end_together_with_the_daemon_come_back_with_the_next_one(home: Home) -> None:
    home.apply(home.sh("app", "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"), home.sh("job", "exit 0"))
    wait_until(lambda: "up" in home.log("app"), "the trap")
    home.until("job", lambda view: view.status == "exited")
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 0.6, "the job's end to be past")
    assert home.daemon is not None
    os.kill(home.pid("app"), signal.SIGTERM)
    home.until("app", lambda view: view.status == "exited")
    home.daemon.send_signal(signal.SIGTERM)
    assert home.daemon.wait(DEADLINE) == 0
    home.start_daemon()
    home.until("app", lambda view: view.status == "running")
    assert home.views()["job"].status == "exited"


def test_changes_that_are_saved_together_leave_memory_and_disk_the_same(home: Home) -> None:
    a, b = home.sh("a", SLEEP), home.sh("b", SLEEP)
    home.apply(a)
    for _ in range(5):
        first, second = home.connect(), home.connect()
        first._send(Apply([b]))
        second._send(Apply([a], prune=True))
        first._receive(), second._receive()
        settled(home)
        before = statuses(home)
        home.kill_daemon()
        home.start_daemon()
        wait_until(lambda before=before: statuses(home) == before, str(before))  # type: ignore[misc]
    home.request(Act("stop", ["a"]))
    for _ in range(5):
        one, two, three = home.connect(), home.connect(), home.connect()
        one._send(Apply([b]))
        two._send(Apply([a]))
        three._send(Act("delete", ["a"]))
        for connection in (one, two, three):
            connection._receive()
        settled(home)
        before = statuses(home)
        home.kill_daemon()
        home.start_daemon()
        wait_until(lambda before=before: statuses(home) == before, str(before))  # type: ignore[misc]


def test_what_was_on_its_way_down_is_started_again_by_who_asks_for_it(home: Home) -> None:
    home.apply(home.sh("s", SLOW, instances=2))
    wait_until(lambda: "up" in home.log("s:1"), "the trap")
    down = home.connect()
    down._send(Scale("s", 1))
    home.until("s:1", lambda view: view.status == "stopping")
    done = home.request(Scale("s", 2))
    assert not done.failed and statuses(home)["s:1"] == ("running", "running")
    with pytest.raises(Exception, match="asked for again"):
        reply = down._receive()
        while not hasattr(reply, "failed"):
            reply = down._receive()
        raise Exception(str(reply.failed))


def test_a_dependency_that_is_taken_out_is_not_waited_for(home: Home) -> None:
    assert home.apply(home.sh("api", SLEEP, depends_on={"db": "started"})).failed
    done = home.apply(home.sh("api", SLEEP))
    assert not done.failed and done.instances[0].status == "running"


def test_a_network_that_nobody_wants_any_more_is_closed(home: Home) -> None:
    assert home.daemon is not None
    folder = f"/proc/{home.daemon.pid}/fd"

    def namespaces() -> int:
        names = [f"{folder}/{fd}" for fd in os.listdir(folder)]
        return sum("net:[" in os.readlink(name) for name in names if os.path.lexists(name))

    for _ in range(3):
        waiting = home.connect()
        waiting._send(Apply([home.sh("app", SLEEP, sandbox=Sandbox(private_network=True))]))
        wait_until(lambda: "app" in home.views(), "the app")
        home.request(Act("delete", ["app"]))
    wait_until(lambda: namespaces() == 0, "the namespaces to be closed")


def test_while_many_are_started_others_are_answered_and_restarted(home: Home) -> None:
    home.apply(home.sh("other", "exec sleep 1000", restart_delay_max_ms=0), home.sh("many", "exec sleep 1000"))
    scaling = threading.Thread(target=lambda: home.request(Scale("many", 600)))
    scaling.start()
    try:
        wait_until(lambda: len(home.views()) > 100, "many of them to be there")
        begun = time.monotonic()
        home.connect().request(GetInstances(["other"]))
        assert time.monotonic() - begun < 0.5
    finally:
        scaling.join()
    assert {view.status for view in home.views().values()} == {"running"}


def test_a_client_that_stops_waiting_leaves_nothing_behind(home: Home) -> None:
    """Its wait is forgotten; what it asked for is not."""
    apps = [home.sh("app", SLEEP, depends_on={"job": "exited"}), home.sh("job", "exec sleep 1000")]
    first = home.connect()
    first._send(Apply(apps))
    wait_until(lambda: "app" in home.views() and home.views()["app"].status == "waiting", "the app to wait")
    first.close()
    for _ in range(3):
        gone = home.connect()
        gone._send(Act("start", ["app"]))
        gone._receive()
        gone.close()
    assert home.views()["app"].status == "waiting"


def test_an_app_that_stops_its_own_users_processes_holds_up_nobody(home: Home) -> None:
    """A child that has become that user and does not execute yet can be stopped by it."""
    nobody = Sandbox(user="nobody", uid=65534, gid=65534, groups=[])
    home.apply(home.sh("bad", "echo up; while :; do kill -s STOP -- -1; done", sandbox=nobody, working_dir="/"))
    wait_until(lambda: "up" in home.log("bad"), "the attack")
    try:
        for number in range(60):
            waiting = home.connect()
            waiting._send(Apply([home.sh("victim", f": {number}; exec sleep 1000", sandbox=nobody, working_dir="/")]))
            begun = time.monotonic()
            home.views()
            assert time.monotonic() - begun < 2
    finally:
        home.request(Act("stop", ["bad"]))
    home.until("victim", lambda view: view.status in ("running", "starting"))


def test_a_daemon_whose_starter_is_gone_works_all_the_same(empty_home: Home) -> None:
    import subprocess

    from oxmgr.client.launch import daemon_argv

    reading, told = os.pipe()
    os.close(reading)
    empty_home.daemon = subprocess.Popen(
        daemon_argv(told=told), env=empty_home.env, pass_fds=[told], stdin=subprocess.DEVNULL
    )
    os.close(told)
    wait_until(lambda: Path(empty_home.places.socket).exists(), "its socket")
    assert empty_home.views() == {}


def test_deleting_one_instance_alone_is_refused(home: Home) -> None:
    home.apply(home.sh("app", SLEEP, instances=2))
    with pytest.raises(Refused, match="one instance of app cannot be deleted"):
        home.request(Act("delete", ["app:1"]))

"""The commands that change what runs, or speak to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oxmgr.model.messages import DaemonView
from tests.conftest import DEADLINE, wait_until
from tests.integration.conftest import COMMAND, Ox
from tests.integration.test_sockets import ask, free_port


def statuses(ox: Ox) -> dict[str, str]:
    return {view["name"]: view["status"] for view in ox.json("list")}


def test_stop_restart_and_delete_act_on_what_is_named(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "web", "-i", "2", "--namespace", "site")
    ox("start", "sleep 1000", "--name", "db")
    assert "stopped" in ox("stop", "web:1").stdout
    assert statuses(ox) == {"web:0": "running", "web:1": "stopped", "db": "running"}
    before = ox.home.pid("web:0")
    restarted = ox.json("restart", "@site")
    assert [view["status"] for view in restarted] == ["running", "running"] and restarted[0]["pid"] != before
    assert [view["status"] for view in ox.json("stop", "all")] == ["stopped"] * 3
    assert ox("delete", "w*").stdout == "deleted web\n"
    assert ox.json("del", "db") == []
    assert statuses(ox) == {}


def test_the_apps_of_a_file_can_be_named_by_it(ox: Ox) -> None:
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\n[processes.b]\ncommand = "sleep 1000"\n')
    ox("start")
    ox("start", "sleep 1000", "--name", "other")
    ox("stop", "--config", "oxfile.toml")
    assert statuses(ox) == {"a": "stopped", "b": "stopped", "other": "running"}


def test_what_is_only_saved_is_changed_by_a_daemon_that_is_started_for_it(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    ox("daemon", "stop")
    assert ox("stop", "app").stdout.splitlines()[1].split()[:2] == ["app", "stopped"]
    assert ox.daemon() is not None and ox.json("list")[0]["desired"] == "stopped"


@pytest.mark.parametrize(
    "words", ["stop app", "restart app", "delete app", "reset app", "scale app 2", "signal HUP app", "send app x"]
)
def test_of_an_empty_home_nothing_is_started_to_find_it_empty(empty: Ox, words: str) -> None:
    assert "no daemon runs" in empty(*words.split(), code=3).stderr
    assert empty.daemon() is None and not (empty.home.folder / "state").exists()


def test_what_is_not_saved_is_not_there_and_starts_no_daemon(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    ox("daemon", "stop")
    for words in (["stop", "nosuch"], ["scale", "nosuch", "2"], ["delete", "app", "nosuch"]):
        assert "nothing that is saved is called nosuch" in ox(*words, code=4).stderr
    assert ox.daemon() is None


def test_scale_sets_or_changes_the_number_of_instances(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    pid = ox.home.pid("app")
    for word, names in {
        "3": ["app:0", "app:1", "app:2"],
        "-1": ["app:0", "app:1"],
        "+2": [f"app:{n}" for n in range(4)],
        "1": ["app"],
    }.items():
        assert [view["name"] for view in ox.json("scale", "app", word)] == names
    assert ox.home.pid("app") == pid
    for word in ("0", "-5", "many", "1.5", "99999999999", "+-1"):
        assert ox("scale", "app", word, code=2).stderr.startswith("oxmgr: ")
    assert ox("scale", "nosuch", "2", code=4).stderr


def test_signal_goes_to_the_main_process(ox: Ox) -> None:
    ox("start", "trap 'echo got it' USR1; echo up; while :; do sleep 0.01; done", "--name", "app")
    wait_until(lambda: "up" in ox.home.log("app"), "the trap")
    for number, name in enumerate(("USR1", "SIGUSR1", "sigusr1", str(int(signal.SIGUSR1))), 1):
        ox("signal", name, "app")
        wait_until(lambda number=number: ox.home.log("app").count("got it") == number, name)  # type: ignore[misc]
    ox("stop", "app")
    refused = ox("signal", "HUP", "app", code=1)
    assert "there is no process to send SIGHUP to" in refused.stderr
    # What it once printed has nothing to do with that.
    assert "got it" not in refused.stderr


def test_reset_sets_the_counters_back(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    os.kill(ox.home.pid("app"), signal.SIGKILL)
    ox.home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    assert ox.json("reset", "app")[0]["restarts"] == 0


def test_send_writes_to_the_apps_input(ox: Ox) -> None:
    ox("start", "exec cat", "--name", "app")
    ox("send", "app", "a line")
    ox("send", "app", "no end", "--raw")
    ox("send", "app", "-", input=", but this\nand this\n")
    wait_until(lambda: ox.home.log("app") == "a line\nno end, but this\nand this\n", "the echo")
    ox("scale", "app", "2")
    assert "app:0, app:1" in ox("send", "app", "x", code=2).stderr
    ox("stop", "app:1")
    assert "nobody would read it" in ox("send", "app:1", "x", code=1).stderr


def test_init_writes_a_file_that_starts(ox: Ox) -> None:
    ox.file("Procfile", "web: sleep 1000\n")
    done = ox("init")
    assert "web: sleep 1000 (Procfile)" in done.stdout and "oxmgr start" in done.stdout
    ox("start")
    assert statuses(ox) == {"web": "running"}
    assert "--force" in ox("init", code=2).stderr
    ox("init", "--force")


# --- daemon ---


def test_daemon_run_stays_until_it_is_told_to_stop(empty: Ox) -> None:
    daemon = empty.popen("daemon", "run", stdin=subprocess.DEVNULL)
    wait_until(empty.daemon, "the daemon to answer")
    # The command has become the guard: its pid is what a service manager watches.
    own = empty.daemon()
    empty("start", "sleep 1000", "--name", "app")
    pid = empty.home.pid("app")
    view = empty.json("daemon", "status")
    assert (view["pid"], view["guard"]) == (own, daemon.pid)
    assert (view["apps"], view["instances"], view["warnings"]) == (1, 1, [])
    assert view["state"] == empty.home.places.state
    assert list(view) == list(DaemonView.__struct_fields__)
    assert empty.home.places.socket in empty("daemon", "status").stdout
    done = empty("daemon", "run", code=1)
    assert f"another one runs for {empty.home.folder}, pid {own}" in done.stderr
    assert empty("daemon", "stop").stdout == "all apps are stopped, and so is the daemon\n"
    assert daemon.wait(DEADLINE) == 0
    assert not Path(f"/proc/{pid}").exists()
    assert empty.json("list", code=3)[0]["desired"] == "running"


def test_to_stop_a_daemon_that_does_not_run_is_done(empty: Ox) -> None:
    assert "no daemon runs" in empty("daemon", "stop").stderr
    assert "did you mean status" in empty("daemon", "statsu", code=2).stderr
    assert "--group is for daemon run" in empty("daemon", "stop", "--group", "x", code=2).stderr
    assert "there is no group nosuchgroup" in empty("daemon", "run", "--group", "nosuchgroup", code=2).stderr


def test_a_daemon_that_cannot_start_says_why(empty: Ox) -> None:
    run = empty.home.folder / "run"
    run.symlink_to("nowhere")
    done = empty("start", "sleep 1", code=3)
    assert f"the daemon cannot start: {run}: File exists: its socket and pipes need a folder" in done.stderr
    assert f"make {run} one, or set OXMGR_HOME" in done.stderr


# --- help ---


def test_help_needs_no_home(empty: Ox) -> None:
    env = {"PATH": empty.env["PATH"]}
    for words in ([], ["--help"], ["help"], ["help", "start"], ["start", "--help"], ["list", "-h"], ["--version"]):
        done = subprocess.run([COMMAND, *words], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.strip() and not done.stderr, words


VERSION = """
import os, socket, time
print("version {version} looks for its database", flush=True)
while {version} == 2:
    time.sleep(60)
print("ready", flush=True)
held = socket.socket(fileno=3)
while True:
    client, _ = held.accept()
    client.sendall(b"x %d" % os.getpid())
    client.close()
"""


def test_a_version_that_never_becomes_ready_leaves_the_old_one_at_its_work(ox: Ox) -> None:
    port = free_port()
    text = f'[processes.web]\ncommand = ["{sys.executable}", "web.py"]\nlisten = "127.0.0.1:{port}"\nready = "log:^ready$"\n'
    ox.oxfile(text)
    ox.file("web.py", VERSION.format(version=1))
    ox("start")
    pid = ox.home.pid("web")
    ox.oxfile(text + "ready_timeout_ms = 500\n")
    ox.file("web.py", VERSION.format(version=2))
    done = ox("reload", code=1)
    assert "not ready 0.5 s after its start" in done.stderr and "version 2 looks for its database" in done.stderr
    assert "it goes on as it was" in done.stderr
    assert ask(("127.0.0.1", port)) == ("x", pid) and ox.home.pid("web") == pid

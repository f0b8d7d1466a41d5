"""A daemon that lives and does not answer: commands say so, and what to do, and never that it is gone."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oxmgr.client.connection import NoDaemon, NotRunning, connect
from oxmgr.model.messages import Act, GetDaemon, GetEvents, GetInstances
from tests.conftest import Home, wait_until
from tests.integration.conftest import Ox

STOPPED = "the daemon, pid {}, does not answer: a signal has stopped it; kill -CONT {} lets it go on"


@contextmanager
def stopped(home: Home) -> Iterator[str]:
    """While it lasts, the daemon is; what is to be said of it."""
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGSTOP)
    try:
        yield STOPPED.format(home.daemon.pid, home.daemon.pid)
    finally:
        home.daemon.send_signal(signal.SIGCONT)


def test_who_connects_to_one_that_is_stopped_is_told_so(home: Home) -> None:
    with stopped(home) as words, pytest.raises(NoDaemon) as raised:
        connect(home.places, timeout=0.3)
    assert str(raised.value) == words and not isinstance(raised.value, NotRunning)


def test_one_that_is_stopped_before_it_answers_is_told_within_5_s(home: Home) -> None:
    asking, following, idle = home.connect(), home.connect(), home.connect()
    with stopped(home) as words:
        began = time.monotonic()
        with pytest.raises(NoDaemon) as raised:
            asking.request(GetInstances())
        assert str(raised.value) == words
        assert 3 < time.monotonic() - began < 5
        with pytest.raises(NoDaemon, match="does not answer"):
            list(following.stream(GetEvents()))
    # It goes on, and so does who has asked nothing yet.
    idle.request(GetDaemon())


def all_of(ox: Ox, *commands: str) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each; they run beside each other."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [ox.popen(*command.split(), **pipes) for command in commands]
    found = []
    for one in running:
        out, err = one.communicate(timeout=60)
        found.append((one.returncode, out.decode(), err.decode()))
    return found


def test_commands_that_read_show_what_is_kept_and_the_others_do_nothing_and_all_end_with_3(ox: Ox) -> None:
    ox("start", "echo a line; exec sleep 1000", "--name", "app")
    wait_until(lambda: ox.home.log("app"), "the line")
    shown = {"list": "app", "logs app": "a line", "events": "started", "status app": "app"}
    with stopped(ox.home) as why:
        reading = all_of(ox, *shown)
        others = all_of(ox, "env app", "stop app", "start app", "daemon status")
    for text, (code, out, err) in zip(shown.values(), reading, strict=True):
        assert code == 3 and text in out and err.startswith(f"oxmgr: {why}; ")
    assert others == [(3, "", f"oxmgr: {why}\n")] * 4
    assert [view["status"] for view in ox.json("list")] == ["running"]


OXFILE = """
[processes.app]
command = "exec sleep 1000"
ready = "command:test -e {go}"
ready_timeout_ms = 0
"""


def start_one_that_is_not_ready(ox: Ox) -> subprocess.Popen[bytes]:
    ox.oxfile(OXFILE.format(go=ox.folder / "go"))
    command = ox.popen("start", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: [view.status for view in ox.home.views().values()] == ["starting"], "its process")
    return command


def test_a_command_that_waits_says_once_that_the_daemon_does_not_answer_and_goes_on_waiting(ox: Ox) -> None:
    command = start_one_that_is_not_ready(ox)
    assert command.stderr is not None
    with stopped(ox.home) as why:
        line = command.stderr.readline().decode()
    assert line == f"oxmgr: warning: {why}; this command waits for it\n"
    (ox.folder / "go").touch()
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (0, b"") and b"running" in out


def test_a_command_whose_daemon_is_killed_meanwhile_ends_with_3(ox: Ox) -> None:
    command = start_one_that_is_not_ready(ox)
    pid = ox.home.pid("app")
    ox.home.kill_daemon()
    _, err = command.communicate(timeout=60)
    assert command.returncode == 3 and b"ended before it had answered" in err
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_one_that_takes_long_and_answers_others_is_not_told_to_hang(home: Home) -> None:
    told: list[str] = []
    home.apply(home.sh("app", "trap 'sleep 5; exit' TERM; echo up; while :; do sleep 0.1; done", stop_mode="main"))
    wait_until(lambda: home.log("app"), "its trap")
    began = time.monotonic()
    home.connect().request(Act("stop", ["app"]), hangs=told.append)
    assert time.monotonic() - began > 4.5 and not told

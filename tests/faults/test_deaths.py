"""The short form of `make campaign`."""

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest

from oxmgr.client.connection import NoDaemon
from oxmgr.model.messages import Act
from oxmgr.model.spec import NEVER
from tests.conftest import Heir, Home, wait_until
from tests.faults import deaths, every, zoo


def test_deaths_and_failures_lose_no_line_and_start_nobody_twice(empty_home: Home) -> None:
    empty_home.guarded = True
    campaign = deaths.run(empty_home, seconds=60.0, seed=7)
    assert campaign.counts["rounds"] > 10 and campaign.counts["lines"] > 1000


def test_the_end_of_who_ends_while_the_next_daemon_is_starting_is_known(empty_home: Home) -> None:
    """After that daemon has asked the guard, and before it looks for what runs: it is held up in between."""
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    home.apply(home.sh("app", "trap 'exit 42' USR1; echo up; while :; do sleep 0.01; done", restart=NEVER))
    wait_until(lambda: home.log("app"), "the trap")
    pid = home.pid("app")
    campaign.plan("-e", "trace=signalfd4", "-e", "inject=signalfd4:delay_enter=3000000:when=1")
    before = home.about_daemon().pid
    log = Path(home.places.daemon_log)
    count = log.read_text().count(", pid ")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: log.read_text().count(", pid ") > count, "the next one to have asked the guard")
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the guard to have reaped it")
    home.another_than(before)
    assert (home.views()["app"].status, home.views()["app"].exit_code) == ("exited", 42)


def test_a_daemon_whose_guard_dies_while_it_starts_becomes_the_guard(empty_home: Home) -> None:
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    home.apply(home.sh("app", "exec sleep 1000"))
    pid = home.pid("app")
    campaign.plan("-e", "trace=openat", "-e", "inject=openat:delay_enter=20000")
    before = home.about_daemon().pid
    log = Path(home.places.daemon_log)
    count = log.read_text().count(", pid ")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: log.read_text().count(", pid ") > count, "the next one to have asked the guard")
    assert home.daemon is not None
    home.daemon.kill()
    home.daemon.wait()
    daemon = int(log.read_text().rpartition(", pid ")[2].split()[0])
    home.daemon = Heir(daemon)
    wait_until(lambda: guard_of(home) == daemon, "it to have become the guard")
    assert home.pid("app") == pid


@pytest.mark.parametrize(
    ("path", "call", "error", "most"),
    [("takeover", "epoll_ctl", "ENOMEM", 20), ("exit", "openat", "EMFILE", 5), ("spawn", "flock", "EIO", 0)],
)
def test_whatever_fails_once_costs_nothing(empty_home: Home, path: str, call: str, error: str, most: int) -> None:
    """What a takeover cannot watch, what a start cannot look at, and a log that cannot be opened until its app has
    ended."""
    empty_home.guarded = True
    sweep = every.Sweep(empty_home)
    sweep.begin()
    numbers = range(1, every.dry(sweep, path)[call] + 1)
    assert sum(sweep.meet(path, call, number, f"error={error}") for number in numbers) > most
    sweep.end()


@pytest.mark.parametrize("which", ["out.at", "err.at"])
@pytest.mark.parametrize("number", [1, 2])
def test_one_of_two_pipes_that_cannot_be_had_at_once_costs_no_line(empty_home: Home, which: str, number: int) -> None:
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    kind = campaign.kinds["restarted"]
    home.apply(kind.spec)
    wait_until(lambda: home.log("restarted"), "its first line")
    campaign.plan("-P", f"{home.places.run}/restarted:0.{which}", "-e", f"inject=openat:error=ENOSPC:when={number}")
    before = campaign.daemon()
    os.kill(before, signal.SIGKILL)
    home.another_than(before)
    home.request(Act("restart", ["restarted"]))
    wait_until(lambda: home.log("restarted").endswith("2 5\n"), "a line of its second run")
    home.request(Act("stop", ["restarted"]))
    home.until("restarted", lambda view: view.status == "stopped", "its end")
    runs = zoo.runs(home, "restarted", 0)
    wait_until(lambda: home.log("restarted").endswith(f"2 {(runs[1].lines or 0) - 1}\n"), "its last line")
    zoo.check_lines(home, kind, 0)


def test_what_was_left_of_one_that_is_down_is_told_and_then_let_go(empty_home: Home) -> None:
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    home.apply(home.sh("app", "echo one", restart=NEVER))
    home.until("app", lambda view: view.status == "exited", "its end")
    wait_until(lambda: home.log("app"), "its line")
    Path(f"{home.places.run}/app:0.out.dropped").write_text("10\nno room\n")
    before = campaign.daemon()
    os.kill(before, signal.SIGKILL)
    home.another_than(before)
    told = "one\noxmgr: 10 bytes were dropped here: no room\n"
    wait_until(lambda: home.log("app") == told, "what was dropped to be told")
    home.request(Act("start", ["app"]))
    wait_until(lambda: home.log("app") == told + "one\n", "its line")


def test_what_waits_for_its_log_when_its_app_has_ended_waits_also_for_the_next_daemon(empty_home: Home) -> None:
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    path = Path(home.places.logs) / "app.out.log"
    path.touch(0o600)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        home.apply(home.sh("app", "echo one", restart=NEVER))
        home.until("app", lambda view: view.status == "exited", "its end")
        for _ in range(2):
            before = campaign.daemon()
            os.kill(before, signal.SIGKILL)
            home.another_than(before)
        assert path.read_text() == ""
    wait_until(lambda: path.read_text() == "one\n", "its line")
    daemon, fifo = campaign.daemon(), f"{home.places.run}/app:0.out"
    wait_until(lambda: fifo not in every.links(daemon), "its pipe to be closed")
    home.request(Act("start", ["app"]))
    wait_until(lambda: path.read_text() == "one\none\n", "its line")


def test_who_prints_to_a_pipe_that_cannot_be_opened_at_once_waits_until_it_can(empty_home: Home) -> None:
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    home.apply(home.sh("app", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"))
    wait_until(lambda: home.log("app"), "its first line")
    pid, fifo = home.pid("app"), f"{home.places.run}/app:0.out"
    assert isinstance(home.daemon, subprocess.Popen)
    daemon = os.pidfd_open(home.about_daemon().pid)
    home.daemon.kill()
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    home.daemon.wait()
    os.close(daemon)
    campaign.plan("-P", fifo, "-e", "inject=openat:error=ENOMEM:when=1..2")
    campaign.start()
    count = home.log("app").count("\n")
    assert any(fifo in text for text in home.views()["app"].warnings)
    wait_until(lambda: home.log("app").count("\n") > count + 100, "its lines")
    numbers = [int(line) for line in home.log("app").splitlines()]
    assert numbers == list(range(len(numbers))) and home.pid("app") == pid
    assert not any(fifo in text for text in home.views()["app"].warnings)


@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM", "ETOOMANYREFS", "EAGAIN"])
def test_what_the_guard_cannot_be_told_at_once_it_is_told_later(empty_home: Home, error: str) -> None:
    home = empty_home
    campaign = deaths.Campaign(home)
    campaign.start()
    inject = f"inject=sendmsg:error={error}:when=1..20"
    tracer = deaths.attach(home.about_daemon().pid, campaign.trace, "-e", "trace=sendmsg", "-e", inject)
    try:
        home.apply(home.sh("app", "echo up; exec sleep 1000"))
        pipe = f"{home.places.run}/app:0.out"
        folder = Path(f"/proc/{campaign.guard}/fd")
        wait_until(lambda: pipe in [os.readlink(fd) for fd in folder.iterdir()], "the guard to keep it")
    finally:
        deaths.detach(tracer)
    assert campaign.trace.read_text().count("(INJECTED)") == 20


def guard_of(home: Home) -> int | None:
    try:
        return home.about_daemon().guard
    except NoDaemon:
        return None

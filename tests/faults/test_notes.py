"""Deaths between what is done and what is written down: of a start, and of an end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import WITHOUT_CGROUPS, Home, wait_until
from tests.containers import Container
from tests.faults import every, zoo
from tests.faults.deaths import Campaign, attach, detach

CALLS = ("pwrite64", "waitid", "clone3", "rt_sigprocmask", "write")
"""Those by which it is known, done, and written down."""


@pytest.fixture(params=["cgroup", "walk"])
def home(request: pytest.FixtureRequest, empty_home: Home) -> Home:
    empty_home.guarded = True
    if request.param == "walk":
        empty_home.wrap = WITHOUT_CGROUPS
    return empty_home


@pytest.mark.parametrize("path", ["spawn", "exit", "apart"])
def test_whenever_the_daemon_dies_a_run_is_one_run_and_its_end_is_known(home: Home, path: str) -> None:
    sweep = every.Sweep(home, threads=False)
    sweep.begin()
    most = every.dry(sweep, path)
    met = [
        name
        for name in CALLS
        for number in range(1, min(most[name], 8) + 1)
        if sweep.meet(path, name, number, every.DEATH)
    ]
    assert {"pwrite64", "waitid", "clone3"} <= set(met)
    sweep.end()


def test_who_has_not_come_to_execute_when_the_daemon_dies_is_started_once(home: Home) -> None:
    campaign = Campaign(home)
    campaign.start()
    ledger = {"LEDGER": str(home.folder / "ledger")}
    script = zoo.PRELUDE + every.GO + "leave 7"
    home.apply(home.sh("app", script, env=ledger, restart="always", restart_delay_max_ms=0))
    wait_until(lambda: home.log("app"), "its trap")
    before, first = home.about_daemon().pid, home.pid("app")
    delay = "inject=setsid:delay_enter=3000000"
    tracer = attach(before, campaign.trace, "-f", "-b", "execve", "-e", "trace=setsid", "-e", delay)
    try:
        os.kill(first, signal.SIGUSR1)
        wait_until(lambda: held(before, first), "another child")
        child = held(before, first)
        os.kill(before, signal.SIGKILL)
        home.another_than(before)
        view = home.until("app", lambda view: view.pid and view.status == "running", "another start")
        assert view.pid != first and view.restarts == 1
    finally:
        detach(tracer)
    # On a slow machine it has executed before anybody came, and goes on.
    wait_until(lambda: view.pid == child or not os.path.exists(f"/proc/{child}"), "the one that was held to be gone")
    wait_until(lambda: len(zoo.runs(home, "app", 0)) == 2, "it to have written so")
    assert zoo.runs(home, "app", 0)[-1].pid == home.pid("app")


def held(daemon: int, first: int) -> int:
    """The child of that daemon that is no app yet; 0 without."""
    try:
        found = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    except FileNotFoundError:
        return 0
    return next((int(pid) for pid in found if int(pid) != first), 0)


@pytest.fixture
def container(empty_home: Home) -> Iterator[Container]:
    made = Container(empty_home)
    yield made
    made.end()


def test_a_container_ends_with_the_code_of_an_end_that_nobody_has_written_down(container: Container) -> None:
    container.start("--", "/bin/sh", "-c", "trap 'exit 21' USR2; echo up; while :; do sleep 0.01; done").until("up")
    container.wait_until_up()
    # Looked at, reaped, and then there is no more.
    tracer = attach(
        container.daemon(),
        container.home.folder / "trace",
        "-e",
        "trace=waitid",
        "-e",
        "inject=waitid:signal=SIGKILL:when=3",
    )
    try:
        container.kill(signal.SIGUSR2)
        assert container.code() == 21
    finally:
        detach(tracer)
    text = (container.home.folder / "trace").read_text()
    assert "WEXITED|WNOWAIT" in text.replace("WNOHANG|", "") and "killed by SIGKILL" in text

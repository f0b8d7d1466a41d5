"""Commands around starts and stops: each has its time, and nothing of it outlives that."""

import os
import time
from pathlib import Path

import pytest

from oxmgr.client.saved import read_saved_events
from oxmgr.model.messages import Act, StopDaemon
from oxmgr.model.spec import NEVER, HealthCheck, Hooks, Limits
from oxmgr.supervisor.owners import NO_FAULT
from tests.conftest import Home, no_more_files, wait_until


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def note(home: Home, word: str) -> str:
    return f"echo {word} $OXMGR_HOOK ${{OXMGR_PID:-none}} >> {home.folder}/notes"


def notes(home: Home) -> list[list[str]]:
    path = home.folder / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_each_hook_comes_at_its_time(home: Home) -> None:
    kinds = ("pre_start", "post_start", "pre_reload", "pre_stop", "post_stop")
    hooks = Hooks(**dict.fromkeys(kinds, note(home, "hook")))  # type: ignore[arg-type]
    script = f"echo app >> {home.folder}/notes; trap 'echo end >> {home.folder}/notes; exit' TERM; while :; do sleep 0.01; done"
    home.apply(home.sh("app", script, hooks=hooks))
    wait_until(lambda: len(notes(home)) == 3, "the start and its hooks")
    pid = str(home.pid("app"))
    assert notes(home)[0] == ["hook", "pre_start", "none"]
    assert sorted(notes(home)[1:]) == [["app"], ["hook", "post_start", pid]]
    home.request(Act("stop", ["app"]))
    wait_until(lambda: len(notes(home)) == 6, "the stop and its hooks")
    assert notes(home)[3:] == [["hook", "pre_stop", pid], ["end"], ["hook", "post_stop", "none"]]


def test_a_post_start_comes_after_each_start_also_where_nothing_is_waited_for(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", hooks=Hooks(post_start=note(home, "hook"))))
    first = home.pid("app")
    wait_until(lambda: notes(home) == [["hook", "post_start", str(first)]], "the hook")
    os.kill(first, 9)
    home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    wait_until(lambda: notes(home)[1:] == [["hook", "post_start", str(home.pid("app"))]], "the hook of the restart")


def test_a_pre_start_that_fails_is_a_start_that_fails(home: Home) -> None:
    hooks = Hooks(pre_start="echo the database is not there >&2; exit 4")
    done = home.apply(home.sh("app", "exec sleep 1000", hooks=hooks, restart=NEVER))
    assert done.failed == {"app": "cannot start app: pre_start: exit code 4: the database is not there"}
    assert home.views()["app"].status == "errored"


def test_a_hook_that_hangs_is_killed_with_all_that_it_started(home: Home) -> None:
    hooks = Hooks(pre_start=f"sleep 500 & echo $! > {home.folder}/pid; wait", timeout_secs=0.3)
    done = home.apply(home.sh("app", "exec sleep 1000", hooks=hooks, restart=NEVER))
    assert "pre_start: it does not end within 0.3 s" in done.failed["app"]
    pid = (home.folder / "pid").read_text().strip()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of what it started")


def test_a_stop_while_a_pre_start_runs_ends_it(home: Home) -> None:
    hooks = Hooks(pre_start=f"echo $$ > {home.folder}/pid; exec sleep 500")
    home.connect()._send(apply_of(home, hooks))  # type: ignore[arg-type]
    wait_until(lambda: (home.folder / "pid").exists() and (home.folder / "pid").read_text(), "the hook")
    home.request(Act("stop", ["app"]))
    assert home.views()["app"].status == "stopped"
    pid = (home.folder / "pid").read_text().strip()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the hook")


def apply_of(home: Home, hooks: Hooks) -> object:
    from oxmgr.model.messages import Apply

    return Apply([home.sh("app", "exec sleep 1000", hooks=hooks)])


def test_a_pre_stop_that_hangs_does_not_keep_a_stop_longer_than_its_time(home: Home) -> None:
    hooks = Hooks(pre_stop="exec sleep 500")
    home.apply(home.sh("app", "exec sleep 1000", hooks=hooks, stop_timeout_ms=300))
    home.request(Act("stop", ["app"]))
    assert home.views()["app"].status == "stopped"


def test_the_daemon_waits_for_what_is_run_after_a_stop(home: Home) -> None:
    hooks = Hooks(post_stop=f"sleep 0.3; {note(home, 'late')}")
    home.apply(home.sh("app", "exec sleep 1000", hooks=hooks))
    home.request(StopDaemon())
    assert home.daemon is not None and home.daemon.wait(10) == 0
    assert notes(home) == [["late", "post_stop", "none"]]


def test_the_end_of_a_hook_that_was_late_reads_nobody_elses_pipe(home: Home) -> None:
    """Its own is closed by then, and the number is the next one's that asks."""
    hooks = Hooks(pre_start="exec sleep 500", timeout_secs=0.1)
    counts = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"
    home.apply(home.sh("app", "exec sleep 1000", hooks=hooks, restart_delay_ms=1), home.sh("quick", counts))
    for number in range(6):
        home.apply(home.sh(f"more{number}", counts))
    home.until("app", lambda view: view.restarts >= 2)
    names = ["quick", *(f"more{number}" for number in range(6))]
    wait_until(lambda: all(home.log(name).endswith("line 2999\n") for name in names), "all lines")
    assert {home.log(name) for name in names} == {"".join(f"line {number}\n" for number in range(3000))}


def test_a_command_that_closes_its_output_costs_nothing(home: Home) -> None:
    command = f"exec >&- 2>&-; echo > {home.folder}/closed; exec sleep 500"
    check = HealthCheck(command=command, initial_delay_secs=0, timeout_secs=100)
    home.apply(home.sh("app", "exec sleep 1000", health_check=check))
    wait_until((home.folder / "closed").exists, "the command")
    assert home.daemon is not None
    schedstat = Path(f"/proc/{home.daemon.pid}/schedstat")

    def ran_ms() -> float:
        return int(schedstat.read_text().split()[0]) / 1e6

    before = ran_ms()
    time.sleep(0.5)
    # Also where it gets a tenth of a CPU, a loop that turns has more.
    assert ran_ms() - before < 10


def test_without_file_descriptors_hooks_fail_and_nothing_else(home: Home) -> None:
    hooks = Hooks(pre_stop="exit 0", post_stop="exit 0")
    home.apply(home.sh("app", "exec sleep 1000", hooks=hooks))
    connection, pid = home.connect(), home.pid("app")

    def failed() -> list[str]:
        return [event.reason for event in read_saved_events(home.places) if event.kind == "hook-failed"]

    with no_more_files(home):
        connection._send(Act("stop", ["app"]))
        wait_until(lambda: failed() and not os.path.exists(f"/proc/{pid}"), "the end of the app")
    home.until("app", lambda view: view.status == "stopped")
    help_ = "raise the daemon's limit of open files (`ulimit -n`, or LimitNOFILE= of its unit)"
    assert failed()[0] == f"pre_stop: {NO_FAULT}open a pipe for what it prints: Too many open files: {help_}"
    assert home.stop_daemon() == 0


def test_a_hook_has_the_limits_of_its_app(home: Home) -> None:
    hooks = Hooks(pre_start=f"ulimit -n > {home.folder}/files")
    home.apply(home.sh("app", "exec sleep 1000", hooks=hooks, limits=Limits(open_files=77)))
    assert (home.folder / "files").read_text() == "77\n"

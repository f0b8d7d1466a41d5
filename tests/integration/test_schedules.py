"""Jobs and restarts at their times, with a daemon, its helper and real processes.

A line of six fields is due each second, so nobody has to wait for long; what has to come rarely is due once a year.
"""

import os
import time
from pathlib import Path

import pytest

from oxmgr.client.saved import read_saved_events
from oxmgr.model.codec import Decoder, encode
from oxmgr.model.messages import Act, Apply, Boot, Journaled, Observed
from oxmgr.model.records import file_header, read_records, record
from tests.conftest import Home, wait_until
from tests.integration.conftest import Ox

SECONDLY = "* * * * * *"
YEARLY = "@yearly"


def kinds(home: Home, app: str) -> list[str]:
    return [event.kind for event in read_saved_events(home.places) if event.app == app]


def due_in(seconds: int) -> str:
    """A line that is due once, so many seconds from now, and then in a year."""
    at = time.localtime(time.time() + seconds)
    return f"{at.tm_sec} {at.tm_min} {at.tm_hour} {at.tm_mday} {at.tm_mon} *"


def test_a_job_waits_until_its_time_and_runs_again_and_again(home: Home) -> None:
    done = home.apply(home.sh("job", "date", schedule=YEARLY, restart="never"))
    assert not done.failed and done.instances[0].status == "waiting"
    assert done.instances[0].reason.startswith("runs at ") and done.instances[0].next_run
    assert home.log("job") == "", "it is not run because it was applied"
    assert not home.apply(home.sh("job", "date", schedule=SECONDLY, restart="never")).failed
    wait_until(lambda: home.log("job").count("\n") >= 3, "three runs")
    view = home.until("job", lambda view: view.status == "waiting")
    assert (view.desired, view.restarts, view.exit_code) == ("running", 0, 0)
    assert view.next_run is not None and view.next_run >= time.time() - 1


def test_a_stopped_job_stays_stopped_and_start_has_it_wait_again(home: Home) -> None:
    home.apply(
        home.sh("job", "date", schedule=SECONDLY, restart="never"),
        home.sh("clock", "date", schedule=SECONDLY, restart="never"),
    )
    wait_until(lambda: home.log("job"), "a run")
    home.request(Act("stop", ["job"]))
    runs, clock = home.log("job"), home.log("clock")
    wait_until(lambda: home.log("clock").count("\n") > clock.count("\n") + 1, "two more of the other")
    assert home.log("job") == runs
    view = home.views()["job"]
    assert (view.status, view.next_run) == ("stopped", None)
    done = home.request(Act("start", ["job"]))
    assert done.instances[0].status == "waiting" and not done.failed
    wait_until(lambda: home.log("job") != runs, "a run")


def test_restart_runs_a_job_now(home: Home) -> None:
    home.apply(home.sh("job", "echo ran; exit 3", schedule=YEARLY, restart="never"))
    home.request(Act("restart", ["job"]))
    view = home.until("job", lambda view: view.status == "waiting" and view.exit_code == 3)
    assert home.log("job") == "ran\n" and view.reason.startswith("runs at ")
    assert "crashed" in kinds(home, "job")


def test_a_run_that_is_due_while_the_last_one_runs_is_left_out(home: Home) -> None:
    home.apply(home.sh("job", "echo begun; exec sleep 600", schedule=SECONDLY, restart="never"))
    wait_until(lambda: kinds(home, "job").count("skipped") >= 2, "two that were left out")
    assert home.log("job") == "begun\n"


def test_overlapping_runs_take_one_instance_each(home: Home) -> None:
    home.apply(
        home.sh("job", "echo begun; exec sleep 600", schedule=SECONDLY, restart="never", overlap=True, instances=2)
    )
    home.until("job:0", lambda view: view.status == "running")
    first = home.views()
    assert {view.status for view in first.values()} in ({"running", "waiting"}, {"running"})
    home.until("job:1", lambda view: view.status == "running")
    views = home.views()
    assert views["job:0"].started_at != views["job:1"].started_at
    wait_until(lambda: "skipped" in kinds(home, "job"), "no instance is left")


def test_a_service_is_restarted_at_its_times(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 600", restart_schedule=SECONDLY))
    first = home.pid("app")
    view = home.until("app", lambda view: view.pid not in (None, first) and view.status == "running")
    assert view.restarts >= 1 and view.next_run is not None
    assert "scheduled" in kinds(home, "app")


def test_a_service_that_has_ended_is_not_started_by_its_restart_schedule(home: Home) -> None:
    home.apply(
        home.sh("app", "exit 0", restart_schedule=SECONDLY),
        home.sh("clock", "date", schedule=SECONDLY, restart="never"),
    )
    wait_until(lambda: home.log("clock").count("\n") >= 2, "two seconds")
    assert kinds(home, "app") == ["added", "started", "exited"]


@pytest.mark.parametrize("boot", ["", "another boot"])
def test_what_was_missed_while_no_daemon_was_there(home: Home, boot: str) -> None:
    """A daemon that died long ago, perhaps with the machine: its journal says up to when all was done."""
    jobs = {
        "late": home.sh("late", "echo ran", schedule="0 0 0 * * *", catch_up=True, restart="never"),
        "lost": home.sh("lost", "echo ran", schedule="0 0 0 * * *", restart="never"),
    }
    home.apply(*jobs.values())
    home.kill_daemon()
    _age_journal(home, 2 * 24 * 3600, boot)
    home.start_daemon()
    wait_until(lambda: home.log("late") == "ran\n", "it is caught up with, once")
    home.until("lost", lambda view: view.reason.startswith("runs at "))
    home.until("late", lambda view: view.status == "waiting")
    assert home.log("lost") == "" and "missed" in kinds(home, "lost")
    home.kill_daemon()
    home.start_daemon()
    home.until("late", lambda view: view.reason.startswith("runs at "))
    assert home.log("late") == "ran\n", "and not by the next daemon again"


def _age_journal(home: Home, seconds: float, boot: str) -> None:
    path = Path(home.places.journal)
    entries = [Decoder(Journaled).decode(one) for one in read_records("journal", path.read_bytes())[0]]
    for entry in entries:
        if isinstance(entry, Observed) and entry.done_until:
            entry.done_until -= seconds
        elif isinstance(entry, Boot) and boot:
            entry.id = boot
    path.write_bytes(file_header("journal") + b"".join(record(encode(entry)) for entry in entries))


def test_a_job_goes_on_through_the_death_of_its_daemon(home: Home) -> None:
    home.apply(home.sh("job", "echo $$; exec sleep 600", schedule=due_in(2), restart="never"))
    view = home.until("job", lambda view: view.status == "running")
    home.kill_daemon()
    home.start_daemon()
    again = home.until("job", lambda view: view.status == "running")
    assert again.pid == view.pid and home.log("job").count("\n") == 1
    os.kill(again.pid or 0, 15)
    assert home.until("job", lambda view: view.status == "waiting").signal == "SIGTERM"


def test_a_time_that_comes_while_daemons_change_is_not_lost(home: Home) -> None:
    home.apply(home.sh("job", "echo ran", schedule=due_in(2), restart="never"))
    due = home.views()["job"].next_run
    assert due is not None
    home.kill_daemon()
    wait_until(lambda: time.time() > due, "its time to come without a daemon")
    home.start_daemon()
    wait_until(lambda: home.log("job") == "ran\n", "the run")
    home.until("job", lambda view: view.status == "waiting")


@pytest.mark.parametrize("boot", ["", "another boot"])
def test_a_run_that_waits_for_another_app_is_not_lost_with_its_daemon(home: Home, boot: str) -> None:
    """Its time has come, and it has not begun: the next daemon has it wait on, and it is run once."""
    go = home.folder / "go"
    job = home.sh("job", "echo ran", schedule=due_in(2), restart="never", depends_on={"db": "ready"})
    db = home.sh("db", "exec sleep 600", ready=f"command:test -e {go}", ready_timeout_ms=0)
    environ = "".join(f"{key}={value}\0" for key, value in home.env.items()).encode()
    home.connect()._send(Apply([db, job], environ))
    wait_until(lambda: len(home.views()) == 2, "both apps")
    home.until("job", lambda view: view.reason.startswith("waits for db"))
    pid = home.pid("db")
    home.kill_daemon()
    if boot:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        _age_journal(home, 0, boot)
    home.start_daemon()
    home.until("job", lambda view: view.reason.startswith("waits for db"))
    assert home.log("job") == ""
    go.touch()
    wait_until(lambda: home.log("job") == "ran\n", "the run")
    home.until("job", lambda view: view.status == "waiting" and view.reason.startswith("runs at "))
    assert home.log("job") == "ran\n"


def test_a_time_that_comes_without_a_daemon_while_the_last_run_goes_on_is_left_out(home: Home) -> None:
    line = due_in(2)
    home.apply(home.sh("job", "echo ran; exec sleep 600", schedule=line, restart="never", catch_up=True))
    home.request(Act("restart", ["job"]))
    view = home.until("job", lambda view: view.status == "running")
    assert view.next_run is not None
    home.kill_daemon()
    wait_until(lambda: time.time() > (view.next_run or 0), "its time to come without a daemon")
    home.start_daemon()
    wait_until(lambda: "skipped" in kinds(home, "job"), "it to be left out")
    assert home.pid("job") == view.pid and home.log("job") == "ran\n"


def test_another_line_counts_from_now_on(home: Home) -> None:
    home.apply(home.sh("job", "echo ran", schedule=YEARLY, restart="never"))
    done = home.apply(home.sh("job", "echo ran", schedule=SECONDLY, restart="never"))
    assert done.changes[0].keys == ["schedule"]
    wait_until(lambda: home.log("job").count("ran") >= 2, "two runs")


def test_a_service_becomes_a_job_and_a_service_again(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 600"))
    done = home.apply(home.sh("app", "exec sleep 600", schedule=YEARLY, restart="never"))
    assert done.instances[0].status == "waiting" and done.instances[0].pid is None
    done = home.apply(home.sh("app", "exec sleep 600"))
    assert done.instances[0].status == "running" and done.instances[0].next_run is None


@pytest.mark.parametrize(
    ("line", "zone", "why"), [("0 0 30 2 *", "", "is never due"), (YEARLY, "Europe/Nowhere", "there is no time zone")]
)
def test_a_line_that_only_the_helper_can_judge_is_told_as_the_reason(
    home: Home, line: str, zone: str, why: str
) -> None:
    """From whoever speaks at the socket; a file with it is refused."""
    done = home.apply(home.sh("job", "date", schedule=line, timezone=zone, restart="never"))
    view = done.instances[0]
    assert view.status == "waiting" and why in view.reason and any(why in text for text in view.warnings)


def test_the_command_tells_when_a_job_runs_next(ox: Ox) -> None:
    ox.oxfile('[processes.job]\ncommand = "true"\nschedule = "@yearly"\ntimezone = "Asia/Tokyo"\n')
    assert "runs at " in ox("start").stdout
    (view,) = ox.json("list")
    assert view["status"] == "waiting"
    assert time.strftime("%d %H:%M", time.gmtime(view["next_run"] + 9 * 3600)) == "01 00:00"
    assert "next run" in ox("status", "job").stdout

"""What outlives a daemon: what is desired, what ran, and what was damaged in between."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from oxmgr.client.saved import read_saved, read_saved_events
from oxmgr.model.messages import Act, Apply, GetInstances, Instances
from oxmgr.model.spec import NEVER
from tests.conftest import DEADLINE, Home, wait_until


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def statuses(home: Home) -> dict[str, tuple[str, str]]:
    return {name: (view.status, view.desired) for name, view in home.views().items()}


def warnings(home: Home) -> list[str]:
    reply = home.connect().request(GetInstances())
    assert isinstance(reply, Instances)
    return reply.warnings


def a_mix(home: Home) -> None:
    """One of each: running, stopped, finished, failed for good."""
    home.apply(
        home.sh("runs", "exec sleep 1000", instances=2),
        home.sh("stops", "exec sleep 1000"),
        home.sh("done", "exit 0"),
        home.sh("failed", "exit 3", max_restarts=1),
    )
    home.request(Act("stop", ["stops", "runs:1"]))
    home.until("failed", lambda view: view.status == "errored")


def test_a_daemon_that_ends_stops_its_apps_and_the_next_one_starts_what_was_desired(home: Home) -> None:
    a_mix(home)
    pid = home.pid("runs:0")
    assert home.stop_daemon() == 0
    assert not Path(f"/proc/{pid}").exists()
    home.start_daemon()
    home.until("runs:0", lambda view: view.status == "running")
    assert statuses(home) == {
        "runs:0": ("running", "running"),
        "runs:1": ("stopped", "stopped"),
        "stops": ("stopped", "stopped"),
        "done": ("exited", "running"),
        "failed": ("errored", "running"),
    }
    assert "exit code 3" in home.views()["failed"].reason


def test_sigterm_does_the_same_and_in_order(home: Home) -> None:
    order = home.folder / "order"
    quiet = f"trap 'echo $OXMGR_APP >> {order}; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    home.apply(home.sh("db", quiet), home.sh("api", quiet, depends_on={"db": "started"}))
    wait_until(lambda: "up" in home.log("db") and "up" in home.log("api"), "the traps")
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGTERM)
    assert home.daemon.wait(DEADLINE) == 0
    assert order.read_text() == "api\ndb\n"
    home.start_daemon()
    assert {view.desired for view in home.views().values()} == {"running"}


def test_a_second_sigterm_hurries(home: Home) -> None:
    home.apply(home.sh("stuck", "trap '' TERM; echo up; while :; do sleep 0.01; done", stop_timeout_ms=60_000))
    wait_until(lambda: "up" in home.log("stuck"), "the trap")
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGTERM)
    home.until("stuck", lambda view: view.status == "stopping")
    home.daemon.send_signal(signal.SIGTERM)
    assert home.daemon.wait(DEADLINE) == 0


def test_a_killed_daemon_is_followed_by_one_that_takes_its_apps_over(home: Home) -> None:
    a_mix(home)
    os.kill(home.pid("runs:0"), 9)
    before = home.until("runs:0", lambda view: view.restarts == 1)
    home.kill_daemon()
    home.start_daemon()
    after = home.views()["runs:0"]
    assert (after.pid, after.restarts, after.status, after.desired) == (before.pid, 1, "running", "running")
    assert abs((after.started_at or 0) - (before.started_at or 0)) < 0.001 and (after.uptime_ms or 0) >= (
        before.uptime_ms or 0
    )
    assert statuses(home)["stops"] == ("stopped", "stopped")
    # What was taken over is supervised like any other.
    os.kill(after.pid or 0, 9)
    view = home.until("runs:0", lambda view: view.restarts == 2)
    assert view.signal == "SIGKILL"
    home.request(Act("restart", ["runs:0"]))
    home.request(Act("stop", ["runs:0"]))
    assert home.views()["runs:0"].status == "stopped"


def test_the_exit_code_of_a_taken_over_process_is_the_true_one(home: Home) -> None:
    home.apply(home.sh("app", "trap 'exit 42' USR1; echo up; while :; do sleep 0.01; done", restart=NEVER))
    wait_until(lambda: "up" in home.log("app"), "the trap")
    home.kill_daemon()
    home.start_daemon()
    os.kill(home.pid("app"), signal.SIGUSR1)
    view = home.until("app", lambda view: view.status == "exited")
    assert view.exit_code == 42


def test_an_app_that_died_with_its_daemon_is_started_again_once(home: Home) -> None:
    home.apply(home.sh("app", "echo started; exec sleep 1000"))
    wait_until(lambda: home.log("app"), "the first start")
    pid = home.pid("app")
    home.kill_daemon()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    home.start_daemon()
    assert home.pid("app") != pid
    wait_until(lambda: home.log("app") == "started\nstarted\n", "the second start")


def test_what_an_app_left_when_it_died_with_its_daemon_is_ended_before_it_starts_again(home: Home) -> None:
    home.apply(home.sh("app", "sleep 1000 & echo $!; exec sleep 1001"))
    wait_until(lambda: home.log("app"), "the child")
    pid, left = home.pid("app"), int(home.log("app"))
    home.kill_daemon()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    home.start_daemon()
    wait_until(lambda: Path(f"/proc/{left}/stat").read_text().split()[2] == "Z", "the left-over to be killed")
    os.waitpid(left, 0)


def test_a_process_with_a_recycled_pid_is_not_taken_over(home: Home) -> None:
    """The journal names a pid and its start time; a stranger with that pid began at another."""
    home.apply(home.sh("app", "exec sleep 1000"))
    pid = home.pid("app")
    home.kill_daemon()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    # Start times have the kernel's tick, 10 ms: no real pid comes round within one.
    tick, now = 1 / os.sysconf("SC_CLK_TCK"), time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > now + 2 * tick, "the next tick")
    stranger = subprocess.Popen(["sleep", "1000"])
    journal = Path(home.places.journal)
    data = journal.read_bytes()
    from oxmgr.model.codec import Decoder, encode, replace
    from oxmgr.model.messages import Journaled, Observed
    from oxmgr.model.records import file_header, read_records, record

    entries = [Decoder(Journaled).decode(one) for one in read_records("journal", data)[0]]
    forged = [
        replace(one, pid=stranger.pid) if isinstance(one, Observed) and one.pid == pid else one for one in entries
    ]
    journal.write_bytes(file_header("journal") + b"".join(record(encode(one)) for one in forged))
    home.start_daemon()
    assert home.pid("app") != stranger.pid
    home.request(Act("stop", ["app"]))
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_nothing_is_taken_over_from_another_boot(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"), home.sh("job", "exit 0"))
    home.until("job", lambda view: view.status == "exited")
    pid = home.pid("app")
    home.kill_daemon()
    from oxmgr.model.codec import Decoder, encode
    from oxmgr.model.messages import Boot, Journaled
    from oxmgr.model.records import file_header, read_records, record

    journal = Path(home.places.journal)
    entries = [Decoder(Journaled).decode(one) for one in read_records("journal", journal.read_bytes())[0]]
    entries = [Boot("another") if isinstance(one, Boot) else one for one in entries]
    journal.write_bytes(file_header("journal") + b"".join(record(encode(one)) for one in entries))
    home.start_daemon()
    home.until("app", lambda view: view.status == "running" and view.pid != pid)
    assert home.views()["job"].status == "exited", "a finished job stays finished after a reboot"
    if home.wrap:
        # A number that means nothing here: it is a stranger's.
        os.kill(pid, 0)
        os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_the_command_that_starts_a_daemon_comes_before_what_is_desired(home: Home) -> None:
    """`oxmgr stop db` without a daemon must not start db first, nor keep the others from starting."""
    home.apply(home.sh("db", "echo up; exec sleep 1000"), home.sh("api", "exec sleep 1000"))
    wait_until(lambda: home.log("db") == "up\n", "the first start")
    home.stop_daemon()
    home.start_daemon(hold=True)
    assert statuses(home) == {"db": ("stopped", "running"), "api": ("stopped", "running")}
    home.request(Act("stop", ["db"]))
    home.until("api", lambda view: view.status == "running")
    assert statuses(home)["db"] == ("stopped", "stopped") and home.log("db") == "up\n"


def test_a_daemon_whose_starter_says_nothing_starts_what_is_desired_all_the_same(home: Home) -> None:
    home.apply(home.sh("api", "exec sleep 1000"))
    home.stop_daemon()
    home.start_daemon(hold=True)
    home.until("api", lambda view: view.status == "running")


def test_a_secret_in_the_environment_is_in_no_file_that_others_can_read(home: Home) -> None:
    home.request(
        Apply([home.sh("app", "exec sleep 1000", env={"TOKEN": "hunter2"})], b"PATH=/usr/bin:/bin\0BASE=hunter2\0")
    )
    holding = [path for path in home.folder.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert holding
    for path in holding:
        assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0


def test_an_environment_that_apps_share_is_saved_once(home: Home) -> None:
    environ = b"PATH=/usr/bin:/bin\0BIG=" + b"x" * 5000 + b"\0"
    home.request(Apply([home.sh(f"a{number}", "exec sleep 1000") for number in range(20)], environ))
    assert Path(home.places.desired).stat().st_size < 12_000
    home.request(Act("delete", ["all"]))
    assert Path(home.places.desired).stat().st_size < 100


# --- without a daemon ---


def test_what_is_saved_can_be_read_without_a_daemon(home: Home) -> None:
    a_mix(home)
    home.stop_daemon()
    views, wrong = read_saved(home.places, [])
    assert wrong == []
    assert {view.name: (view.status, view.desired) for view in views} == {
        "runs:0": ("stopped", "running"),
        "runs:1": ("stopped", "stopped"),
        "stops": ("stopped", "stopped"),
        "done": ("exited", "running"),
        "failed": ("errored", "running"),
    }
    kinds = [event.kind for event in read_saved_events(home.places)]
    assert kinds[0] == "daemon-started" and {"added", "started", "crashed", "errored", "stopped"} <= set(kinds)


def test_an_app_that_outlived_its_daemon_is_not_called_stopped(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    pid = home.pid("app")
    home.kill_daemon()
    (view,), _ = read_saved(home.places, [])
    assert (view.status, view.pid) == ("running", pid) and "daemon is gone" in view.reason
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    (view,), _ = read_saved(home.places, [])
    assert (view.status, view.pid) == ("stopped", None)


def test_events_are_numbered_on_from_daemon_to_daemon(home: Home) -> None:
    home.apply(home.sh("app", "exit 0"))
    home.until("app", lambda view: view.status == "exited")
    home.kill_daemon()
    home.start_daemon()
    home.stop_daemon()
    numbers = [event.seq for event in read_saved_events(home.places)]
    assert numbers == list(range(1, len(numbers) + 1))

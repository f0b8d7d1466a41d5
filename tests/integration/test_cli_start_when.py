"""`oxmgr start` with options that say when it is run and restarted."""

from tests.integration.conftest import Ox
from tests.integration.test_schedules import due_in


def test_watch_restarts_it_when_a_file_changes_in_its_folder_or_in_those_that_are_named(ox: Ox) -> None:
    for name in ("lib", "more"):
        (ox.folder / name).mkdir()
    ox("start", "sleep 1000", "--name", "own", "--watch")
    ox("start", "--watch", "lib", "--watch=more", "sleep 1000", "--name", "named")
    ox.file("lib/x", "changed")
    restarted(ox, "named", 1)
    ox.file("more/y", "changed")
    restarted(ox, "named", 2)
    # What is in a folder below is its own as well.
    before = restarted(ox, "own", 1)
    ox.file("z", "changed")
    restarted(ox, "own", before + 1)
    assert ox.home.views()["named"].restarts == 2


def restarted(ox: Ox, name: str, times: int) -> int:
    """Wait until it runs again; what changes before that is no change to it."""
    view = ox.home.until(name, lambda view: view.restarts >= times and view.status == "running")
    return view.restarts


def test_schedule_makes_it_a_job_and_cron_restart_a_service_that_is_restarted(ox: Ox) -> None:
    (job,) = ox.json("start", "sleep 1000", "--name", "job", "--schedule", "30 6 * * mon-fri")
    assert job["status"] == "waiting" and job["reason"].startswith("runs at ")
    (service,) = ox.json("start", "sleep 1000", "--name", "service", "--cron", due_in(5))
    assert service["status"] == "running"
    ox.home.until("service", lambda view: view.restarts >= 1)


def test_restart_of_a_job_says_what_it_did(ox: Ox) -> None:
    ox("start", "exec sleep 1000", "--name", "long", "--schedule", "@yearly")
    ox("start", "exit 3", "--name", "short", "--schedule", "@yearly")
    done = ox("restart", "all")
    assert "long was started at once, apart from its schedule: it runs\n" in done.stdout
    assert "short was started at once, apart from its schedule: it has ended: exit code 3\n" in done.stdout
    assert ox.json("restart", "short")[0]["status"] == "waiting"
    # Nothing that was not started is told to have been.
    ox("start", "sleep 1000", "--name", "service")
    assert "schedule" not in ox("restart", "service").stdout

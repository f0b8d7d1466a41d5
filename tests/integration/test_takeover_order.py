"""A takeover while apps wait for each other, or for their time, or fail their health checks."""

import time

from oxmgr.model.messages import Act, Apply
from oxmgr.model.spec import HealthCheck
from tests.conftest import Home, wait_until
from tests.integration.test_takeover import counted, home, last_seen, saved, starts

__all__ = ["home"]

SCRIPT = """
trap 'stop=1' TERM; echo up; while [ -z "$stop" ]; do sleep 0.02; done
while [ ! -e {folder}/{gate} ]; do sleep 0.02; done
echo {name} >> {folder}/ended
"""


def test_what_others_need_is_stopped_after_them_also_by_the_next_daemon(home: Home) -> None:
    db = home.sh("db", SCRIPT.format(folder=home.folder, gate="", name="db"))
    web = home.sh("web", SCRIPT.format(folder=home.folder, gate="go", name="web"), depends_on={"db": "started"})
    home.apply(db, web)
    wait_until(lambda: (home.log("db"), home.log("web")) == ("up\n", "up\n"), "their traps")
    home.connect()._send(Act("stop", ["all"]))
    wait_until(lambda: saved(home, "db").stopped == [0], "the stop to be on the disk")
    for _ in range(2):
        home.until("web", lambda view: view.status == "stopping")
        home.kill_guarded()
        assert {name: view.status for name, view in home.views().items()} == {"db": "running", "web": "stopping"}
    (home.folder / "go").touch()
    home.until("db", lambda view: view.status == "stopped")
    assert (home.folder / "ended").read_text() == "web\ndb\n"


def test_who_waits_for_its_start_delay_keeps_when_it_is_due(home: Home) -> None:
    home.connect()._send(Apply([home.sh("app", counted(home, "app", "exec sleep 1000"), start_delay_ms=2000)]))
    wait_until(lambda: "app" in home.views() and home.views()["app"].status == "waiting", "the app")
    due = last_seen(home, "app").due
    wait_until(lambda: due - time.time() < 1.5, "some of it to have passed")
    home.kill_guarded()
    view = home.views()["app"]
    assert (view.status, view.reason) == ("waiting", "start_delay_ms is 2000")
    assert abs(last_seen(home, "app").due - due) < 0.05 and starts(home, "app") == 0
    home.until("app", lambda view: view.status == "running")
    assert 0 <= time.time() - due < 1.5
    wait_until(lambda: starts(home, "app") == 1, "its start")


def test_failures_of_a_health_check_in_a_row_are_counted_on(home: Home) -> None:
    """Each daemon sees one: the third makes it unhealthy."""
    check = HealthCheck(command="exit 1", interval_secs=3600, initial_delay_secs=0.01, unhealthy_threshold=3)
    home.apply(home.sh("app", counted(home, "app", "exec sleep 1000"), health_check=check))
    pid = home.pid("app")
    for number in (1, 2):
        wait_until(lambda number=number: last_seen(home, "app").failures == number, "a failure")  # type: ignore[misc]
        assert home.pid("app") == pid
        home.kill_guarded()
    home.until("app", lambda view: view.pid not in (pid, None) and view.restarts == 1)
    wait_until(lambda: starts(home, "app") == 2, "its second start")
    assert last_seen(home, "app").failures < 2

"""A takeover while apps wait for each other, or for their time."""

import time

from oxmgr.model.messages import Act, Apply
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

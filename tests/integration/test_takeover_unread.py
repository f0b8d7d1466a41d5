"""A daemon that cannot read what an earlier one has written: that says nothing of what runs, and ends nobody."""

import os
from pathlib import Path

import pytest

from oxmgr.model.messages import Act
from tests.conftest import WITHOUT_CGROUPS, Home
from tests.integration.test_takeover import counted, kill_both, starts

SLEEP = "exec sleep 1000"


@pytest.fixture(params=["cgroup", "walk"])
def home(request: pytest.FixtureRequest, empty_home: Home) -> Home:
    if request.param == "walk":
        empty_home.wrap = WITHOUT_CGROUPS
    empty_home.guarded = True
    empty_home.start_daemon()
    return empty_home


def unreadable(path: str) -> None:
    """Reading it fails with EIO from now on: at its start, no memory of a process is mapped (proc(5))."""
    os.rename(path, f"{path}.good")
    os.symlink("/proc/self/mem", path)


def test_a_journal_that_cannot_be_read_costs_counters_and_no_app(home: Home) -> None:
    home.apply(home.sh("app", counted(home, "app", SLEEP), instances=2), home.sh("stops", SLEEP))
    home.apply(home.sh("tree", f"sleep 1000 & {SLEEP}"))
    os.kill(home.pid("app:0"), 9)
    home.until("app:0", lambda view: view.restarts == 1 and view.status == "running")
    home.request(Act("stop", ["stops"]))
    before = {name: (view.pid, view.status) for name, view in home.views().items()}
    started = home.views()["app:0"].started_at or 0
    kill_both(home)
    unreadable(home.places.journal)
    home.start_daemon()
    assert {name: (view.pid, view.status) for name, view in home.views().items()} == before
    assert starts(home, "app") == 3
    view = home.views()["app:0"]
    assert abs((view.started_at or 0) - started) < 1.0 and view.restarts == 0
    told = home.about_daemon().warnings
    assert any("journal.damaged-" in text for text in told)
    assert any("journal: Input/output error; what runs goes on" in text for text in told), told
    # From then on it is known again.
    home.kill_guarded()
    assert home.pid("app:0") == before["app:0"][0]
    for path in Path(home.places.state).glob("journal.damaged-*"):
        path.unlink()
    assert home.request(Act("stop", ["all"])).failed == {}

"""A takeover while a hook runs: what it was run before still comes, once, and is no crash."""

from collections.abc import Callable
from pathlib import Path

import pytest

from oxmgr.model.messages import Act, Apply
from oxmgr.model.spec import Hooks
from tests.conftest import Home, wait_until
from tests.faults.reexec import reexec
from tests.integration.test_takeover import counted, home, saved, starts

__all__ = ["home"]

TRAPS = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.02; done"


def hook(home: Home) -> str:
    """It says that it begins, and ends when it may."""
    return f"echo begun >> {home.folder}/hooks; while [ ! -e {home.folder}/go ]; do sleep 0.02; done"


def begun(home: Home) -> int:
    path = home.folder / "hooks"
    return path.read_text().count("\n") if path.exists() else 0


def let_go(home: Home) -> None:
    Path(f"{home.folder}/go").touch()


@pytest.fixture(params=["killed", "replaced"])
def next_daemon(request: pytest.FixtureRequest, home: Home) -> Callable[[], object]:
    return home.kill_guarded if request.param == "killed" else lambda: reexec(home)


def test_a_stop_whose_hook_was_cut_short_still_comes(home: Home, next_daemon: Callable[[], object]) -> None:
    home.apply(home.sh("app", TRAPS, hooks=Hooks(pre_stop=hook(home), timeout_secs=60), stop_timeout_ms=60_000))
    wait_until(lambda: home.log("app") == "up\n", "its trap")
    pid = home.pid("app")
    home.connect()._send(Act("stop", ["app"]))
    wait_until(lambda: saved(home, "app").stopped == [0], "the stop to be on the disk")
    for number in (1, 2):
        wait_until(lambda number=number: begun(home) == number, "the hook")  # type: ignore[misc]
        next_daemon()
        view = home.views()["app"]
        assert (view.status, view.pid) == ("stopping", pid)
    wait_until(lambda: begun(home) == 3, "the hook")
    assert home.log("app") == "up\n"
    let_go(home)
    view = home.until("app", lambda view: view.status == "stopped")
    assert home.log("app") == "up\ntold\n" and view.exit_code == 0


def test_a_daemon_that_goes_while_a_start_is_prepared_is_no_crash(
    home: Home, next_daemon: Callable[[], object]
) -> None:
    hooks = Hooks(pre_start=hook(home), timeout_secs=60)
    spec = home.sh("app", counted(home, "app", "exec sleep 1000"), hooks=hooks, max_restarts=1)
    home.connect()._send(Apply([spec]))
    for number in (1, 2, 3):
        wait_until(lambda number=number: begun(home) == number, "the hook")  # type: ignore[misc]
        next_daemon()
    wait_until(lambda: begun(home) == 4, "the hook")
    let_go(home)
    view = home.until("app", lambda view: view.status == "running")
    assert view.restarts == 0
    wait_until(lambda: starts(home, "app") == 1, "its start")
    kinds = [
        line.split()[3:] for line in Path(home.places.daemon_log).read_text().splitlines() if "hook-failed" in line
    ]
    assert kinds == []

"""A takeover while an app is not ready yet: it goes on being waited for."""

import pytest

from oxmgr.model.messages import Act
from tests.conftest import Home, wait_until
from tests.integration.test_takeover import Interregnum, counted, home, kill_both, starts

__all__ = ["home"]

SCRIPT = """
echo up
while [ ! -e {folder}/go ]; do sleep 0.02; done
echo it is ready
exec sleep 1000
"""


@pytest.mark.parametrize("how", ["daemon", "both", "while nobody runs"])
def test_a_line_that_is_waited_for_is_waited_for_by_the_next_daemon(home: Home, how: str) -> None:
    script = counted(home, "app", SCRIPT.format(folder=home.folder))
    # The line of an earlier run does not count.
    (home.folder / "go").touch()
    spec = home.sh("app", script, ready="log:^it is ready$", ready_timeout_ms=60_000)
    home.apply(spec)
    (home.folder / "go").unlink()
    home.connect()._send(Act("restart", ["app"]))
    wait_until(lambda: home.log("app").endswith("up\n"), "its second run")
    pid = home.pid("app")
    if how == "both":
        kill_both(home)
        home.start_daemon()
    elif how == "daemon":
        home.kill_guarded()
    else:
        with Interregnum(home):
            (home.folder / "go").touch()
    if how != "while nobody runs":
        view = home.views()["app"]
        assert (view.status, view.pid) == ("starting", pid)
        (home.folder / "go").touch()
    home.until("app", lambda view: view.status == "running", "it to be ready")
    assert home.pid("app") == pid and starts(home, "app") == 2

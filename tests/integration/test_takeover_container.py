"""A container that is started again, with the home of the last time: nothing of that time runs, as after a reboot."""

from oxmgr.model.spec import NEVER
from tests.conftest import Home, wait_until
from tests.integration.test_takeover import counted, starts

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
SLEEP = "exec sleep 1000"


def test_what_ran_in_a_container_that_was_ended_is_started_by_the_next_and_has_not_crashed(empty_home: Home) -> None:
    home = empty_home
    home.wrap, home.guarded = NAMESPACE, True
    home.start_daemon()
    home.apply(
        home.sh("never", counted(home, "never", SLEEP), restart=NEVER),
        home.sh("once", counted(home, "once", SLEEP), max_restarts=1),
    )
    for number in (1, 2, 3):
        if number > 1:
            home.kill_daemon()
            home.start_daemon()
        for name in ("never", "once"):
            view = home.until(name, lambda view: view.status == "running")
            assert (view.restarts, view.exit_code) == (0, None)
            wait_until(lambda name=name, number=number: starts(home, name) == number, "its start")  # type: ignore[misc]

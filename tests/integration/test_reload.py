"""Reload: a new one does its work before the old one stops."""

import os
import signal
import time

import pytest

from oxmgr.client.connection import Refused
from oxmgr.client.saved import read_saved_events
from oxmgr.model.messages import Act, StopDaemon
from oxmgr.model.spec import Spec
from tests.conftest import Home, wait_until

SCRIPT = """
echo start $$ {version}
trap 'echo end $$ {version}; exit 0' TERM
[ -e {folder}/broken ] && {{ echo broken: no database >&2; exit 3; }}
while [ -e {folder}/wait ]; do sleep 0.02; done
echo ready
while :; do sleep 0.02; done
"""


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def app(home: Home, version: int = 1, **keys: object) -> Spec:
    """Ready as soon as nothing keeps it waiting."""
    script = SCRIPT.format(version=version, folder=home.folder)
    return home.sh("app", script, **{"ready": "log:^ready$", "ready_timeout_ms": 5000, **keys})


def told(home: Home) -> list[list[str]]:
    return [line.split() for line in home.log("app").splitlines() if line != "ready"]


def begin_reload(home: Home) -> None:
    """The new one is there, and not ready."""
    (home.folder / "wait").touch()
    home.connect()._send(Act("reload", ["app"]))
    wait_until(lambda: len([word for word in told(home) if word[0] == "start"]) == 2, "the new one")


def test_the_new_one_is_there_before_the_old_one_goes(home: Home) -> None:
    home.apply(app(home, instances=2))
    before = {view.name: view.pid for view in home.views().values()}
    done = home.request(Act("reload", ["app"]))
    assert done.failed == {}
    after = {view.name: view.pid for view in home.views().values()}
    assert set(after) == set(before) and not set(after.values()) & set(before.values())
    for name in ("app", "app:1"):
        words = [line.split() for line in home.log(name).splitlines()]
        assert [word[0] for word in words] == ["start", "ready", "start", "ready", "end"], "the old one ended last"
        assert words[4][1] == words[0][1]
    assert {view.restarts for view in home.views().values()} == {0}
    assert not any(os.path.exists(f"/proc/{pid}") for pid in before.values())


def test_apply_replaces_what_must_be_and_says_so(home: Home) -> None:
    home.apply(app(home, 1))
    pid = home.pid("app")
    done = home.apply(app(home, 2))
    assert [change.action for change in done.changes] == ["change"] and done.failed == {}
    assert home.pid("app") != pid
    assert [line[2] for line in told(home)] == ["1", "2", "1"]


def test_one_that_fails_leaves_the_old_one_at_its_work(home: Home) -> None:
    home.apply(app(home, 1, instances=3))
    before = {view.name: view.pid for view in home.views().values()}
    (home.folder / "broken").touch()
    done = home.apply(app(home, 2, instances=3))
    assert list(done.failed) == ["app:0"]
    assert "it goes on as it was, for the new one failed: exit code 3" in done.failed["app:0"]
    assert {view.name: view.pid for view in home.views().values()} == before
    assert {view.status for view in home.views().values()} == {"running"}
    (home.folder / "broken").unlink()
    assert home.apply(app(home, 2, instances=3)).failed == {}
    assert not set(before.values()) & {view.pid for view in home.views().values()}


def test_a_second_reload_is_refused_and_a_stop_ends_both(home: Home) -> None:
    home.apply(app(home))
    begin_reload(home)
    with pytest.raises(Refused, match="app is being reloaded"):
        home.request(Act("reload", ["app"]))
    pids = [int(word[1]) for word in told(home)]
    home.request(Act("stop", ["app"]))
    assert home.views()["app"].status == "stopped"
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_the_daemon_ends_in_the_midst_of_a_reload(home: Home) -> None:
    home.apply(app(home))
    begin_reload(home)
    pids = [int(word[1]) for word in told(home)]
    home.request(StopDaemon())
    assert home.daemon is not None and home.daemon.wait(10) == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_daemon_killed_in_the_midst_of_a_reload_leaves_one(home: Home) -> None:
    home.apply(app(home))
    old = home.pid("app")
    begin_reload(home)
    new = int(told(home)[-1][1])
    home.kill_daemon()
    home.start_daemon()
    assert home.pid("app") == old and home.views()["app"].status == "running"

    def is_gone() -> bool:
        try:
            with open(f"/proc/{new}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_until(is_gone, "the end of the one that was to replace it")
    (home.folder / "wait").unlink()
    assert home.request(Act("reload", ["app"])).failed == {}
    assert home.pid("app") != old


def test_what_holds_its_port_itself_is_restarted(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    pid = home.pid("app")
    assert home.request(Act("reload", ["app"])).failed == {}
    assert home.pid("app") != pid


def test_a_crash_of_the_old_one_meanwhile_is_a_crash(home: Home) -> None:
    home.apply(app(home))
    old = home.pid("app")
    begin_reload(home)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: home.views()["app"].pid != old, "its end")
    (home.folder / "wait").unlink()
    home.until("app", lambda view: view.status == "running")
    home.apply(prune=True)
    assert home.views() == {}


def test_a_change_of_what_is_watched_reloads_who_can_be(home: Home) -> None:
    watched = home.folder / "code"
    watched.mkdir()
    (watched / "main").write_text("1")
    home.apply(app(home, watch=[str(watched)], watch_delay_ms=20))
    old = home.pid("app")
    (watched / "main").write_text("2")
    home.until("app", lambda view: view.pid != old and view.status == "running")
    wait_until(lambda: [word[0] for word in told(home)] == ["start", "start", "end"], "the end of the old one")
    assert home.views()["app"].restarts == 0


def test_a_restart_at_a_time_takes_several_one_after_another(home: Home) -> None:
    at = time.localtime(time.time() + 4)
    line = f"{at.tm_sec} {at.tm_min} {at.tm_hour} {at.tm_mday} {at.tm_mon} *"
    home.apply(home.sh("app", "exec sleep 1000", restart_schedule=line, instances=2))
    before = {view.pid for view in home.views().values()}
    for name in ("app:0", "app:1"):
        home.until(name, lambda view: view.pid not in before and view.status == "running")
    told = [event for event in read_saved_events(home.places) if event.kind in ("started", "stopping")]
    assert [event.kind for event in told[2:]] == ["stopping", "started"] * 2
    assert told[2].instance == told[3].instance != told[4].instance == told[5].instance


def test_a_restart_at_a_time_reloads_who_can_be(home: Home) -> None:
    at = time.localtime(time.time() + 4)
    line = f"{at.tm_sec} {at.tm_min} {at.tm_hour} {at.tm_mday} {at.tm_mon} *"
    home.apply(app(home, restart_schedule=line))
    old = home.pid("app")
    home.until("app", lambda view: view.pid != old and view.status == "running")
    wait_until(lambda: [word[0] for word in told(home)] == ["start", "start", "end"], "the end of the old one")
    assert home.views()["app"].restarts == 0
    assert [event.app for event in read_saved_events(home.places) if event.kind == "scheduled"] == ["app"]

"""What else may happen while instances are being replaced: other commands, events of theirs, the daemon's death."""

import os
import signal
import time
from pathlib import Path

import pytest

from oxmgr.client.connection import Connection, Refused
from oxmgr.model.messages import Act, Apply, Change, Done, Event, Failed, GetEvents, Scale
from oxmgr.model.spec import HealthCheck, Hooks, Spec
from oxmgr.supervisor.process import read_stat
from tests.conftest import Home, wait_until
from tests.integration.test_ready import free_port

SCRIPT = """
echo start $$ {version}
trap 'while [ -e {folder}/drain ]; do sleep 0.02; done; echo end $$; exit 0' TERM
[ -e {folder}/broken$OXMGR_INSTANCE_ID ] && exit 3
while [ -e {folder}/wait$OXMGR_INSTANCE_ID ] || [ -e {folder}/wait ]; do sleep 0.02; done
echo ready
while :; do sleep 0.02; done
"""


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def app(home: Home, version: int = 1, **keys: object) -> Spec:
    script = SCRIPT.format(version=version, folder=home.folder)
    return home.sh("app", script, **{"ready": "log:^ready$", "ready_timeout_ms": 20000, **keys})


def starts(home: Home, name: str = "app") -> list[tuple[int, str]]:
    """The pid and version of each start of an instance."""
    words = [line.split() for line in home.log(name).splitlines()]
    return [(int(line[1]), line[2]) for line in words if line[0] == "start"]


def lives(pid: int) -> bool:
    """Who is killed after its daemon is our child, and not reaped."""
    stat = read_stat(pid)
    return stat is not None and stat[0] != b"Z"


def versions(home: Home) -> dict[str, str]:
    """By the instance's name, the version that runs."""
    found = {}
    for name, view in home.views().items():
        log = "app" if view.instance == 0 else name
        found[name] = dict(starts(home, log))[view.pid or 0]
    return found


def ask_both(home: Home, one: object, other: object) -> tuple[Done | Refused, Done | Refused]:
    """Two requests that the daemon has before it has answered either."""
    first, second = home.connect(), home.connect()
    daemon = home.about_daemon().pid
    os.kill(daemon, signal.SIGSTOP)
    try:
        first._send(one)  # type: ignore[arg-type]
        second._send(other)  # type: ignore[arg-type]
    finally:
        os.kill(daemon, signal.SIGCONT)
    return answer(first), answer(second)


def answer(connection: Connection) -> Done | Refused:
    while True:
        reply = connection._receive()
        if isinstance(reply, Done):
            return reply
        if isinstance(reply, Failed):
            return Refused(reply)


def test_of_two_reloads_in_the_same_moment_none_is_lost_sight_of(home: Home) -> None:
    home.apply(app(home))
    replies = ask_both(home, Act("reload", ["app"]), Act("reload", ["app"]))
    refused = sum(isinstance(one, Refused) or bool(one.failed) for one in replies)
    pids = [pid for pid, _ in starts(home)]
    # Where the disk takes its time for the second one, the first is done by then.
    assert (refused, len(pids)) in ((1, 2), (0, 3)), replies
    assert [pid for pid in pids if lives(pid)] == [home.pid("app")]
    home.request(Act("stop", ["app"]))
    assert not any(map(lives, pids))


def test_a_stop_right_after_a_reload_stops_it(home: Home) -> None:
    home.apply(app(home))
    _, stop = ask_both(home, Act("reload", ["app"]), Act("stop", ["app"]))
    assert isinstance(stop, Done) and home.views()["app"].status == "stopped"
    assert not any(lives(pid) for pid, _ in starts(home))


def test_a_new_one_waits_for_what_it_depends_on(home: Home) -> None:
    """Which is restarted by the same reload."""
    database = home.sh("db", "echo ready; exec sleep 1000")
    home.apply(database, app(home, depends_on={"db": "started"}))
    before = home.pid("app"), home.pid("db")
    assert home.request(Act("reload", ["db", "app"])).failed == {}
    assert not {*before} & {home.pid("app"), home.pid("db")}


def test_a_new_one_that_waits_in_vain_is_given_up(home: Home) -> None:
    home.apply(home.sh("db", "exec sleep 1000"), app(home, depends_on={"db": "started"}))
    home.request(Act("stop", ["db"]))
    before = home.pid("app")
    done = home.request(Act("reload", ["app"]))
    assert "waits for db, which is stopped" in done.failed["app"]
    assert home.pid("app") == before
    home.request(Act("start", ["db"]))
    assert home.request(Act("reload", ["app"])).failed == {}


@pytest.mark.parametrize("event", [Act("reset", ["app:1"]), Act("stop", ["app:1"])], ids=["reset", "stop"])
def test_what_happens_during_its_first_hook_does_not_end_it(home: Home, event: Act) -> None:
    begun, go_on = home.folder / "begun", home.folder / "go"
    hook = f"touch {begun}; while [ ! -e {go_on} ]; do sleep 0.02; done"
    home.apply(app(home, instances=2, hooks=Hooks(pre_reload=hook)))
    before = home.pid("app:0")
    reload = home.connect()
    reload._send(Act("reload", ["app"]))
    wait_until(begun.exists, "the hook")
    home.request(event)
    if event.verb == "reset":
        with pytest.raises(Refused, match="being reloaded"):
            home.request(Act("reload", ["app:0"]))
    go_on.touch()
    done = answer(reload)
    assert isinstance(done, Done)
    if event.verb == "reset":
        assert done.failed == {} and home.pid("app:0") != before
    else:
        assert "it was stopped" in str(done.failed), "it says that it was not done"


def test_what_is_being_removed_is_not_revived(home: Home) -> None:
    home.apply(app(home, instances=2))
    (home.folder / "drain").touch()
    scale = home.connect()
    scale._send(Scale("app", 1))
    home.until("app:1", lambda view: view.status == "stopping")
    for verb in ("restart", "reload", "start"):
        with pytest.raises(Refused, match="is being deleted"):
            home.request(Act(verb, ["app:1"]))
    (home.folder / "drain").unlink()
    assert isinstance(answer(scale), Done) and [*home.views()] == ["app"]


def test_a_stop_is_done_when_the_one_that_was_replaced_is_gone(home: Home) -> None:
    home.apply(app(home))
    (home.folder / "drain").touch()
    reload = home.connect()
    reload._send(Act("reload", ["app"]))
    wait_until(lambda: len(starts(home)) == 2 and home.pid("app") == starts(home)[1][0], "the new one")
    old = starts(home)[0][0]
    stop = home.connect()
    stop._send(Act("stop", ["app"]))
    home.until("app", lambda view: view.status == "stopping")
    (home.folder / "drain").unlink()
    assert isinstance(answer(stop), Done)
    assert not lives(old) and home.views()["app"].status == "stopped"


def test_one_that_was_replaced_of_an_app_that_is_deleted_ends_with_the_daemon(home: Home) -> None:
    home.apply(app(home, stop_timeout_ms=60000))
    (home.folder / "drain").touch()
    home.connect()._send(Act("reload", ["app"]))
    wait_until(lambda: len(starts(home)) == 2 and home.pid("app") == starts(home)[1][0], "the new one")
    home.connect()._send(Act("delete", ["app"]))
    home.until("app", lambda view: view.status == "stopping")
    home.kill_daemon()
    home.start_daemon()
    wait_until(lambda: not any(lives(pid) for pid, _ in starts(home)), "the end of both")
    assert home.views() == {}


def test_what_a_rollout_has_left_is_taken_up_by_the_next_apply(home: Home) -> None:
    """Also of those that had begun beside the one that failed."""
    home.apply(app(home, 1, instances=3, max_unavailable=2))
    (home.folder / "broken1").touch()
    (home.folder / "wait0").touch()
    second = app(home, 2, instances=3, max_unavailable=2)
    assert [*home.apply(second).failed] == ["app:1"]
    (home.folder / "broken1").unlink()
    (home.folder / "wait0").unlink()
    assert set(versions(home).values()) == {"1"}
    again = home.apply(second)
    assert again.failed == {} and again.changes == [Change("app", "reload")]
    assert set(versions(home).values()) == {"2"}
    assert home.apply(second).changes == [Change("app", "keep")]


def test_a_rollout_that_is_given_up_has_failed_and_is_taken_up(home: Home) -> None:
    home.apply(app(home, 1, instances=3))
    (home.folder / "drain").touch()
    apply = home.connect()
    environ = b"PATH=" + os.environ["PATH"].encode() + b"\0"
    second = app(home, 2, instances=3)
    apply._send(Apply([second], environ))
    wait_until(lambda: versions(home)["app:0"] == "2", "the first one's turn")
    home.connect()._send(Act("stop", ["app:2"]))
    home.until("app:2", lambda view: view.status == "stopping")
    (home.folder / "drain").unlink()
    done = answer(apply)
    assert isinstance(done, Done) and "it was stopped" in str(done.failed)
    home.until("app:2", lambda view: view.status == "stopped")
    home.apply(second)
    assert set(versions(home).values()) == {"2"}


def test_what_a_daemons_death_has_interrupted_is_taken_up_by_the_next_apply(home: Home) -> None:
    home.apply(app(home, 1, instances=2))
    (home.folder / "wait").touch()
    second = app(home, 2, instances=2)
    home.connect()._send(Apply([second], b""))
    wait_until(lambda: len(starts(home)) == 2, "the new one")
    home.kill_daemon()
    home.start_daemon()
    (home.folder / "wait").unlink()
    assert set(versions(home).values()) == {"1"}
    assert home.apply(second).failed == {}
    assert set(versions(home).values()) == {"2"}
    home.kill_daemon()
    home.start_daemon()
    assert home.apply(second).changes == [Change("app", "keep")]


def test_a_change_of_files_while_a_new_one_starts_is_not_lost(home: Home) -> None:
    watched = home.folder / "code"
    watched.mkdir()
    (watched / "main").write_text("1")
    home.apply(app(home, watch=[str(watched)], watch_delay_ms=20))
    (home.folder / "wait").touch()
    (watched / "main").write_text("2")
    wait_until(lambda: len(starts(home)) == 2, "the new one")
    (watched / "main").write_text("3")
    wait_until(lambda: [one.kind for one in events(home)].count("watch") == 2, "the second change")
    (home.folder / "wait").unlink()
    wait_until(lambda: len(starts(home)) == 3, "one that has seen the second change")
    home.until("app", lambda view: view.pid == starts(home)[2][0] and view.status == "running")


def events(home: Home) -> list[Event]:
    found = home.connect().stream(GetEvents(limit=100))
    return [one for one in found if isinstance(one, Event)]


def test_several_that_cannot_be_beside_each_other_are_restarted_one_after_the_other(home: Home) -> None:
    script = f"echo start $$ 1; trap 'echo end $$; sleep 0.2; exit 0' TERM; {'while :; do sleep 0.02; done'}"
    home.apply(home.sh("app", script, instances=3, log_file=str(home.folder / "all.log"), ready="started"))
    before = {view.pid for view in home.views().values()}
    least = 3

    def are_all_other() -> bool:
        nonlocal least
        views = home.views().values()
        least = min(least, sum(view.status == "running" for view in views))
        return not before & {view.pid for view in views}

    reload = home.connect()
    reload._send(Act("reload", ["app"]))
    wait_until(are_all_other, "all of them")
    assert isinstance(answer(reload), Done)
    assert least >= 2 and {view.restarts for view in home.views().values()} == {0}


def test_a_plan_of_a_reload_says_what_is_reloaded(home: Home) -> None:
    home.apply(app(home))
    spec = app(home)
    done = home.request(Apply([spec], b"", reload=True, plan_only=True))
    assert done.changes == [Change("app", "reload")]


def test_two_scales_at_once_both_count(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", instances=3))
    replies = ask_both(home, Scale("app", 1, relative=True), Scale("app", 1, relative=True))
    assert all(isinstance(one, Done) for one in replies), replies
    assert len(home.views()) == 5


def test_an_address_that_meets_its_own_old_one_can_be_applied(home: Home) -> None:
    port = free_port()
    home.apply(app(home, listen=[f"127.0.0.1:{port}"]))
    done = home.apply(app(home, listen=[f"0.0.0.0:{port}"]))
    assert done.failed == {} and home.views()["app"].sockets == [f"0.0.0.0:{port}"]


def test_an_old_one_is_judged_by_its_own_health_check(home: Home) -> None:
    def checked(version: int, file: Path) -> Spec:
        check = HealthCheck(command=f"test -e {file}", interval_secs=0.1, initial_delay_secs=0, unhealthy_threshold=1)
        return app(home, version, health_check=check)

    one, two = home.folder / "one", home.folder / "two"
    one.touch()
    home.apply(checked(1, one))
    home.until("app", lambda view: view.health == "healthy")
    before = home.pid("app")
    assert home.apply(checked(2, two)).failed
    home.request(Act("reset", ["app"]))
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 0.5, "some checks")
    assert home.pid("app") == before and home.views()["app"].health == "healthy"

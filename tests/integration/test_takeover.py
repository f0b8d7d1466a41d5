"""A daemon with its guard: whoever of them dies, what runs goes on, and is known as it was."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from oxmgr.client.connection import NoDaemon, Refused
from oxmgr.client.launch import daemon_argv
from oxmgr.model.codec import Decoder, encode, replace
from oxmgr.model.messages import Act, Boot, Journaled, Observed, ReplaceDaemon, Saved, SavedApp
from oxmgr.model.records import FORMAT, file_header, read_records, record
from oxmgr.model.spec import NEVER
from tests.conftest import DEADLINE, WITHOUT_CGROUPS, Heir, Home, wait_until
from tests.faults.reexec import COUNTS, guard_pid, is_in_order, reexec, replace_often

TRAPS = "trap 'exit 42' USR1; echo up; while :; do sleep 0.01; done"


@pytest.fixture(params=["cgroup", "walk"])
def home(request: pytest.FixtureRequest, empty_home: Home) -> Home:
    if request.param == "walk":
        empty_home.wrap = WITHOUT_CGROUPS
    empty_home.guarded = True
    empty_home.start_daemon()
    return empty_home


class Interregnum:
    """No daemon: the guard is stopped while it lasts, and so starts none."""

    def __init__(self, home: Home) -> None:
        self._guard = guard_pid(home)
        self._daemon = home.about_daemon().pid
        self._home = home

    def __enter__(self) -> "Interregnum":
        os.kill(self._guard, signal.SIGSTOP)
        os.kill(self._daemon, signal.SIGKILL)
        wait_until(lambda: state_of(self._daemon) == "Z", "the daemon's end")
        return self

    def __exit__(self, *error: object) -> None:
        os.kill(self._guard, signal.SIGCONT)
        self._home.another_than(self._daemon)


def state_of(pid: int) -> str:
    """ "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def kill_both(home: Home) -> None:
    """The guard and the daemon, neither of which can then start the other."""
    daemon = home.about_daemon().pid
    assert home.daemon is not None
    os.kill(daemon, signal.SIGSTOP)
    home.daemon.kill()
    home.daemon.wait()
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)


def journal(home: Home) -> list[Journaled]:
    data = Path(home.places.journal).read_bytes()
    return [Decoder(Journaled).decode(one) for one in read_records("journal", data)[0]]


def write_journal(home: Home, entries: "list[Journaled]") -> None:
    data = file_header("journal") + b"".join(record(encode(one)) for one in entries)
    Path(home.places.journal).write_bytes(data)


def last_seen(home: Home, app: str) -> Observed:
    return [one for one in journal(home) if isinstance(one, Observed) and one.app == app][-1]


def saved(home: Home, app: str) -> SavedApp:
    entries = [Decoder(Saved).decode(one) for one in read_records("desired", Path(home.places.desired).read_bytes())[0]]
    return next(one for one in entries if isinstance(one, SavedApp) and one.spec.name == app)


def starts(home: Home, name: str) -> int:
    path = home.folder / f"starts-{name}"
    return path.read_text().count("\n") if path.exists() else 0


def counted(home: Home, name: str, script: str) -> str:
    """A script that says in a file that it was started."""
    return f"echo started >> {home.folder}/starts-{name}; {script}"


# --- as it was ---


def test_pids_uptimes_and_counters_are_as_they_were(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", instances=2), home.sh("stops", "exec sleep 1000"))
    home.request(Act("stop", ["stops"]))
    os.kill(home.pid("app:0"), signal.SIGKILL)
    before = home.until("app:0", lambda view: view.restarts == 1 and view.status == "running")
    other = home.pid("app:1")
    guard = guard_pid(home)
    for _ in range(5):
        home.kill_guarded()
        after = home.views()["app:0"]
        assert (after.pid, after.restarts, after.status) == (before.pid, 1, "running")
        assert abs((after.started_at or 0) - (before.started_at or 0)) < 0.001
        assert (after.uptime_ms or 0) >= (before.uptime_ms or 0)
        assert home.pid("app:1") == other and home.views()["stops"].status == "stopped"
    assert guard_pid(home) == guard
    os.kill(after.pid or 0, signal.SIGKILL)
    view = home.until("app:0", lambda view: view.restarts == 2)
    assert view.signal == "SIGKILL"


def test_who_is_in_backoff_keeps_when_it_is_due_and_how_often_it_has_crashed(home: Home) -> None:
    home.apply(home.sh("app", counted(home, "app", "exit 3"), restart_delay_ms=1500, restart_delay_max_ms=1500))
    view = home.until("app", lambda view: view.status == "backoff")
    before = last_seen(home, "app")
    home.kill_guarded()
    view = home.views()["app"]
    assert (view.status, view.exit_code, view.restarts) == ("backoff", 3, before.restarts)
    after = last_seen(home, "app")
    assert (after.crashes, after.streak) == (before.crashes, before.streak) and before.streak == 1
    assert abs(after.due - before.due) < 0.05 and starts(home, "app") == 1
    home.until("app", lambda view: view.restarts == before.restarts + 1)
    assert 0 <= time.time() - before.due < 1.0
    wait_until(lambda: last_seen(home, "app").streak == 2, "the second crash")


def test_a_stop_that_is_under_way_goes_on(home: Home) -> None:
    home.apply(home.sh("app", "trap '' TERM; echo up; while :; do sleep 0.01; done", stop_timeout_ms=1500))
    wait_until(lambda: home.log("app"), "the trap")
    pid = home.pid("app")
    begun = time.monotonic()
    asking = threading.Thread(target=lambda: ask_in_vain(home, Act("stop", ["app"])))
    asking.start()
    home.until("app", lambda view: view.status == "stopping")
    # A wish that is not on the disk has not been taken note of.
    wait_until(lambda: saved(home, "app").stopped == [0], "the wish on the disk")
    home.kill_guarded()
    asking.join()
    assert home.views()["app"].pid == pid
    home.until("app", lambda view: view.status == "stopped")
    assert state_of(pid) == "" and 1.4 < time.monotonic() - begun < 1.5 + DEADLINE / 2
    home.kill_guarded()
    assert home.views()["app"].status == "stopped"


def test_a_restart_that_is_under_way_ends_with_a_start(home: Home) -> None:
    home.apply(home.sh("app", "trap '' TERM; echo up; while :; do sleep 0.01; done", stop_timeout_ms=700))
    wait_until(lambda: home.log("app"), "the trap")
    pid = home.pid("app")
    asking = threading.Thread(target=lambda: ask_in_vain(home, Act("restart", ["app"])))
    asking.start()
    home.until("app", lambda view: view.status == "stopping")
    home.kill_guarded()
    asking.join()
    home.until("app", lambda view: view.status == "running" and view.pid != pid)
    assert state_of(pid) == "" and home.views()["app"].desired == "running"


def ask_in_vain(home: Home, request: Act) -> None:
    with pytest.raises(NoDaemon):
        home.request(request)


def test_who_was_taken_over_by_a_daemon_without_cgroups_is_kept_by_one_that_has_them(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    pid = home.pid("app")
    wrap = home.wrap
    for now in (WITHOUT_CGROUPS, wrap):
        kill_both(home)
        home.wrap = now
        home.start_daemon()
        assert home.pid("app") == pid
    home.kill_guarded()
    assert home.pid("app") == pid


# --- ends in between ---


def test_what_has_ended_in_between_has_its_true_end(home: Home) -> None:
    home.apply(
        *(home.sh(name, counted(home, name, TRAPS), restart=NEVER) for name in ("code", "killed", "lives")),
        home.sh("again", counted(home, "again", TRAPS)),
    )
    for name in ("code", "killed", "again", "lives"):
        wait_until(lambda name=name: home.log(name), "the trap")  # type: ignore[misc]
    pids = {name: view.pid or 0 for name, view in home.views().items()}
    with Interregnum(home):
        for name in ("code", "again"):
            os.kill(pids[name], signal.SIGUSR1)
        os.kill(pids["killed"], signal.SIGKILL)
        wait_until(lambda: all(state_of(pids[name]) == "Z" for name in ("code", "again", "killed")), "their ends")
    views = home.views()
    assert (views["code"].status, views["code"].exit_code) == ("exited", 42)
    assert (views["killed"].status, views["killed"].exit_code, views["killed"].signal) == ("exited", None, "SIGKILL")
    view = home.until("again", lambda view: view.status == "running" and view.pid != pids["again"])
    assert (view.exit_code, view.restarts) == (42, 1)
    assert views["lives"].pid == pids["lives"]
    wait_until(lambda: starts(home, "again") == 2, "the second start")
    for _ in range(2):
        home.kill_guarded()
    assert [starts(home, name) for name in ("code", "killed", "lives", "again")] == [1, 1, 1, 2]
    assert home.views()["code"].exit_code == 42


def test_true_ends_are_known_however_the_next_daemon_and_the_ends_meet(home: Home) -> None:
    """Many ends at the very moments of a daemon's death and the next one's start."""
    names = [f"app{number}" for number in range(7)]
    home.apply(*(home.sh(name, counted(home, name, TRAPS), restart=NEVER) for name in names))
    for name in names:
        wait_until(lambda name=name: home.log(name), "the trap")  # type: ignore[misc]
    pids = {name: view.pid or 0 for name, view in home.views().items()}
    for at, name in enumerate(names):
        before = home.about_daemon().pid
        os.kill(before, signal.SIGKILL)
        end = time.monotonic() + at * 0.015
        wait_until(lambda end=end: time.monotonic() > end, "the moment")  # type: ignore[misc]
        os.kill(pids[name], signal.SIGUSR1)
        home.another_than(before)
        view = home.until(name, lambda view: view.status == "exited")
        assert (view.exit_code, view.signal) == (42, None), (at, view)
    assert [starts(home, name) for name in names] == [1] * 7


@pytest.mark.parametrize("reaped", [True, False])
def test_without_a_guard_an_end_is_known_as_far_as_the_kernel_knows_it(home: Home, reaped: bool) -> None:
    home.apply(home.sh("app", counted(home, "app", TRAPS), restart=NEVER))
    wait_until(lambda: home.log("app"), "the trap")
    pid = home.pid("app")
    kill_both(home)
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: state_of(pid) == "Z", "its end")
    if reaped:
        os.waitpid(pid, 0)
    home.start_daemon()
    view = home.views()["app"]
    assert (view.status, view.exit_code, view.signal) == ("exited", None if reaped else 42, None)
    assert starts(home, "app") == 1
    if not reaped:
        os.waitpid(pid, 0)


# --- the pipes ---


@pytest.mark.parametrize("both", [False, True], ids=["daemon", "both"])
def test_pipes_outlive_the_daemon_also_without_their_names(home: Home, both: bool) -> None:
    home.apply(home.sh("app", COUNTS))
    wait_until(lambda: is_in_order(home, "app"), "the first line")
    pid = home.pid("app")
    if both:
        kill_both(home)
        remove_pipes(home)
        home.start_daemon()
    else:
        with Interregnum(home):
            remove_pipes(home)
    assert home.pid("app") == pid
    count = len(home.log("app").split())
    wait_until(lambda: len(home.log("app").split()) > count + 100, "more lines")
    assert is_in_order(home, "app")


def remove_pipes(home: Home) -> None:
    pipes = [path for path in Path(home.places.run).rglob("*") if path.is_fifo()]
    assert pipes
    for path in pipes:
        path.unlink()


def test_a_run_folder_that_is_gone_is_made_anew(home: Home) -> None:
    home.apply(home.sh("app", COUNTS))
    wait_until(lambda: is_in_order(home, "app"), "the first line")
    pid = home.pid("app")
    kill_both(home)
    shutil.rmtree(home.places.run)
    home.start_daemon()
    assert home.pid("app") == pid
    count = len(home.log("app").split())
    wait_until(lambda: len(home.log("app").split()) > count + 100, "more lines")
    assert is_in_order(home, "app")


# --- the guard ---


def test_a_daemon_that_loses_its_guard_becomes_one(home: Home) -> None:
    home.apply(home.sh("app", COUNTS), home.sh("other", TRAPS, restart=NEVER))
    wait_until(lambda: home.log("other"), "the trap")
    pid, other = home.pid("app"), home.pid("other")
    daemon = home.about_daemon().pid
    assert home.daemon is not None
    home.daemon.kill()
    home.daemon.wait()
    view = home.another_than(daemon)
    home.daemon = Heir(daemon)
    assert view.guard == daemon, "its number is the guard's now"
    home.kill_guarded()
    assert (home.pid("app"), home.pid("other")) == (pid, other)
    os.kill(other, signal.SIGUSR1)
    assert home.until("other", lambda view: view.status == "exited").exit_code == 42
    os.kill(pid, signal.SIGKILL)
    assert home.until("app", lambda view: view.restarts == 1).signal == "SIGKILL"
    home.request(Act("stop", ["app"]))


def test_who_is_started_when_both_are_gone_goes_on_with_what_runs(home: Home) -> None:
    home.apply(home.sh("app", COUNTS))
    wait_until(lambda: is_in_order(home, "app"), "the first line")
    pid = home.pid("app")
    for _ in range(3):
        kill_both(home)
        home.start_daemon()
        assert home.pid("app") == pid
    count = len(home.log("app").split())
    wait_until(lambda: len(home.log("app").split()) > count + 100, "more lines")
    assert is_in_order(home, "app")


def test_who_connects_while_there_is_no_daemon_waits_and_is_answered(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    found: list[object] = []
    with Interregnum(home):
        asking = [threading.Thread(target=lambda: found.append(home.views()["app"].status)) for _ in range(10)]
        for one in asking:
            one.start()
    for one in asking:
        one.join(DEADLINE)
    assert found == ["running"] * 10


def test_no_other_daemon_gets_the_home_between_two(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    with Interregnum(home):
        done = subprocess.run([*home.wrap, *daemon_argv()], env=home.env, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "another one runs" in done.stderr
    assert home.views()["app"].status == "running"


# --- replaced on purpose ---


def test_a_daemon_that_is_replaced_again_and_again_loses_and_leaks_nothing(home: Home) -> None:
    assert replace_often(home, 25) > 1000


def refused(home: Home, argv: list[str], why: str) -> None:
    before = home.about_daemon().pid, home.pid("app")
    with pytest.raises(Refused, match=why):
        home.request(ReplaceDaemon(argv))
    assert (home.about_daemon().pid, home.pid("app")) == before
    home.request(Act("restart", ["app"]))


def test_another_daemon_that_cannot_go_on_is_refused_before_anything_ends(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    good = daemon_argv()
    refused(home, ["/nowhere/python", *good[1:]], "No such file")
    refused(home, [*good[:3], "/nowhere/oxmgr/__main__.py", *good[4:]], "cannot go on")
    refused(home, ["/bin/false", *good[1:]], "without a word")
    refused(home, [*good[:5], "/nowhere"], "cannot go on")
    refused(home, good[:3], "does not start a daemon")
    for kind, path in (("desired", home.places.desired), ("journal", home.places.journal)):
        data = Path(path).read_bytes()
        Path(path).write_bytes(data.replace(file_header(kind), f"oxmgr {kind} {FORMAT + 1}\n".encode()))
        refused_once(home, good, f"it has format {FORMAT + 1}")
        Path(path).write_bytes(data)
    reexec(home)


def refused_once(home: Home, argv: list[str], why: str) -> None:
    before = home.about_daemon().pid, home.pid("app")
    with pytest.raises(Refused, match=why):
        home.request(ReplaceDaemon(argv))
    assert (home.about_daemon().pid, home.pid("app")) == before


def test_a_state_with_fields_that_it_does_not_know_is_read(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"), home.sh("job", "exit 4", restart=NEVER))
    home.until("job", lambda view: view.status == "exited")
    pid = home.pid("app")
    kill_both(home)
    for kind, path in (("desired", home.places.desired), ("journal", home.places.journal)):
        entries = [msgspec.msgpack.decode(one) for one in read_records(kind, Path(path).read_bytes())[0]]
        for entry in entries:
            entry["later"] = {"some": [1, "thing"]}
            if "spec" in entry:
                entry["spec"]["later"] = True
                entry["spec"].setdefault("limits", {})["later"] = 1
        data = b"".join(record(msgspec.msgpack.encode(one)) for one in entries)
        Path(path).write_bytes(file_header(kind) + data)
    home.start_daemon()
    assert home.pid("app") == pid
    assert home.views()["job"].exit_code == 4
    assert home.about_daemon().warnings == []


# --- another boot ---


def test_after_a_reboot_what_is_wanted_starts_in_order_and_the_rest_stays(home: Home) -> None:
    order = f"echo $OXMGR_APP >> {home.folder}/order; echo up; exec sleep 1000"
    home.apply(
        home.sh("web", order, depends_on={"api": "started"}),
        home.sh("api", order, depends_on={"db": "started"}),
        home.sh("db", order),
        home.sh("stops", order),
        home.sh("done", counted(home, "done", "exit 0")),
        home.sh("never", counted(home, "never", "exit 5"), restart=NEVER),
        home.sh("failed", counted(home, "failed", "exit 3"), max_restarts=1, restart_delay_max_ms=0),
    )
    home.request(Act("stop", ["stops"]))
    home.until("failed", lambda view: view.status == "errored")
    for name in ("done", "never"):
        home.until(name, lambda view: view.status == "exited")
    wait_until(lambda: all(home.log(name) for name in ("web", "api", "db")), "the first starts")
    pids = [home.pid(name) for name in ("web", "api", "db")]
    failed = starts(home, "failed")
    kill_both(home)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    (home.folder / "order").unlink()
    write_journal(home, [Boot("another") if isinstance(one, Boot) else one for one in journal(home)])
    home.start_daemon()
    for name in ("web", "api", "db"):
        home.until(name, lambda view: view.status == "running")
    wait_until(lambda: (home.folder / "order").read_text().count("\n") == 3, "all three")
    assert sorted((home.folder / "order").read_text().split()) == ["api", "db", "web"]
    # Who is started first need not be the first to print.
    began = [home.views()[name].started_at or 0.0 for name in ("db", "api", "web")]
    assert began == sorted(began)
    wait_until(lambda: starts(home, "failed") > failed, "another try")
    home.until("failed", lambda view: view.status == "errored")
    views = home.views()
    assert (views["stops"].status, views["done"].status, views["never"].status) == ("stopped", "exited", "exited")
    assert views["never"].exit_code == 5
    assert (starts(home, "done"), starts(home, "never")) == (1, 1)


def test_a_journal_of_another_boot_with_the_pid_of_a_stranger_harms_nobody(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    pid = home.pid("app")
    kill_both(home)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
    entries = [
        replace(one, pid=stranger.pid, ticks=ticks, session=stranger.pid)
        if isinstance(one, Observed) and one.app == "app"
        else Boot("another")
        for one in journal(home)
    ]
    write_journal(home, entries)
    home.start_daemon()
    home.until("app", lambda view: view.status == "running" and view.pid != stranger.pid)
    home.request(Act("stop", ["app"]))
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_what_moved_away_from_an_app_that_was_taken_over_ends_with_it(home: Home) -> None:
    """It has lost its parent, and the guard is that now."""
    script = f"(setsid sh -c 'echo $$ > {home.folder}/away; exec sleep 1000' &); exec sleep 1000"
    home.apply(home.sh("app", script, stop_timeout_ms=200))
    path = home.folder / "away"
    for act in ("restart", "stop"):
        wait_until(lambda: path.exists() and path.read_text(), "what moves away")
        away = int(path.read_text())
        path.unlink()
        home.kill_guarded()
        home.request(Act(act, ["app"]))
        wait_until(lambda away=away: state_of(away) in ("", "Z"), "the end of what moved away")  # type: ignore[misc]
    assert home.views()["app"].status == "stopped"


def test_a_start_that_nobody_has_written_down_is_not_left_beside_another(home: Home) -> None:
    home.apply(home.sh("app", f"echo $$ >> {home.folder}/starts; exec sleep 1000"))
    starts = home.folder / "starts"
    wait_until(starts.exists, "the start")
    kill_both(home)
    os.unlink(home.places.journal)
    home.start_daemon()
    home.until("app", lambda view: view.status == "running")
    wait_until(lambda: len(starts.read_text().split()) == 2, "another start")
    first, second = map(int, starts.read_text().split())
    assert state_of(first) in ("", "Z") and home.pid("app") == second

"""Real processes under a real daemon."""

import itertools
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oxmgr.client.connection import Refused
from oxmgr.model.messages import Act, Apply, InstanceView, Scale, SendInput, SendSignal
from oxmgr.model.spec import ALWAYS, NEVER, Spec
from tests.conftest import DEADLINE, Home, actions, tree, wait_until

FATAL = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV"]
FATAL += ["SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSYS", "SIGRTMIN"]


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def restarted(times: int) -> Callable[[InstanceView], bool]:
    return lambda view: view.restarts == times and view.pid is not None


def test_a_process_killed_by_any_signal_is_back_and_the_signal_is_told(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", restart_delay_max_ms=0))
    for count, name in enumerate(FATAL, 1):
        pid = home.pid("app")
        os.kill(pid, getattr(signal, name))
        view = home.until("app", restarted(count), name)
        assert view.status == "running" and view.pid != pid
        assert view.signal == name and view.exit_code is None


def test_exit_codes_are_told_as_they_were(home: Home) -> None:
    codes = [0, 1, 2, 77, 126, 128, 255]
    done = home.apply(*(home.sh(f"e{code}", f"exit {code}", restart=NEVER) for code in codes))
    for code in codes:
        view = home.until(f"e{code}", lambda view: view.status == "exited")
        assert (view.exit_code, view.signal, view.pid) == (code, None, None)
    assert not done.warnings


def test_the_first_crash_restarts_at_once_and_later_ones_back_off(home: Home) -> None:
    home.apply(home.sh("app", "date +%s.%N; exit 1", restart_delay_max_ms=400))
    wait_until(lambda: home.log("app").count("\n") >= 5, "five starts")
    times = [float(line) for line in home.log("app").split()[:5]]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps[0] < 0.09
    assert all(low <= gap for low, gap in zip([0.1, 0.2, 0.36], gaps[1:], strict=True)), gaps


def test_an_app_that_crashes_too_often_is_given_up_with_the_reason(home: Home) -> None:
    home.apply(home.sh("app", "exit 9", max_restarts=3, restart_delay_max_ms=0))
    view = home.until("app", lambda view: view.status == "errored")
    assert view.restarts == 2 and "3 times in a row" in view.reason and "exit code 9" in view.reason
    assert view.desired == "running"
    home.request(Act("start", ["app"]))
    home.until("app", lambda view: view.status == "errored")


def test_a_good_run_sets_the_counters_back(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", restart_window_secs=0.05, max_restarts=2, restart_delay_max_ms=0))
    for count in range(1, 5):
        view = home.until("app", lambda view: (view.uptime_ms or 0) > 60)
        os.kill(view.pid or 0, 9)
        home.until("app", restarted(count))


def test_a_process_that_ignores_sigterm_is_killed_after_the_timeout(home: Home) -> None:
    home.apply(
        home.python(
            "app",
            "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()",
            stop_timeout_ms=300,
        )
    )
    wait_until(lambda: "up" in home.log("app"), "the handler to be there")
    pid = home.pid("app")
    begun = time.monotonic()
    done = home.request(Act("stop", ["app"]))
    assert 0.29 <= time.monotonic() - begun < 2
    assert done.instances[0].status == "stopped" and done.instances[0].signal == "SIGKILL"
    assert not alive(pid)


def test_a_stopped_process_hears_the_stop(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    os.kill(home.pid("app"), signal.SIGSTOP)
    begun = time.monotonic()
    home.request(Act("stop", ["app"]))
    assert time.monotonic() - begun < 2


def test_stop_signal_is_the_one_of_the_spec(home: Home) -> None:
    home.apply(
        home.sh(
            "app",
            "trap 'echo got usr1; exit 0' USR1; echo up; while :; do sleep 0.01; done",
            stop_signal=signal.SIGUSR1,
        )
    )
    wait_until(lambda: "up" in home.log("app"), "the trap")
    home.request(Act("stop", ["app"]))
    assert "got usr1" in home.log("app")


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 | sleep 1001",
        "sleep 1000 & sleep 1001",
        "setsid sleep 1000 & sleep 1001",
        "(setsid sh -c 'sleep 1000 & exec sleep 1002' &) ; sleep 1001",
        "(nohup setsid sleep 1000 >/dev/null 2>&1 &); sleep 1001",
        "trap '' TERM; sleep 1000 & (trap '' TERM; exec sleep 1002) & exec sleep 1001",
    ],
)
def test_a_stop_leaves_nothing_of_the_tree(home: Home, script: str) -> None:
    home.apply(home.sh("app", script, stop_timeout_ms=300))
    count = script.count("sleep")
    wait_until(lambda: len(sleeps(home)) == count, f"{count} sleeps")
    pids = sleeps(home)
    home.request(Act("stop", ["app"]))
    assert not [pid for pid in pids if alive(pid)]


def sleeps(home: Home) -> list[int]:
    """The sleeps of this home's daemon's tree."""
    assert home.daemon is not None
    found = []
    for pid in tree(home.daemon.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[0] == b"sleep":
            found.append(pid)
    return found


@pytest.mark.parametrize("mode", ["main", "group", "tree"])
def test_stop_modes_say_who_hears_the_signal(home: Home, mode: str) -> None:
    quiet = "trap 'echo {0} heard; exit 0' TERM; echo {0} up; while :; do sleep 0.01; done"
    inner, outer = quiet.format("child"), quiet.format("main")
    far = quiet.format("far")
    script = f'({inner}) & setsid sh -c "{far}" & {outer}'
    home.apply(home.sh("app", script, stop_mode=mode, stop_timeout_ms=400))
    wait_until(lambda: home.log("app").count("up") == 3, "three processes")
    home.request(Act("stop", ["app"]))
    heard = {line.split()[0] for line in home.log("app").splitlines() if line.endswith("heard")}
    assert heard == {"main": {"main"}, "group": {"main", "child"}, "tree": {"main", "child", "far"}}[mode]


def test_a_crash_with_left_overs_never_makes_two_trees(home: Home) -> None:
    script = "setsid sleep 1000 & sleep 1001 & echo $$; exec sleep 1002"
    home.apply(home.sh("app", script, restart_delay_max_ms=0))
    for round_ in range(1, 6):
        wait_until(lambda: len(sleeps(home)) == 3, "one whole tree")
        old = sleeps(home)
        os.kill(home.pid("app"), 9)
        home.until("app", restarted(round_))
        assert not [pid for pid in old if alive(pid)]
    wait_until(lambda: len(home.log("app").split()) == 6, "the sixth start's line, and no seventh")


def test_npm_start_is_stopped_as_a_whole(home: Home) -> None:
    server = home.folder / "server.js"
    server.write_text(
        "process.on('SIGTERM', () => setTimeout(() => { console.log('drained'); process.exit(0) }, 200));"
        "console.log('up'); setInterval(() => {}, 1000)"
    )
    (home.folder / "package.json").write_text('{"name": "x", "scripts": {"start": "node server.js"}}')
    home.apply(home.sh("app", "exec npm start"))
    wait_until(lambda: "up\n" in home.log("app"), "node to be up", 30)
    home.request(Act("stop", ["app"]))
    assert "drained" in home.log("app"), "the stop came back before node had ended its work"


def test_stops_run_beside_each_other(home: Home) -> None:
    slow = "import signal, time; signal.signal(15, lambda *_: (time.sleep(1), exit(0))); print('up', flush=True)\nwhile True: signal.pause()"
    names = [f"a{n}" for n in range(10)]
    home.apply(*(home.python(name, slow) for name in names))
    wait_until(lambda: all("up" in home.log(name) for name in names), "ten apps", 20)
    begun = time.monotonic()
    home.request(Act("stop", ["all"]))
    assert 1.0 <= time.monotonic() - begun < 2.5


def test_commands_answer_while_another_app_is_stuck_in_its_stop(home: Home) -> None:
    home.apply(home.sh("stuck", "trap '' TERM; echo up; while :; do sleep 0.01; done", stop_timeout_ms=3000))
    wait_until(lambda: "up" in home.log("stuck"), "the trap")
    stopping = home.connect()
    stopping._send(Act("stop", ["stuck"]))
    home.until("stuck", lambda view: view.status == "stopping")
    begun = time.monotonic()
    home.apply(home.sh("other", "exec sleep 1000"))
    os.kill(home.pid("other"), 9)
    home.until("other", lambda view: view.restarts == 1)
    home.request(Act("stop", ["other"]))
    assert time.monotonic() - begun < 1.0
    assert home.views()["stuck"].status == "stopping"


def test_an_idle_daemon_has_no_children_but_the_mains(home: Home) -> None:
    """Orphans that come to the subreaper are reaped."""
    home.apply(home.sh("app", "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; echo done; exec sleep 1000"))
    wait_until(lambda: "done" in home.log("app"), "orphans")
    assert home.daemon is not None
    wait_until(lambda: tree(home.daemon.pid)[1:] == [home.pid("app")], "the orphans to be reaped")  # type: ignore[union-attr]


# --- start order ---


def test_dependencies_start_first_and_stop_last(home: Home) -> None:
    log = home.folder / "order"
    script = f"echo start $OXMGR_APP >> {log}; trap 'echo stop $OXMGR_APP >> {log}; exit 0' TERM; while :; do sleep 0.01; done"
    home.apply(
        home.sh("web", script, depends_on={"api": "started"}),
        home.sh("api", script, depends_on={"db": "started", "migrate": "exited"}),
        home.sh(
            "migrate",
            f"echo start $OXMGR_APP >> {log}; sleep 0.2; echo end $OXMGR_APP >> {log}",
            depends_on={"db": "started"},
        ),
        home.sh("db", script),
    )
    wait_until(lambda: log.read_text().count("start") == 4, "all four")
    lines = log.read_text().splitlines()
    assert lines.index("start db") < lines.index("end migrate") < lines.index("start api") < lines.index("start web")
    wait_until(lambda: all(view.status in ("running", "exited") for view in home.views().values()), "all up")
    time_to_trap(home, ["web", "api", "db"])
    home.request(Act("stop", ["all"]))
    stops = [line for line in log.read_text().splitlines() if line.startswith("stop")]
    assert stops == ["stop web", "stop api", "stop db"]


def time_to_trap(home: Home, names: list[str]) -> None:
    """Until each shell sleeps in its loop, and so has its trap."""
    wait_until(lambda: all(len(tree(home.pid(name))) > 1 for name in names), "the traps")


def test_an_app_whose_dependency_failed_says_so_and_starts_when_it_comes(home: Home) -> None:
    migrate = home.sh("migrate", "exit 1", restart=NEVER)
    done = home.apply(migrate, home.sh("api", "exec sleep 1000", depends_on={"migrate": "exited"}))
    assert "waits for migrate to succeed, but its exit code was 1" in done.failed["api"]
    home.apply(home.sh("migrate", "exit 0", restart=NEVER))
    home.until("api", lambda view: view.status == "running")


def test_a_start_of_what_runs_is_answered_also_when_its_turn_comes_late(home: Home) -> None:
    """So many starts are made in slices; one that is among them and runs has nothing to do when its turn comes."""
    many = home.sh("many", "exec sleep 1000", instances=150)
    home.apply(many, home.sh("last", "exec sleep 1000", depends_on={"many": "started"}))
    home.until("last", lambda view: view.status == "running")
    home.request(Act("stop", ["many"]))
    done: list[object] = []
    asking = threading.Thread(target=lambda: done.append(home.request(Act("start", ["all"]))), daemon=True)
    asking.start()
    asking.join(DEADLINE)
    assert done, "the daemon does not answer"


def test_a_missing_dependency_is_named_and_not_waited_for_in_silence(home: Home) -> None:
    done = home.apply(home.sh("api", "exec sleep 1000", depends_on={"db": "started"}))
    assert "db, which is not there" in done.failed["api"]
    home.apply(home.sh("db", "exec sleep 1000"))
    home.until("api", lambda view: view.status == "running")


def test_a_start_delay_is_a_delay_of_that_app_alone(home: Home) -> None:
    begun = time.monotonic()
    home.apply(home.sh("now", "exec sleep 1000"))
    assert time.monotonic() - begun < 0.3
    begun = time.monotonic()
    home.apply(home.sh("later", "exec sleep 1000", start_delay_ms=400))
    assert 0.39 <= time.monotonic() - begun < 2


# --- apply, scale, delete ---


def test_apply_again_changes_only_what_differs(home: Home) -> None:
    specs = [home.sh("a", "exec sleep 1000"), home.sh("b", "exec sleep 1000", env={"X": "1"})]
    assert actions(home.apply(*specs)) == {"a": "add", "b": "add"}
    pids = home.pid("a"), home.pid("b")
    assert actions(home.apply(*specs)) == {"a": "keep", "b": "keep"}
    assert (home.pid("a"), home.pid("b")) == pids
    done = home.apply(specs[0], home.sh("b", "exec sleep 1000", env={"X": "2"}))
    assert actions(done) == {"a": "keep", "b": "change"} and done.changes[1].keys == ["env"]
    assert home.pid("a") == pids[0] and home.pid("b") != pids[1]


def test_a_change_of_policy_needs_no_new_process(home: Home) -> None:
    home.apply(home.sh("a", "exec sleep 1000"))
    pid = home.pid("a")
    done = home.apply(home.sh("a", "exec sleep 1000", restart=ALWAYS, stop_timeout_ms=5, namespace="x"))
    assert actions(done) == {"a": "change"} and home.pid("a") == pid
    assert home.views()["a"].namespace == "x"


def test_prune_deletes_what_is_not_named(home: Home) -> None:
    home.apply(home.sh("a", "exec sleep 1000"), home.sh("b", "exec sleep 1000"))
    pid = home.pid("b")
    done = home.apply(home.sh("a", "exec sleep 1000"), prune=True)
    assert actions(done) == {"a": "keep", "b": "delete"}
    assert list(home.views()) == ["a"] and not alive(pid)


def test_a_finished_job_is_not_done_again_by_apply_but_by_start(home: Home) -> None:
    home.apply(home.sh("job", "echo ran"))
    home.until("job", lambda view: view.status == "exited")
    home.apply(home.sh("job", "echo ran"))
    assert home.log("job") == "ran\n"
    home.request(Act("start", ["job"]))
    wait_until(lambda: home.log("job") == "ran\nran\n", "the second run")


def test_scale_takes_and_gives_back_instances(home: Home) -> None:
    home.apply(home.sh("app", "echo $OXMGR_INSTANCE_ID $NODE_APP_INSTANCE; exec sleep 1000"))
    first = home.pid("app")
    home.request(Scale("app", 3))
    assert list(home.views()) == ["app:0", "app:1", "app:2"] and home.pid("app:0") == first
    wait_until(lambda: home.log("app:2") == "2 2\n", "the number in the environment")
    second = home.pid("app:1")
    home.request(Scale("app", -2, relative=True))
    assert list(home.views()) == ["app"] and home.pid("app") == first and not alive(second)
    with pytest.raises(Refused, match="0 instances"):
        home.request(Scale("app", 0))


def test_scale_starts_nothing_that_was_stopped(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", instances=2))
    home.request(Act("stop", ["app:1"]))
    first = home.pid("app:0")
    home.request(Scale("app", 4))
    assert {name: view.status for name, view in home.views().items()} == {
        "app:0": "running", "app:1": "stopped", "app:2": "running", "app:3": "running"
    }  # fmt: skip
    assert home.pid("app:0") == first
    home.kill_daemon()
    home.start_daemon()
    assert home.views()["app:1"].status == "stopped"
    home.request(Scale("app", 1))
    home.request(Scale("app", 2))
    assert home.until("app:1", lambda view: view.status == "running").desired == "running"


def test_one_instance_can_be_restarted_and_stopped_alone(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", instances=2))
    pids = home.pid("app:0"), home.pid("app:1")
    home.request(Act("restart", ["app:1"]))
    assert home.pid("app:0") == pids[0] and home.pid("app:1") != pids[1]
    home.request(Act("stop", ["app:0"]))
    assert home.views()["app:0"].status == "stopped" and home.views()["app:1"].status == "running"


def test_delete_forgets_and_leaves_nothing(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", instances=2))
    pids = home.pid("app:0"), home.pid("app:1")
    home.request(Act("delete", ["app"]))
    assert home.views() == {} and not any(map(alive, pids))
    assert [name for name in os.listdir(home.places.run) if name.startswith("app")] == []
    with pytest.raises(Refused) as refused:
        home.request(Act("start", ["app"]))
    assert refused.value.code == 4


def test_targets(home: Home) -> None:
    home.apply(
        home.sh("web-a", "exec sleep 1000", namespace="shop"),
        home.sh("web-b", "exec sleep 1000", namespace="shop"),
        home.sh("db", "exec sleep 1000"),
    )
    home.request(Act("stop", ["web-*"]))
    assert {name: view.status for name, view in home.views().items()} == {
        "web-a": "stopped",
        "web-b": "stopped",
        "db": "running",
    }
    home.request(Act("start", ["@shop"]))
    assert {view.status for view in home.views().values()} == {"running"}
    with pytest.raises(Refused, match="there is no app or instance nope"):
        home.request(Act("stop", ["db", "nope"]))
    assert home.views()["db"].status == "running", "nothing is done when one of the targets is wrong"


# --- talking to a process ---


def test_a_signal_reaches_the_main_process(home: Home) -> None:
    home.apply(home.sh("app", "trap 'echo usr1' USR1; echo up; while :; do sleep 0.01; done"))
    wait_until(lambda: "up" in home.log("app"), "the trap")
    home.request(SendSignal(["app"], signal.SIGUSR1))
    wait_until(lambda: "usr1" in home.log("app"), "the signal")
    home.request(Act("stop", ["app"]))
    assert "no process" in home.request(SendSignal(["app"], signal.SIGUSR1)).failed["app"]


def test_input_reaches_standard_input_and_survives_restarts(home: Home) -> None:
    home.apply(home.sh("app", 'while read line; do echo "$$ got $line"; done'))
    home.request(SendInput("app", b"one\n"))
    wait_until(lambda: "got one" in home.log("app"), "the first line")
    os.kill(home.pid("app"), 9)
    home.until("app", lambda view: view.restarts == 1)
    home.request(SendInput("app", b"two\n"))
    wait_until(lambda: "got two" in home.log("app"), "the second line")


def test_input_that_nobody_reads_is_refused_and_blocks_nobody(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    with pytest.raises(Refused, match="does not read"):
        for _ in range(200):
            home.request(SendInput("app", b"x" * 8192))


# --- what a child is born with ---


def test_a_child_is_born_clean(home: Home) -> None:
    home.apply(
        home.python(
            "app",
            "import os\n"
            "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)\n"
            "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4], status['SigBlk'], status['SigIgn'],"
            " os.getsid(0) == os.getpid(), oct(os.umask(0)), os.getcwd(), flush=True)",
            restart=NEVER,
        )
    )
    home.until("app", lambda view: view.status == "exited")
    # fd 3 is the listing's own; Python itself ignores SIGPIPE and SIGXFSZ.
    assert home.log("app").strip() == f"[0, 1, 2, 3] 0000000000000000 0000000001001000 True 0o22 {home.folder}"


def test_the_environment_is_that_of_who_started_it(home: Home) -> None:
    spec = home.sh("app", "env; exit 0", env={"OWN": "1", "PATH": "/usr/bin:/bin"}, restart=NEVER)
    home.request(Apply([spec], b"PATH=/elsewhere\0LANG=x\0OWN=base\0"))
    home.until("app", lambda view: view.status == "exited")
    env = dict(line.split("=", 1) for line in home.log("app").splitlines())
    assert env == {
        "LANG": "x", "OWN": "1", "PATH": "/usr/bin:/bin", "OXMGR_APP": "app", "OXMGR_INSTANCE_ID": "0",
        "NODE_APP_INSTANCE": "0", "PWD": str(home.folder),
    }  # fmt: skip


def test_a_program_that_is_not_there_fails_with_its_name(home: Home) -> None:
    done = home.apply(Spec("app", "nope", ["nope"], str(home.folder)))
    assert done.failed["app"] == "cannot start app: execute nope: No such file or directory"
    done = home.apply(Spec("app2", "ls", ["ls"], "/nowhere"))
    assert done.failed["app2"] == "cannot start app2: change to the folder /nowhere: No such file or directory"
    assert home.views()["app"].status == "backoff"


def test_an_idle_daemon_is_not_woken(home: Home) -> None:
    """Not by a poll, and not by the timer of a stop that is over, nor by what is to come or is watched."""
    (home.folder / "src").mkdir()
    home.apply(
        home.sh("app", "exec sleep 1000", instances=20, stop_timeout_ms=700),
        home.sh("other", "exec sleep 1000", watch=[str(home.folder / "src")], restart_schedule="@yearly"),
        home.sh("job", "true", schedule="@yearly"),
    )
    home.request(Act("restart", ["app"]))
    assert home.daemon is not None
    status = Path(f"/proc/{home.daemon.pid}/status")

    def switches() -> int:
        return int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE)[0])

    def settled() -> bool:
        before = switches()
        select.select([], [], [], 0.1)
        return switches() == before

    wait_until(settled, "the daemon to have nothing to do")
    before = switches()
    select.select([], [], [], 1.5)
    assert switches() == before


def test_hundreds_that_wait_are_stopped_at_once(home: Home) -> None:
    connection = home.connect()
    connection._send(Apply([home.sh("app", "true", instances=600, start_delay_ms=3_600_000)]))
    wait_until(lambda: len(home.views()) == 600, "all of them to wait")
    done = home.request(Act("stop", ["all"]))
    assert not done.failed and {view.status for view in done.instances} == {"stopped"}

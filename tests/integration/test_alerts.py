"""Alerts, from an app that fails to who is told: a real daemon, its helpers, a web server and a command."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from oxmgr.client.launch import daemon_argv
from oxmgr.client.saved import read_saved_events
from oxmgr.model.codec import replace
from oxmgr.model.messages import Event, GetDaemon, ReplaceDaemon
from oxmgr.model.spec import Alerts, Limits, Logs
from tests.conftest import WITHOUT_CGROUPS, Home, tree, wait_until
from tests.integration.conftest import Ox

SECRET = "s3cr3t"


class Hook(BaseHTTPRequestHandler):
    """Counts what comes, and answers as its path says."""

    server: "Hooks"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        status = 200
        if self.path.startswith("/hang"):
            self.server.released.wait(60)
        elif self.path.startswith("/fails-twice"):
            status = 503 if self.server.count("/fails-twice") <= 2 else 200
        elif self.path.startswith("/gone") and not self.server.mended:
            status = 410
        self.send_response(status)
        if self.path.startswith("/for-ever"):
            self.send_header("Location", self.path)
        self.end_headers()
        if self.path.startswith("/endless"):
            try:
                while not self.server.released.is_set():
                    self.wfile.write(b"x" * 65536)
                    self.server.sent += 65536
            except OSError:
                pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Hooks(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.got: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.released = threading.Event()
        self.mended = False
        self.sent = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def count(self, path: str) -> int:
        return sum(one[0].startswith(path) for one in self.got)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    server = Hooks()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def events(home: Home, kind: str) -> list[Event]:
    return [event for event in read_saved_events(home.places) if event.kind == kind]


def helpers(home: Home) -> list[int]:
    """Of the daemon, those that send alerts."""
    assert home.daemon is not None
    found = []
    for pid in tree(home.daemon.pid):
        try:
            if b"\0alert\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_crash_is_told_with_all_that_helps(home: Home, hooks: Hooks) -> None:
    script = "seq 1 30; echo oh no >&2; exit 3"
    alerts = Alerts(webhook=hooks.url(f"/ok/{SECRET}"), headers={"Authorization": f"Bearer {SECRET}"})
    home.apply(home.sh("api", script, alerts=alerts, namespace="shop", restart_delay_ms=100_000))
    wait_until(lambda: hooks.got, "the alert")
    path, headers, alert = hooks.got[0]
    assert path == f"/ok/{SECRET}" and headers["Authorization"] == f"Bearer {SECRET}"
    [crash] = events(home, "crashed")
    assert alert == alert | {
        "kind": "crash", "app": "api", "instance": "api", "namespace": "shop", "host": os.uname().nodename,
        "seq": crash.seq, "reason": "exit code 3", "exit_code": 3, "signal": None, "restarts": 0, "count": 1,
        "instances": {"api": 1}, "stdout": [str(number) for number in range(11, 31)], "stderr": ["oh no"],
    }  # fmt: skip
    assert alert["text"] == f"api crashed: exit code 3 ({os.uname().nodename})"


@pytest.mark.parametrize("form", ["raw", "cri", "json"])
def test_the_last_lines_are_those_of_every_form_and_of_the_one_that_ended(home: Home, hooks: Hooks, form: str) -> None:
    script = 'echo "hello of $$"; echo "no of $$" >&2; [ -e done ] && exec sleep 1000; touch done; kill -SEGV $$'
    spec = home.sh("api", script, alerts=Alerts(webhook=hooks.url("/ok")), logs=Logs(format=form))
    home.apply(spec)
    wait_until(lambda: hooks.got, "the alert")
    home.until("api", lambda view: view.restarts == 1 and view.pid)
    [crash] = events(home, "crashed")
    alert = hooks.got[0][2]
    first = home.log("api").split("hello of ")[1].split()[0].strip('"}')
    assert (alert["signal"], alert["reason"], alert["seq"]) == ("SIGSEGV", "killed by SIGSEGV", crash.seq)
    assert (alert["stdout"][0], alert["stderr"][0]) == (f"hello of {first}", f"no of {first}")


def test_a_storm_is_a_handful_of_messages(home: Home, hooks: Hooks) -> None:
    alerts = Alerts(webhook=hooks.url("/ok"))
    home.apply(home.sh("api", "exit 1", alerts=alerts, restart_delay_max_ms=0))
    wait_until(lambda: home.views()["api"].restarts >= 1000, "a thousand crashes", seconds=60)
    wait_until(lambda: hooks.count("/ok") == 2, "the two messages")
    assert [one[2]["kind"] for one in hooks.got] == ["crash", "crash_loop"]
    home.apply(prune=True)
    assert len(hooks.got) == 2 and events(home, "alert-failed") == []


def test_one_that_is_given_up_is_told(home: Home, hooks: Hooks) -> None:
    alerts = Alerts(("errored",), hooks.url("/ok"))
    home.apply(home.sh("api", "exit 1", alerts=alerts, max_restarts=2, restart_delay_ms=0))
    wait_until(lambda: hooks.got, "the alert")
    alert = hooks.got[0][2]
    assert (alert["kind"], alert["exit_code"]) == ("errored", 1) and "max_restarts is 2" in alert["reason"]


def test_one_above_a_soft_limit_is_told(home: Home, hooks: Hooks) -> None:
    alerts = Alerts(("limit",), hooks.url("/ok"))
    home.apply(
        home.python(
            "api", "x = b'x' * 80_000_000\nimport time; time.sleep(1000)", alerts=alerts, limits=Limits(memory_mb=40)
        )
    )
    wait_until(lambda: hooks.got, "the alert")
    assert hooks.got[0][2]["kind"] == "limit" and "limits.memory_mb is 40" in hooks.got[0][2]["text"]


def test_what_is_not_taken_is_sent_again(home: Home, hooks: Hooks) -> None:
    home.apply(home.sh("api", "exit 1", alerts=Alerts(webhook=hooks.url("/fails-twice")), restart_delay_ms=100_000))
    wait_until(lambda: hooks.count("/fails-twice") == 3, "the third try", seconds=30)
    assert len({json.dumps(one[2]) for one in hooks.got}) == 1
    assert home.connect().request(GetDaemon()).warnings == []  # type: ignore[union-attr]


def test_what_cannot_be_sent_is_told_until_something_is(ox: Ox, hooks: Hooks) -> None:
    home = ox.home
    home.apply(home.sh("api", "exit 1", alerts=Alerts(webhook=hooks.url(f"/gone/{SECRET}")), max_restarts=1))
    wait_until(lambda: events(home, "alert-failed"), "that it failed")
    why = f"the webhook at 127.0.0.1:{hooks.server_port} got no alert of crash: it answers 410"
    assert events(home, "alert-failed")[0].reason == why
    assert "got no alert" in ox("list").stderr and SECRET not in ox("list").stderr
    hooks.mended = True
    home.apply(home.sh("other", "exit 1", alerts=Alerts(webhook=hooks.url(f"/gone/{SECRET}")), max_restarts=1))
    wait_until(lambda: hooks.count("/gone") >= 3, "another alert")
    # What was wrong with the one app's alerts is known to be over when its alerts are changed.
    home.apply(home.sh("api", "exit 1", alerts=Alerts(webhook=hooks.url("/ok")), max_restarts=1))
    wait_until(lambda: "got no alert" not in ox("list").stderr, "that it is well")


def test_a_webhook_that_hangs_keeps_nothing_waiting_and_does_not_outlive_the_daemon(home: Home, hooks: Hooks) -> None:
    home.apply(home.sh("deaf", "exit 1", alerts=Alerts(webhook=hooks.url("/hang")), restart_delay_ms=100_000))
    wait_until(lambda: hooks.count("/hang"), "the one that hangs")
    home.apply(home.sh("api", "exit 1", alerts=Alerts(webhook=hooks.url("/ok")), restart_delay_ms=100_000))
    wait_until(lambda: hooks.count("/ok"), "the other")
    wait_until(lambda: len(helpers(home)) == 1, "the end of the other's helper")
    sending = helpers(home)
    assert home.stop_daemon() == 0
    # A zombie has no program any more; the fixture of every test waits for it.
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in sending), "the end of its helpers")
    assert "alerts were not sent: deaf" in Path(home.places.daemon_log).read_text()


@pytest.mark.parametrize("path", ["/endless", "/for-ever"])
def test_an_answer_without_end_costs_nothing(home: Home, hooks: Hooks, path: str) -> None:
    home.apply(home.sh("api", "exit 1", alerts=Alerts(webhook=hooks.url(path)), restart_delay_ms=100_000))
    wait_until(lambda: hooks.count(path), "the alert")
    wait_until(lambda: not helpers(home), "the end of its helper")
    assert hooks.count(path) == 1 and hooks.sent < 100_000_000
    assert events(home, "alert-failed") == []


def test_a_command_is_run_with_the_message_and_without_roots_rights(home: Home) -> None:
    home.folder.chmod(0o777)
    script = 'id -u > who; echo "$OXMGR_ALERT $OXMGR_INSTANCE" > told; cat > got.new; mv got.new got'
    alerts = Alerts(("crash",), command=["/bin/sh", "-c", script], working_dir=str(home.folder))
    home.apply(home.sh("api", "exit 9", alerts=alerts, instances=2, restart_delay_ms=100_000))
    got = home.folder / "got"
    wait_until(got.exists, "the message")
    assert json.loads(got.read_text())["exit_code"] == 9
    assert (home.folder / "told").read_text().startswith("crash api:")
    uid = int((home.folder / "who").read_text())
    assert uid == os.getuid() if os.getuid() else uid == 65534


HANGS = """
echo $$ > main.new; mv main.new main
setsid sh -c 'echo $$ > other.new; mv other.new other; exec sleep 500' & wait
"""


def a_hanging_command(home: Home) -> list[int]:
    """The pids of one and of what it has started."""
    home.folder.chmod(0o777)
    alerts = Alerts(("crash",), command=["/bin/sh", "-c", HANGS], working_dir=str(home.folder))
    home.apply(home.sh("api", "exit 9", alerts=alerts, restart_delay_ms=100_000))
    files = [home.folder / "main", home.folder / "other"]
    wait_until(lambda: all(file.exists() for file in files), "the command")
    return [int(file.read_text()) for file in files]


def ended(pid: int) -> bool:
    """A zombie has no program any more."""
    return not os.path.exists(f"/proc/{pid}/exe")


@pytest.mark.parametrize("how", ["stop", "kill", "helper"])
def test_a_command_ends_with_its_daemon_and_with_its_helper(each_home: Home, how: str) -> None:
    home = each_home
    pids = a_hanging_command(home)
    if how == "stop":
        assert home.stop_daemon() == 0
    elif how == "kill":
        home.kill_daemon()
    else:
        [helper] = helpers(home)
        os.kill(helper, signal.SIGKILL)
    wait_until(lambda: ended(pids[0]), "the end of the command")
    if how != "helper" or home.wrap == []:
        wait_until(lambda: ended(pids[1]), "the end of what it has started")
    else:
        # Without cgroups, who has left the session of a helper that was killed may be nobody's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[1], signal.SIGKILL)
    if how == "kill":
        home.start_daemon()


def test_a_command_that_outlived_both_is_ended_by_the_next_daemon(home: Home) -> None:
    pids = a_hanging_command(home)
    [helper] = helpers(home)
    os.kill(helper, signal.SIGSTOP)
    home.kill_daemon()
    assert not any(map(ended, pids))
    home.start_daemon()
    wait_until(lambda: all(map(ended, [helper, *pids])), "the end of what the earlier daemon has left")


@pytest.mark.parametrize("wrap", [[], WITHOUT_CGROUPS], ids=["cgroup", "walk"])
def test_a_command_is_ended_before_another_daemon_is_executed(empty_home: Home, wrap: list[str]) -> None:
    home = empty_home
    home.wrap, home.guarded = wrap, True
    home.start_daemon()
    pids = a_hanging_command(home)
    (home.folder / "main").unlink()
    home.request(ReplaceDaemon(daemon_argv()))
    wait_until(lambda: all(map(ended, pids)), "the end of the command")
    wait_until((home.folder / "main").exists, "the command, run by the other")


def test_a_command_that_fails_is_told(home: Home) -> None:
    alerts = Alerts(("crash",), command=["/nosuch/program", SECRET])
    home.apply(home.sh("api", "exit 9", alerts=alerts, restart_delay_ms=100_000))
    wait_until(lambda: events(home, "alert-failed"), "that it failed")
    assert events(home, "alert-failed")[0].reason == (
        "the command of its alerts got no alert of crash: /nosuch/program: No such file or directory"
    )


def test_no_secret_is_shown_anywhere(ox: Ox, hooks: Hooks) -> None:
    ox.env["TOKEN"] = SECRET
    url = hooks.url("/hang/$TOKEN").replace("http://", "http://me:$TOKEN@")
    ox.oxfile(f"""
        [alerts]
        webhook = "{url}"
        headers = {{ Authorization = "Bearer $TOKEN" }}
        [processes.api]
        command = "sh -c 'exit 1'"
        restart_delay_ms = 100000
    """)
    home = ox.home
    said = [ox("validate").stdout, ox("apply", "--dry-run", "--json").stdout]
    # The app's environment is the caller's, and shown to whoever may speak to the daemon.
    ox.env.pop("TOKEN")
    ox.env["TOKEN"] = ""
    ox.oxfile((ox.folder / "oxfile.toml").read_text().replace("$TOKEN", SECRET))
    done = ox("apply", code=None)
    wait_until(lambda: hooks.count("/hang"), "the alert")
    [helper] = helpers(home)
    said += [done.stdout, done.stderr]
    said += [Path(f"/proc/{helper}/{name}").read_bytes().decode() for name in ("cmdline", "environ")]
    for words in ("list", "list --json", "status", "status --json", "env api", "events -n all --json", "daemon status"):
        shown = ox(*words.split())
        said += [shown.stdout, shown.stderr]
    said.append(Path(home.places.daemon_log).read_text())
    said += [event.reason for event in read_saved_events(home.places)]
    assert not [text for text in said if SECRET in text]
    for name in os.listdir(home.places.state):
        assert os.stat(f"{home.places.state}/{name}").st_mode & 0o077 == 0, name
    hooks.released.set()


def test_what_was_not_sent_is_sent_by_the_next_daemon(empty: Ox, hooks: Hooks) -> None:
    empty.oxfile(f"""
        alerts = {{ webhook = "{hooks.url("/hang")}", on = ["errored"] }}
        [processes.api]
        command = "sh -c 'exit 1'"
        max_restarts = 1
    """)
    empty("start", code=1)
    wait_until(lambda: hooks.count("/hang"), "the alert")
    pid = empty.daemon()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: hooks.count("/hang") == 2, "the alert from the guard's next daemon")
    assert hooks.got[0][2] == hooks.got[1][2]
    assert empty.daemon() not in (None, pid)
    hooks.released.set()


def test_alerts_change_while_the_app_runs_on(home: Home, hooks: Hooks) -> None:
    spec = home.sh("api", "exec sleep 1000", restart_delay_ms=100_000)
    home.apply(spec)
    pid = home.pid("api")
    done = home.apply(replace(spec, alerts=Alerts(webhook=hooks.url("/ok"))))
    assert done.changes[0].keys == ["alerts"] and home.pid("api") == pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: hooks.got, "the alert")
    assert hooks.got[0][2]["signal"] == "SIGKILL"

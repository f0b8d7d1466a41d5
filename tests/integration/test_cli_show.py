"""The commands that only read: list, status, logs, events, env, doctor, validate."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from oxmgr.model.messages import Apply, Event, InstanceView
from tests.conftest import wait_until
from tests.integration.conftest import COMMAND, Ox

KEYS = (
    "name app instance namespace status desired pid restarts exit_code signal reason ready health started_at uptime_ms "
    "cpu_percent memory_bytes tasks command working_dir log_file error_log_file"
).split()


def a_mix(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "web", "-i", "2", "--namespace", "site")
    ox("start", "echo told; echo wrong >&2; exit 3", "--name", "job", "--restart", "never", code=1)
    ox("start", "sleep 1000", "--name", "off")
    ox("stop", "off")


# --- without a daemon ---


READING = [
    "list",
    "status",
    "logs",
    "events",
    "env web",
    "daemon status",
    "logs web",
    "list web",
    "status web:1",
    "events web",
]


@pytest.mark.parametrize("command", READING)
def test_reading_commands_never_start_a_daemon(empty: Ox, command: str) -> None:
    done = empty(*command.split(), code=None)
    # Of a name, nothing is known; for the rest nobody answers.
    assert done.returncode == (4 if command == "logs web" else 3)
    assert "no daemon runs" in done.stderr and not done.stdout
    assert empty.daemon() is None and not (empty.home.folder / "state").exists()


def test_without_a_daemon_they_show_what_is_saved(ox: Ox) -> None:
    a_mix(ox)
    ox("daemon", "stop")
    for words in (["list"], ["status"], ["list", "@site", "job", "off"]):
        done = ox(*words, code=3)
        assert "no daemon runs; this is what is saved" in done.stderr
        assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
            ["web:0", "stopped"],
            ["web:1", "stopped"],
            ["job", "exited"],
            ["off", "stopped"],
        ]
    assert [view["desired"] for view in ox.json("list", code=3)] == ["running", "running", "running", "stopped"]
    assert "exit code 3" in ox("status", "job", code=3).stdout
    assert "nothing that is saved is called nosuch" in ox("list", "nosuch", code=3).stderr
    assert ox("logs", "job", code=3).stdout == "told\nwrong\n"
    assert ox.json("env", "web:1", code=3)["OXMGR_INSTANCE_ID"] == "1"
    assert "exited" in ox("events", "job", code=3).stdout
    assert ox.json("list", code=3)[0].keys() >= set(KEYS)
    assert ox.daemon() is None


def test_what_runs_without_its_daemon_is_told(ox: Ox) -> None:
    a_mix(ox)
    pid = ox.home.pid("web:0")
    ox.home.kill_daemon()
    views = ox.json("list", code=3)
    assert (views[0]["status"], views[0]["pid"]) == ("running", pid)
    assert "the next one takes it over" in views[0]["reason"]
    ox.home.start_daemon()
    assert ox.json("list")[0]["pid"] == pid


# --- list and status ---


def test_list_json_has_exactly_the_promised_keys_and_nothing_but_json(ox: Ox) -> None:
    assert ox.json("list") == []
    a_mix(ox)
    done = ox("list", "--json")
    assert not done.stderr
    views = json.loads(done.stdout)
    assert [list(view) for view in views] == [list(InstanceView.__struct_fields__)] * 4
    assert all(list(view)[: len(KEYS)] == KEYS for view in views)
    web, job, off = views[0], views[2], views[3]
    assert (web["name"], web["app"], web["instance"], web["namespace"]) == ("web:0", "web", 0, "site")
    assert (web["status"], web["desired"], web["ready"], web["health"]) == ("running", "running", True, None)
    assert web["pid"] == ox.home.pid("web:0") and web["tasks"] == 1 and web["memory_bytes"] > 0
    assert abs(web["started_at"] + web["uptime_ms"] / 1000 - time.time()) < 5
    assert web["working_dir"] == str(ox.folder) and web["command"] == "sleep 1000"
    assert (job["status"], job["exit_code"], job["signal"], job["reason"]) == ("exited", 3, None, "exit code 3")
    assert (off["status"], off["desired"], off["pid"], off["memory_bytes"]) == ("stopped", "stopped", None, None)
    assert Path(job["log_file"]).exists() and Path(job["error_log_file"]).exists()


def test_list_and_status_take_names_namespaces_and_globs(ox: Ox) -> None:
    a_mix(ox)
    for words, names in {
        ("web",): ["web:0", "web:1"],
        ("web:1",): ["web:1"],
        ("@site", "off"): ["web:0", "web:1", "off"],
        ("?ob",): ["job"],
        ("all",): ["web:0", "web:1", "job", "off"],
    }.items():
        assert [view["name"] for view in ox.json("list", *words)] == names
        assert [view["name"] for view in ox.json("status", *words)] == names


def test_status_says_all_there_is_to_say(ox: Ox) -> None:
    a_mix(ox)
    web = ox("status", "web:0").stdout
    assert web.startswith("web:0\n")
    for text in ("running", "site", "sleep 1000", str(ox.folder), str(ox.home.pid("web:0")), "web.out.log"):
        assert text in web
    job = ox("status", "job")
    assert "exited, exit code 3" in job.stdout and "told" in job.stderr and "wrong" in job.stderr


def test_what_an_app_is_called_cannot_move_the_cursor(ox: Ox) -> None:
    ox("start", "echo '\x1b[31m\n'; exec sleep 1000", "--name", "app")
    assert "\x1b" not in ox("status", "app").stdout


# --- events ---


def test_events_tell_what_happened_to_whom(ox: Ox) -> None:
    a_mix(ox)
    os.kill(ox.home.pid("web:1"), signal.SIGKILL)
    ox.home.until("web:1", lambda view: view.restarts == 1 and view.status == "running")
    kinds = [line.split()[3] for line in ox("events", "web:1").stdout.splitlines()]
    assert kinds[-2:] == ["crashed", "started"] or kinds[-3:] == ["crashed", "backoff", "started"]
    assert len(ox("events", "-n", "3").stdout.splitlines()) == 3
    assert {line.split()[2] for line in ox("events", "@site").stdout.splitlines()} == {"web", "web:0", "web:1"}
    assert "daemon-started" in ox("events", "-n", "100").stdout
    assert "daemon-started" not in ox("events", "all", "-n", "100").stdout
    lines = ox("events", "job", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert all(list(event) == list(Event.__struct_fields__) for event in events)
    assert events[-1]["kind"] == "exited" and events[-1]["exit_code"] == 3
    ox("delete", "job")
    assert "deleted" in ox("events", "job").stdout
    assert ox("events", "nosuch", code=4).stderr


def test_events_of_a_kind_and_since_a_time(ox: Ox) -> None:
    a_mix(ox)
    every = [json.loads(line) for line in ox("events", "-n", "all", "--json").stdout.splitlines()]
    assert [one["seq"] for one in every] == list(range(1, len(every) + 1))
    exited = [json.loads(line) for line in ox("events", "--kind", "exited,crashed", "--json").stdout.splitlines()]
    assert exited == [one for one in every if one["kind"] in ("exited", "crashed")] != []
    both = ox("events", "job", "--kind", "exited", "--kind", "added", "--json").stdout.splitlines()
    assert {json.loads(line)["kind"] for line in both} == {"exited", "added"}
    at = every[3]["at"]
    since = [json.loads(line) for line in ox("events", "--since", f"@{at:.6f}", "--json").stdout.splitlines()]
    assert [one["seq"] for one in since] == [one["seq"] for one in every if one["at"] >= float(f"{at:.6f}")]
    assert not ox("events", "--since", "now").stdout
    assert "did you mean crashed" in ox("events", "--kind", "crashd", code=2).stderr
    ox("daemon", "stop")
    assert len(ox("events", "--kind", "daemon-started,daemon-stopping", code=3).stdout.splitlines()) == 2


# --- env, doctor, validate ---


def test_env_is_what_the_next_start_gets(ox: Ox) -> None:
    ox.env |= {"MINE": "yes", "TERM": "xterm", "SSH_TTY": "/dev/pts/9", "SHLVL": "3"}
    ox.file("vars", 'FROM_FILE="a b"\nBOTH=file\n')
    ox.oxfile('[processes.a]\ncommand = "env; sleep 1000"\nenv_file = "vars"\nenv = { PORT = 3000, BOTH = "table" }\n')
    ox("start")
    env = ox.json("env", "a")
    assert env["MINE"] == "yes" and not {"TERM", "SSH_TTY", "SHLVL", "PWD"} & set(env)
    assert (env["FROM_FILE"], env["PORT"], env["BOTH"]) == ("a b", "3000", "table")
    wait_until(lambda: "OXMGR_APP=a" in ox.home.log("a"), "the app's own view")
    seen = dict(line.split("=", 1) for line in ox.home.log("a").splitlines())
    # The shell that runs `env; …` sets these.
    assert {key: value for key, value in seen.items() if key not in ("PWD", "OLDPWD", "SHLVL", "_")} == env
    assert "PORT=3000\n" in ox("env", "a").stdout


def test_an_environment_that_is_no_text_is_shown_as_the_bytes_that_it_is(ox: Ox) -> None:
    odd = os.fsencode(f"{ox.home.folder}/") + b"\xff"
    environ = b"PATH=/usr/bin:/bin\0ODD=" + odd + b"\0"
    ox.home.request(Apply([ox.home.sh("app", "exec sleep 1000")], environ))
    shown = subprocess.run([COMMAND, "env", "app"], env=ox.env, capture_output=True, check=True)
    assert b"ODD=" + odd + b"\n" in shown.stdout
    assert ox.json("env", "app")["ODD"].endswith("/\ufffd")
    ox.home.stop_daemon()
    saved = subprocess.run([COMMAND, "env", "app"], env=ox.env, capture_output=True, check=False)
    assert saved.stdout == shown.stdout


def test_doctor_finds_what_is_wrong_and_only_that(empty: Ox) -> None:
    assert "told once a daemon runs" in empty("doctor").stdout
    assert empty.daemon() is None
    empty.home.start_daemon()
    findings = empty.json("doctor")
    assert "sandbox" in [finding["check"] for finding in findings]
    ladders = [finding for finding in findings if finding["check"] in empty.json("daemon", "status")["ladders"]]
    assert all(finding["detail"] for finding in ladders)
    assert all(finding.keys() == {"result", "check", "detail"} for finding in findings)
    assert {
        finding["result"] for finding in findings if finding["check"] in ("state", "run", "logs", "daemon", "saved")
    } == {"ok"}
    (empty.home.folder / "logs").chmod(0o777)
    failed = empty("doctor", code=1)
    assert "fail  logs" in failed.stdout and "chmod 700" in failed.stdout


def test_validate_refuses_what_a_start_would(empty: Ox) -> None:
    app = 'command = "sleep 1"\nlog_file = "shared.log"\n'
    file = empty.oxfile(f"[processes.a]\n{app}[processes.b]\n{app}")
    for command in ("validate", "start"):
        told = empty(command, code=2).stderr
        assert f"{file}:6: processes.b.log_file: a and b would both write to {empty.folder}/shared.log" in told


def test_validate_says_what_would_be_started_and_starts_nothing(empty: Ox) -> None:
    empty.oxfile('[processes.a]\ncommand = "sleep 1"\ninstances = 2\n[processes.b]\ncommand = "sleep 1"\n')
    assert empty("validate").stdout == "valid: a (2), b\n"
    assert empty.json("validate", "oxfile.toml") == {"valid": True, "problems": [], "apps": ["a", "b"]}
    path = empty.oxfile('[processes.a]\ncommand = "sleep 1"\ninstnces = 2\n')
    told = empty.json("validate", code=2)
    assert told["valid"] is False and told["apps"] == []
    problem = told["problems"][0]
    assert (
        problem["place"] == f"{path}:3"
        and problem["key"] == "processes.a.instnces"
        and "instances" in problem["message"]
    )
    assert empty.daemon() is None


# --- state that is damaged ---


def test_every_command_tells_of_a_file_kept_aside_until_it_is_removed(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    ox("daemon", "stop")
    desired = Path(ox.home.places.desired)
    data = bytearray(desired.read_bytes())
    data[-2] ^= 0xFF
    desired.write_bytes(data)
    # Nobody has put it aside yet, and it is told all the same.
    assert "is damaged" in ox("list", code=3).stderr
    ox.oxfile('[processes.web]\ncommand = "sleep 1000"\n')
    ox("start")
    kept = next(desired.parent.glob("desired.damaged-*"))
    commands = [
        "list --json",
        "status",
        "logs",
        "events",
        "env web",
        "stop web",
        "start web",
        "restart web",
        "scale web 1",
    ]
    commands += [
        "reset web",
        "signal CONT web",
        "send web x",
        "validate",
        "apply",
        "daemon status",
        "delete web",
        "doctor",
    ]
    for command in commands:
        done = ox(*command.split())
        assert (done.stdout if command == "doctor" else done.stderr).count(str(kept)) == 1, (command, done)
        if "--json" in command:
            json.loads(done.stdout)
    ox("daemon", "stop")
    assert str(kept) in ox("list", code=3).stderr
    kept.unlink()
    assert "aside" not in ox("list", code=3).stderr

"""`oxmgr start`, `apply`: what is typed or written becomes what runs."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.integration.conftest import Ox

SLEEP = "exec sleep 1000"


def shown(ox: Ox) -> dict[str, str]:
    return {view["name"]: view["status"] for view in ox.json("list")}


# --- what it makes of the words ---


def test_start_runs_everything_in_the_oxfile_of_the_folder(ox: Ox) -> None:
    ox.oxfile(
        '[processes.web]\ncommand = "sleep 1000"\ninstances = 2\n[processes.job]\ncommand = "true"\nrestart = "never"\n'
    )
    done = ox("start")
    assert "+ add web" in done.stdout and "+ add job" in done.stdout and not done.stderr
    assert shown(ox) == {"web:0": "running", "web:1": "running", "job": "exited"}
    # Again: nothing is started a second time.
    before = [view["pid"] for view in ox.json("list")]
    assert "add" not in ox("start").stdout
    assert [view["pid"] for view in ox.json("list")] == before


@pytest.mark.parametrize("words", [["--config", "other.toml"], ["-c", "other.toml"], ["other.toml"]])
def test_start_reads_the_oxfile_that_is_named(ox: Ox, words: list[str]) -> None:
    ox.oxfile('[processes.here]\ncommand = "sleep 1000"\n')
    ox.file("other.toml", '[processes.there]\ncommand = "sleep 1000"\n')
    ox("start", *words)
    assert shown(ox) == {"there": "running"}


def test_only_and_env_choose_apps_and_profiles(ox: Ox) -> None:
    ox.oxfile(
        '[processes.a]\ncommand = "sleep 1000"\nenv = { MODE = "dev" }\n[processes.a.profiles.production.env]\nMODE = "live"\n'
        '[processes.b]\ncommand = "sleep 1000"\n'
    )
    ox("start", "--only", "a", "--env", "production")
    assert shown(ox) == {"a": "running"}
    assert ox.json("env", "a")["MODE"] == "live"
    wrong = ox("start", "--only", "aa", code=2)
    assert "there is no such app; did you mean a?" in wrong.stderr


def test_a_command_line_is_an_app(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "nap", "-i", "2", "-e", "A=1 2", "--set", "B=", "--namespace", "beds")
    views = ox.json("list")
    assert [(view["name"], view["namespace"], view["command"]) for view in views] == [
        ("nap:0", "beds", "sleep 1000"),
        ("nap:1", "beds", "sleep 1000"),
    ]
    env = ox.json("env", "nap:1")
    assert (env["A"], env["B"], env["OXMGR_INSTANCE_ID"]) == ("1 2", "", "1")


def test_what_is_behind_two_dashes_is_the_apps_own(ox: Ox) -> None:
    ox.app("tell", 'echo "$@"; exec sleep 1000')
    ox("start", "./tell", "--", "--name", "x", "a b")
    wait_until(lambda: ox.home.log("tell") == "--name x a b\n", "the words")


def test_all_of_a_command_may_stand_behind_two_dashes(ox: Ox) -> None:
    ox.app("tell", 'echo "$@"; exec sleep 1000')
    ox("start", "--name", "app", "--", "./tell", "--name", "x")
    wait_until(lambda: ox.home.log("app") == "--name x\n", "the words")
    assert "nosuch" in ox("start", "--", "nosuch", "1000", code=2).stderr
    assert "--env is for an oxfile, and ./tell is none" in ox("start", "--env", "x", "--", "./tell", code=2).stderr


def test_start_of_known_apps_starts_them_again_as_they_were(ox: Ox) -> None:
    ox.app("one", SLEEP)
    ox("start", "./one", "-i", "2")
    ox("stop", "one")
    assert json.loads(ox("start", "one", "--dry-run", "--json").stdout) == [
        {"app": "one", "action": "start", "keys": []}
    ]
    assert shown(ox) == {"one:0": "stopped", "one:1": "stopped"}
    ox("start", "one:1")
    assert shown(ox) == {"one:0": "stopped", "one:1": "running"}
    ox("start", "o*")
    assert shown(ox) == {"one:0": "running", "one:1": "running"}
    assert "= keep one" in ox("start", "one", "--dry-run").stdout


def test_options_of_an_oxfile_are_refused_where_there_is_none(ox: Ox) -> None:
    ox.app("one", SLEEP)
    ox("start", "./one")
    for words in (
        ["one", "--env", "x"],
        ["one", "--only", "x"],
        ["./one", "--env", "x"],
        ["--name", "x"],
        ["one", "--foreground"],
    ):
        assert ox("start", *words, code=2).stderr.startswith("oxmgr: --"), words
    # All that stand where they cannot are named at once.
    told = ox("start", "--name", "x", "--cwd", "/", "-i", "2", code=2).stderr
    assert "--name, --instances and --cwd are for a script or command" in told


def test_dry_run_changes_nothing_and_starts_no_daemon(empty: Ox) -> None:
    empty.oxfile('[processes.a]\ncommand = "sleep 1000"\n')
    assert empty("start", "--dry-run").stdout == "+ add a\n"
    assert empty("start", "sleep 1", "--dry-run").stdout == "+ add sleep\n"
    assert empty("apply", "--dry-run", "--prune").stdout == "+ add a\n"
    assert empty("start", "--foreground", "--dry-run").stdout == "+ add a\n"
    assert empty.daemon() is None and not (empty.home.folder / "state").exists()


def test_an_app_of_another_folder_is_not_replaced_by_accident(ox: Ox) -> None:
    ox.app("serve", SLEEP)
    ox("start", "./serve")
    other = ox.folder / "other"
    other.mkdir()
    (other / "serve").write_text(f"#!/bin/sh\n{SLEEP}\n")
    (other / "serve").chmod(0o755)
    refused = ox("start", "./serve", cwd=other, code=2)
    assert str(ox.folder) in refused.stderr and "--name" in refused.stderr
    ox("start", "./serve", "--name", "serve", cwd=other)
    assert ox.json("list")[0]["working_dir"] == str(other)


# --- zero config ---


def test_scripts_and_commands_find_what_runs_them(ox: Ox) -> None:
    programs = ox.folder / "bin"
    programs.mkdir()
    for name in ("node", "npm"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@"\nexec sleep 1000\n')
        (programs / name).chmod(0o755)
    ox.env["PATH"] = f"{programs}:{ox.env['PATH']}"
    ox.file("server.js", "")
    ox.file("app.py", "import time\nprint('python')\ntime.sleep(1000)\n")
    ox.file("run.sh", "echo shell\nexec sleep 1000\n")
    ox.app("binary", "echo binary; exec sleep 1000")
    ox.file("package.json", '{"name": "@me/shop"}')
    for word in ("server.js", "app.py", "run.sh", "./binary", "npm start"):
        ox("start", word)
    assert shown(ox) == dict.fromkeys(["server", "app", "run", "binary", "me-shop"], "running")
    expected = {
        "server": f"node {ox.folder}/server.js\n",
        "app": "python\n",
        "run": "shell\n",
        "binary": "binary\n",
        "me-shop": "npm start\n",
    }
    wait_until(lambda: {name: ox.home.log(name) for name in expected} == expected, "what each prints")


# --- how it ends ---


@pytest.mark.parametrize("words", [["start", "./fails"], ["restart", "fails"], ["start", "fails"]])
def test_an_app_that_fails_says_why_and_shows_its_last_lines(ox: Ox, words: list[str]) -> None:
    ox.app("fails", SLEEP)
    ox("start", "./fails", "--restart", "never")
    ox("stop", "fails")
    ox.app("fails", "echo on its way; echo no database >&2; exit 3")
    failed = ox(*words, code=1)
    assert "fails: exit code 3" in failed.stderr
    assert "on its way" in failed.stderr and "no database" in failed.stderr
    assert "on its way" not in failed.stdout
    view = ox.json("list")[0]
    assert view["exit_code"] == 3


def test_a_crash_loop_counts_as_failed_and_goes_on(ox: Ox) -> None:
    ox.oxfile('[processes.loops]\ncommand = "exit 7"\n')
    failed = ox("start", "--json", code=1)
    assert "loops: exit code 7" in failed.stderr
    assert json.loads(failed.stdout)[0]["status"] == "backoff"


def test_a_job_that_is_done_at_once_has_not_failed(ox: Ox) -> None:
    ox.oxfile('[processes.a]\ncommand = "exit 0"\n[processes.b]\ncommand = "exit 4"\nstop_exit_codes = [4]\n')
    assert not ox("start").stderr
    assert shown(ox) == {"a": "exited", "b": "exited"}


def test_what_cannot_be_executed_is_told(ox: Ox) -> None:
    ox.file("bad", "no program", 0o755)
    ox("start", "sleep 1000", "--name", "good")
    failed = ox("start", "./bad --now", "--name", "bad", code=1)
    assert "bad" in failed.stderr
    assert shown(ox)["good"] == "running"


def test_a_script_whose_interpreter_is_not_there_is_refused_and_not_registered(ox: Ox) -> None:
    ox.oxfile('[processes.bad]\ncommand = "./bad"\n')
    for first, named in (("#!/nosuch/x", "/nosuch/x"), ("#!/usr/bin/env nosuch", "nosuch")):
        ox.file("bad", f"{first}\n", 0o755)
        for words in (["./bad"], ["bad"], ["./bad", "--", "--now"], [], ["--", "./bad"]):
            assert f"run by {named}," in ox("start", *words, code=2).stderr
        assert f"run by {named}," in ox("apply", code=2).stderr
    assert shown(ox) == {}


# --- the daemon that it starts ---


def test_changing_commands_start_a_daemon_that_is_detached(empty: Ox) -> None:
    empty.app("app", SLEEP)
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    empty("start", "./app", pass_fds=[writing])
    os.close(writing)
    pid = empty.daemon()
    assert pid is not None
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(stat[3]), int(stat[4])
    # Neither ours, nor its own to lead: it can never get a terminal.
    assert session not in (os.getsid(0), pid) and terminal == 0
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert {fds["0"], fds["1"], fds["2"]} == {"/dev/null"}
    assert not [link for link in fds.values() if link.startswith(("/dev/pts", "/dev/tty"))]
    # Nothing of the caller's stays open in it, or whoever waits for the end of a pipe would wait for the daemon.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_many_commands_at_once_start_one_daemon(empty: Ox) -> None:
    running = [
        empty.popen("start", "sleep 1000", "--name", f"app{number}", stdout=-3, stderr=-1) for number in range(4)
    ]
    for one in running:
        _, told = one.communicate(timeout=30)
        assert (one.returncode, told) == (0, b"")
    assert set(shown(empty)) == {"app0", "app1", "app2", "app3"}


def test_apps_are_kept_running_by_it(empty: Ox) -> None:
    empty("start", "sleep 1000", "--name", "app")
    pid = empty.home.pid("app")
    os.kill(pid, 9)
    view = empty.home.until("app", lambda view: view.restarts == 1 and view.pid)
    assert view.pid != pid and view.signal == "SIGKILL"


# --- apply ---


def test_apply_makes_what_runs_equal_to_the_files(ox: Ox) -> None:
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\n[processes.b]\ncommand = "sleep 1000"\n')
    ox("apply")
    before = ox.home.pid("a")
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\n[processes.c]\ncommand = "sleep 1001"\n')
    ox.file("more.toml", '[processes.d]\ncommand = "sleep 1000"\n')
    planned = ox("apply", "oxfile.toml", "more.toml", "--prune", "--dry-run")
    assert planned.stdout == "= keep a\n+ add c\n+ add d\n- delete b\n"
    assert set(shown(ox)) == {"a", "b"}
    assert [change["action"] for change in ox.json("apply", "--dry-run")] == ["keep", "add"]
    ox("apply", "oxfile.toml", "more.toml")
    assert set(shown(ox)) == {"a", "b", "c", "d"}
    ox("apply", "oxfile.toml", "more.toml", "--prune")
    assert set(shown(ox)) == {"a", "c", "d"}
    assert ox.home.pid("a") == before


def test_apply_tells_which_keys_have_changed(ox: Ox) -> None:
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\n')
    ox("apply")
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\nmax_restarts = 5\n')
    assert ox("apply", "--dry-run").stdout == "~ change a (max_restarts)\n"
    ox("daemon", "stop")
    # The same without a daemon, from what is saved.
    assert ox("apply", "--dry-run").stdout == "~ change a (max_restarts)\n"
    assert ox.daemon() is None


def test_apply_refuses_what_would_delete_by_accident(ox: Ox) -> None:
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\n')
    ox.file("more.toml", '[processes.a]\ncommand = "sleep 1001"\n')
    assert "--prune and --only" in ox("apply", "--prune", "--only", "a", code=2).stderr
    assert "a is in another of the files already" in ox("apply", "oxfile.toml", "more.toml", code=2).stderr
    assert shown(ox) == {}


def test_a_start_takes_hardly_longer_than_it_watches(ox: Ox) -> None:
    ox.oxfile("".join(f'[processes.a{number}]\ncommand = "sleep 1000"\n' for number in range(20)))
    begun = time.monotonic()
    ox("start")
    assert time.monotonic() - begun < 2


def test_as_many_instances_as_the_daemon_may_use_cpus(empty: Ox) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) == 1:
        pytest.skip("this host has one CPU")
    empty.home.wrap = ["taskset", "--cpu-list", str(cpus[0])]
    empty.home.start_daemon()
    empty.oxfile('[processes.a]\ncommand = "sleep 1000"\ninstances = "max"\n')
    empty("apply")
    empty("start", "sleep 1000", "--name", "b", "-i", "max")
    assert sorted(empty.home.views()) == ["a", "b"]

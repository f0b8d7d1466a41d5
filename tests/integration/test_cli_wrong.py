"""What bad input gets: exit 2, the thing named, nothing registered, and no daemon started."""

from pathlib import Path

import pytest

from tests.integration.conftest import Ox


def refused(ox: Ox, *words: str) -> str:
    """What is said; nothing has happened."""
    done = ox(*words, code=2)
    assert not done.stdout and done.stderr.startswith("oxmgr: "), done
    assert ox.daemon() is None and not (ox.home.folder / "state").exists()
    return done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("start nosuch", "nosuch"),
        ("start nosuch.py", "nosuch.py"),
        ("start ./nosuch", "./nosuch"),
        ("start sleep --cwd /no/such", "/no/such"),
        ("start --config nosuch.toml", "nosuch.toml"),
        ("start nosuch.toml", "nosuch.toml"),
        ("apply nosuch.toml", "nosuch.toml"),
        ("start", "oxfile.toml"),
        ("start x.rb", "ruby"),
        ("start plain", "plain is not executable"),
        ("start sleep --name a/b", "has a slash"),
        ("start sleep --name all", "all"),
        ("start sleep --namespace a:b", "has a colon"),
        ("start sleep -i 0", "--instances"),
        ("start sleep -i -1", "--instances"),
        ("start sleep -i many", "many"),
        ("start sleep -e NOVALUE", "NOVALUE"),
        ("start sleep --restart sometimes", "always, on-failure, never"),
        ("start sleep --schedule @sometimes", "@sometimes"),
        ("start sleep --cron-restart @sometimes", "--cron-restart"),
        ("start sleep --cron=", "--cron-restart"),
        ("start sleep --schedule @daily --cron @daily", "either run at its times, or restarted"),
        ("start sleep --schedule @daily --restart always", "has no end"),
        ("start sleep --watch=nix", "nix is not there"),
        ("start --watch", "--watch is for a script or command"),
        ("start --schedule @daily", "--schedule is for a script or command"),
        ("start sleep --nmae x", "did you mean --name?"),
        ("start sleep --port 80", "behind --"),
        ("start sleep --name x --name y", "twice"),
        ("start sleep --name", "needs a value"),
        ("start sleep --foreground=yes", "takes no value"),
        ("lst", "did you mean list?"),
        ("strat", "did you mean start?"),
        ("frobnicate", "oxmgr --help"),
        ("--json list", "behind"),
        ("signal TREM app", "did you mean TERM?"),
        ("signal 65 app", "no signal 65"),
        ("signal HUP", "SIGNAL TARGET"),
        ("scale app", "NAME N"),
        ("stop", "stop needs a name"),
        ("list --bogus", "--bogus"),
        ("logs -n x", "'x'"),
        ("logs -n -1", "'-1'"),
        (f"logs -n {'9' * 5000}", "at most"),
        ("daemon", "run|stop|reexec|status"),
        ("daemon up", "'up'"),
        ("completion tcsh", "bash, zsh, fish"),
        ("completion zhs", "did you mean zsh?"),
        ("help nosuch", "nosuch"),
        ("env a b", "'b'"),
    ],
)
def test_wrong_words_are_named_and_nothing_happens(empty: Ox, words: str, named: str) -> None:
    empty.file("x.rb", "")
    empty.file("plain", "text")
    assert named in refused(empty, *words.split(" "))


def test_names_that_no_app_can_have(empty: Ox) -> None:
    assert "has a newline" in refused(empty, "start", "sleep 1", "--name", "a\nb")
    told = refused(empty, "start", "sleep 1", "--name", "a" * 300)
    assert "300 characters" in told and len(told) < 300
    assert "is empty" in refused(empty, "start", "sleep 1", "--name", "")


APP = '[processes.app]\ncommand = "sleep 1"\n'


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ('[processes.app]\ncommand = "nosuch --x"\n', 2, "there is no program nosuch"),
        ('[processes.app]\ncommand = "./nosuch"\n', 2, "nosuch does not exist"),
        (APP + 'working_dir = "/no/such"\n', 3, "/no/such"),
        (APP + 'env_file = "nosuch.env"\n', 3, "nosuch.env"),
        (APP + "instances = 0\n", 3, "got 0"),
        (APP + "stop_timeout_ms = -1\n", 3, "got -1"),
        (APP + 'stop_signal = "SIGFOO"\n', 3, "SIGFOO"),
        (APP + 'depends_on = ["app"]\n', 3, "in a circle: app → app"),
        (APP + 'depends_on = ["b"]\n[processes.b]\ncommand = "sleep 1"\ndepends_on = ["app"]\n', 3, "app → b → app"),
        (APP + "[processes.'a/b']\ncommand = 'sleep 1'\n", 3, "has a slash"),
        (APP + '[processes."a\\nb"]\ncommand = "sleep 1"\n', 3, "has a newline"),
        (APP + f"[processes.{'a' * 300}]\ncommand = 'sleep 1'\n", 3, "300 characters"),
        (APP + "restrat_on_exit = true\n", 3, "did you mean restart_on_exit?"),
        (APP + '[processes.app]\ncommand = "sleep 2"\n', 3, ""),
        (APP + "max_restarts = [\n", 4, "not TOML"),
        ('[processes.app]\ncommand = "sleep 1\n', 2, "not TOML"),
    ],
)
@pytest.mark.parametrize("command", ["start", "apply", "validate"])
def test_an_oxfile_with_an_error_is_named_by_file_and_line(
    empty: Ox, text: str, line: int, told: str, command: str
) -> None:
    path = empty.oxfile(text)
    said = refused(empty, command)
    assert f"oxmgr: {path}:{line}" in said and told in said
    if "not TOML" in said:
        column = said.split(f"{path}:{line}:")[1].split(":")[0]
        assert column.isdigit()


def test_nothing_is_started_from_a_file_with_an_error(ox: Ox) -> None:
    ox.oxfile(APP + "[processes.bad]\ncommand = 'nosuch'\n")
    ox("start", code=2)
    assert ox.json("list") == []


def test_a_port_may_be_a_number(ox: Ox) -> None:
    ox.oxfile('[processes.app]\ncommand = "sleep 1000"\nenv = { PORT = 3000, DEBUG = true }\n')
    ox("start")
    env = ox.json("env", "app")
    assert (env["PORT"], env["DEBUG"]) == ("3000", "true")


def test_a_cycle_with_what_runs_already_is_refused_as_well(ox: Ox) -> None:
    ox.oxfile('[processes.a]\ncommand = "sleep 1000"\ndepends_on = ["b"]\n[processes.b]\ncommand = "sleep 1000"\n')
    ox("start")
    ox("start", "sleep 1000", "--name", "a", "--dry-run")
    ox.file("b.toml", APP.replace("app", "b") + 'depends_on = ["a"]\n[processes.a]\ncommand = "sleep 1000"\n')
    for words in (["apply", "b.toml", "--only", "b"], ["start", "b.toml", "--only", "b"]):
        assert "depends_on goes in a circle: " in ox(*words, code=2).stderr


def test_an_app_that_is_not_there_gets_4_and_the_nearest_name(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "web")
    commands = ["stop wbe", "restart wbe", "delete wbe", "reset wbe", "scale wbe 2", "env wbe", "signal HUP wbe"]
    for command in [*commands, "list wbe", "status wbe", "logs wbe", "events wbe", "send wbe x", "stop web wbe"]:
        done = ox(*command.split(), code=4)
        assert "wbe" in done.stderr and "did you mean web?" in done.stderr and not done.stdout, command
    assert ox.json("list")[0]["status"] == "running"


def test_start_of_what_is_nearly_known_says_what_was_meant(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "web")
    assert "did you mean web?" in ox("start", "wbe", code=2).stderr
    ox.oxfile('[processes.later]\ncommand = "sleep 1000"\n')
    assert "oxmgr start --only later" in ox("start", "later", code=2).stderr


def test_bytes_that_are_no_text_are_refused_and_not_lost(ox: Ox) -> None:
    done = ox("start", "sleep 1000", "-e", "A=\udcff", code=2)
    assert "not UTF-8" in done.stderr
    assert ox.json("list") == []


def test_a_home_that_is_no_folder_is_named(empty: Ox) -> None:
    empty.env["OXMGR_HOME"] = "/dev/null/x"
    for words in (["list"], ["start", "sleep 1"], ["stop", "x"]):
        assert "/dev/null/x" in empty(*words, code=3).stderr
    assert not Path("/dev/null/x").exists()

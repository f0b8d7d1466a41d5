"""What is said of an oxfile that is wrong."""

import json
from pathlib import Path

import pytest

from oxmgr.config.errors import ConfigError
from oxmgr.config.keys import LATER, LATER_TOP
from oxmgr.config.oxfile import load_oxfile
from tests.unit.config.conftest import Load, Problems, program

READY_HELP = (
    'expected one of "started", "notify", "node", "listen", "fd:", "tcp:", "http://", "log:", "command:", got "notfy"'
    "; did you mean notify?"
)

APP = '[processes.app]\ncommand = "sleep 1"\n'

SLASH = "has a slash; letters, digits, '.', '_' and '-' may be used"

WRONG_VALUES = [
    ('command = ""', "command", "is empty"),
    ("command = []", "command", "names no program"),
    ("command = 1", "command", "expected a string or an array of strings, got 1"),
    ("command = ['a', 1]", "command", "expected a string or an array of strings, got an array"),
    ('''command = "echo 'a"''', "command", "cannot be split into words: no closing quotation"),
    ('command = "sleep 1\\u0000"', "command", "holds a NUL, which no program can be given"),
    ("instances = 0", "instances", "expected 1 to 10000, got 0"),
    ("instances = -1", "instances", "expected 1 to 10000, got -1"),
    ("instances = 10001", "instances", "expected 1 to 10000, got 10001"),
    ('instances = "two"', "instances", 'expected a number or "max", got "two"'),
    ("instances = 1.5", "instances", 'expected a number or "max", got 1.5'),
    ("instances = true", "instances", 'expected a number or "max", got true'),
    ("stop_timeout_ms = -1", "stop_timeout_ms", "expected 0 to 31536000000, got -1"),
    ("stop_timeout_ms = 1.5", "stop_timeout_ms", "expected a whole number, got 1.5"),
    ("restart_delay_ms = -5", "restart_delay_ms", "expected 0 to 31536000000, got -5"),
    ("restart_window_secs = 'x'", "restart_window_secs", 'expected a number, got "x"'),
    ("max_restarts = []", "max_restarts", "expected a whole number, got an array"),
    ('restart_on_exit = "yes"', "restart_on_exit", 'expected true or false, got "yes"'),
    (
        'restart = "alway"',
        "restart",
        'expected one of "always", "on-failure", "never", got "alway"; did you mean always?',
    ),
    ("stop_mode = 1", "stop_mode", 'expected one of "group", "main", "tree", got 1'),
    ('stop_signal = "SIGTREM"', "stop_signal", 'there is no signal "SIGTREM"; did you mean SIGTERM?'),
    ("stop_signal = 99", "stop_signal", "there is no signal 99"),
    ("stop_signal = true", "stop_signal", "there is no signal true"),
    ("stop_exit_codes = 1", "stop_exit_codes", "expected an array of exit codes, got 1"),
    ("stop_exit_codes = [256]", "stop_exit_codes", "expected 0 to 255, got 256"),
    ("stop_exit_codes = ['a']", "stop_exit_codes", 'expected an exit code, got "a"'),
    ("env = 1", "env", "expected a table of variables, got 1"),
    ("env = { A = [] }", "env.A", "expected a string, number or boolean, got an array"),
    ('env = { "A=B" = "1" }', 'env."A=B"', "'A=B' cannot be a variable's name"),
    ('env = { A = "$NOT_SET" }', "env.A", "$NOT_SET is not set in your environment: set it, or write $$ for a $"),
    ('env = { A = "\\u0000" }', "env.A", "a variable cannot hold a NUL"),
    (
        "health_check = {}",
        "health_check",
        'asks nothing: write endpoint = "http://…", tcp = PORT or command = "…"',
    ),
    ("working_dir = 1", "working_dir", "expected a path, got 1"),
    ('log_file = ""', "log_file", 'expected a path, got ""'),
    ('namespace = "a/b"', "namespace", f"the namespace 'a/b' {SLASH}"),
    ("depends_on = 1", "depends_on", 'expected names, or a table of them like { db = "started" }, got 1'),
    ('depends_on = { app = "up" }', "depends_on", 'app: expected "started", "ready" or "exited", got "up"'),
    ('ready = "notfy"', "ready", READY_HELP),
    ('ready = "fd:1"', "ready", "fd: expected a number from 3 to 1023, for the first three are in use, got '1'"),
    ('ready = "tcp:99999"', "ready", "expected a port from 1 to 65535, alone or as host:port, got '99999'"),
    ('ready = "http:///x"', "ready", "expected http://host:port/path, got 'http:///x'"),
    ('ready = "https://localhost"', "ready", "https is not asked: use the app's http port, or command:curl …"),
    ('ready = "log:(up"', "ready", "'(up' is no regular expression: missing ), unterminated subpattern at position 0"),
    ('ready = "command: "', "ready", "command: needs a command behind it"),
    ('ready = "node"', "ready", '"node" is for Node apps, and sleep is none: use "notify" or "fd:3"'),
    ("disabled = 1", "disabled", "expected true or false, got 1"),
    ("profiles = 1", "profiles", "expected a table, got 1"),
    (
        'restart = "never"\nrestart_on_exit = true',
        "restart_on_exit",
        "says 'always', but restart says 'never': write one of them",
    ),
    ('cwd = "/"\nworking_dir = "/"', "cwd", "is the same as working_dir: write one of them"),
]


@pytest.mark.parametrize(("text", "key", "message"), WRONG_VALUES, ids=[text for text, *_ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line_and_what_was_expected(
    problems: Problems, text: str, key: str, message: str
) -> None:
    command = "" if key == "command" else 'command = "sleep 1"\n'
    told = problems(f"# a comment\n[processes.app]\n{command}\n{text}\n")
    line = 3 + command.count("\n") + 1 + (1 if key == "restart_on_exit" and "\n" in text else 0)
    assert told == [f"{line}: processes.app.{key}: {message}"]


def test_all_mistakes_are_told_at_once(problems: Problems) -> None:
    text = '[processes.a]\ncommand = "sleep 1"\ninstances = 0\nqqq = 1\n[processes.b]\ncommand = ""\n'
    assert problems(text) == [
        "4: processes.a.qqq: unknown key",
        "3: processes.a.instances: expected 1 to 10000, got 0",
        "6: processes.b.command: is empty",
    ]


def test_a_mistake_hides_no_other_of_the_same_app(problems: Problems, folder: Path) -> None:
    text = """[processes.a]
command = "nosuch"
env = { P = "$UNSET" }
depends_on = ["nope"]
limits = { memory_mb = 300, memory_max_mb = 200, tasks_max = 0 }
sandbox = { umask = 27, user = "nobody at all" }
[processes.b]
working_dir = "nosuch"
depends_on = ["c"]
[processes.c]
command = "nosuch"
instances = 0
depends_on = ["b"]
"""
    keys = [line.split(": ")[1] for line in problems(text)]
    assert keys == [
        "processes.a.env.P",
        "processes.a.limits.tasks_max",
        "processes.a.sandbox.umask",
        "processes.a.limits.memory_mb",
        "processes.a.sandbox.user",
        "processes.a.command",
        "processes.b",
        "processes.b.working_dir",
        "processes.c.instances",
        "processes.c.command",
        "processes.a.depends_on",
        "processes.b.depends_on",
    ]


@pytest.mark.parametrize("text", ["working_dir = 1", "env_file = 1", 'env = { PATH = "$UNSET" }'])
def test_where_it_is_not_known_where_a_program_is_looked_for_none_is_missed(problems: Problems, text: str) -> None:
    (told,) = problems(f'[processes.app]\ncommand = "nosuch"\n{text}\n')
    assert told.startswith("3:")


def test_a_script_whose_interpreter_is_not_there_is_refused(problems: Problems, folder: Path) -> None:
    program(folder, "bad", "#!/nosuch/x\n")
    (told,) = problems('[processes.app]\ncommand = "./bad --now"\n')
    assert told.startswith(
        f"2: processes.app.command: {folder}/./bad is to be run by /nosuch/x, as its first line says"
    )


def test_a_value_that_is_wrong_in_the_defaults_is_told_once_and_there(problems: Problems) -> None:
    text = f'[defaults]\nstop_timeout_ms = -1\n{APP}[processes.b]\ncommand = "sleep 1"\n'
    assert problems(text) == ["2: defaults.stop_timeout_ms: expected 0 to 31536000000, got -1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("instnaces = 2", "unknown key; did you mean instances?"),
        ("Command = 2", "unknown key; did you mean command?"),
        ("restart_delay = 2", "unknown key; did you mean restart_delay_ms?"),
        ("zzz = 2", "unknown key"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(problems: Problems, text: str, told: str) -> None:
    assert problems(APP + text + "\n") == [f"3: processes.app.{text.split()[0]}: {told}"]


@pytest.mark.parametrize("key", sorted(LATER))
def test_a_key_of_a_later_version_is_refused_as_that(problems: Problems, key: str) -> None:
    told = [f"3: processes.app.{key}: is not in this version of oxmgr: take it out"]
    assert problems(f"{APP}{key} = 1\n") == told
    assert problems(f"{APP}[processes.app.{key}]\nx = 1\n") == told


@pytest.mark.parametrize("key", sorted(LATER_TOP))
def test_so_is_one_at_the_top(problems: Problems, key: str) -> None:
    assert problems(f"{key} = 1\n{APP}") == [f"1: {key}: is not in this version of oxmgr: take it out"]


def test_an_unknown_key_at_the_top(problems: Problems) -> None:
    assert problems(f"{APP}[process.other]\n") == ["3: process: unknown key; did you mean processes?"]


@pytest.mark.parametrize("key", ["command", "profiles", "disabled"])
def test_what_only_an_app_can_have_is_refused_in_the_defaults(problems: Problems, key: str) -> None:
    assert problems(f"[defaults]\n{key} = 1\n{APP}")[0] == (
        f"2: defaults.{key}: makes no sense here: put it in the app's own table"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a/b", f"the name 'a/b' {SLASH}"),
        ("a\nb", "the name 'a\\nb' has a newline; letters, digits, '.', '_' and '-' may be used"),
        ("a b", "the name 'a b' has a space; letters, digits, '.', '_' and '-' may be used"),
        ("a:1", "the name 'a:1' has a colon; letters, digits, '.', '_' and '-' may be used"),
        ("é", "the name 'é' has 'é'; letters, digits, '.', '_' and '-' may be used"),
        ("..", "the name '..' starts with '.'; the first character must be a letter or a digit"),
        ("-a", "the name '-a' starts with '-'; the first character must be a letter or a digit"),
        ("", "the name '' is empty"),
        ("all", "the name 'all' is the word for every app"),
        ("x" * 300, f"the name {'x' * 64 + '…'!r} has 300 characters, 64 are the most"),
    ],
)
def test_a_name_that_cannot_be_one(problems: Problems, name: str, told: str) -> None:
    quoted = json.dumps(name if len(name) < 70 else f"{name[:64]}…", ensure_ascii=False)
    key = name if name in ("all", "-a") else quoted
    assert problems(f'[processes.{json.dumps(name)}]\ncommand = "sleep 1"\n') == [f"1: processes.{key}: {told}"]


def test_the_same_name_twice_is_an_error_of_toml(problems: Problems) -> None:
    (told,) = problems(APP + APP)
    assert told.startswith("3:") and "not TOML" in told and "processes" in told


def test_a_cycle_is_told_whole(problems: Problems) -> None:
    text = "".join(
        f'[processes.{name}]\ncommand = "sleep 1"\ndepends_on = ["{needs}"]\n' for name, needs in ("ab", "bc", "ca")
    )
    assert problems(text) == ["3: processes.a.depends_on: goes in a circle: a → b → c → a"]
    assert problems(APP + 'depends_on = ["app"]\n') == ["3: processes.app.depends_on: goes in a circle: app → app"]


def test_a_dependency_that_is_not_there_or_disabled(problems: Problems) -> None:
    assert problems(APP + 'depends_on = ["ap"]\n') == [
        "3: processes.app.depends_on: there is no app ap; did you mean app?"
    ]
    off = '[processes.off]\ncommand = "sleep 1"\ndisabled = true\n'
    assert problems(APP + 'depends_on = ["off"]\n' + off) == ["3: processes.app.depends_on: off is disabled"]


def test_what_is_not_there_is_named(problems: Problems, folder: Path, environ: dict[str, str]) -> None:
    path = environ["PATH"]
    assert problems('[processes.app]\ncommand = "nosuch --x"\n') == [
        f"2: processes.app.command: there is no program nosuch in its PATH ({path})"
    ]
    assert problems('[processes.app]\ncommand = "./nosuch"\n') == [
        f"2: processes.app.command: {folder}/./nosuch does not exist"
    ]
    (folder / "plain").write_text("")
    assert problems('[processes.app]\ncommand = "./plain"\n') == [
        f"2: processes.app.command: {folder}/./plain is not executable: chmod +x it"
    ]
    assert problems('[processes.app]\ncommand = "./"\n') == [f"2: processes.app.command: {folder}/./ is a folder"]
    assert problems(APP + 'working_dir = "nosuch"\n') == [
        f"3: processes.app.working_dir: the folder {folder}/nosuch does not exist"
    ]
    assert problems(APP + 'env_file = ".env"\n') == [
        f"3: processes.app.env_file: {folder}/.env: cannot be read: No such file or directory"
    ]


def test_the_apps_own_path_is_where_its_program_is_looked_for(load: Load, folder: Path) -> None:
    program(folder / "tools", "mine")
    assert load(f'[processes.a]\ncommand = "mine"\nenv = {{ PATH = "{folder}/tools" }}\n')["a"].argv == ["mine"]


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("[processes.app\n", "1:15", "expected ']'"),
        ('[processes.app]\ncommand = "a\n', "2:13", "illegal character"),
        ("[processes.app]\ncommand = \n", "2:11", "invalid value"),
        ("a", "1:2", "expected '='"),
    ],
)
def test_what_is_not_toml_is_told_with_line_and_column(problems: Problems, text: str, place: str, told: str) -> None:
    (line,) = problems(text)
    assert line.startswith(f"{place}: not TOML: ") and told in line


def test_a_file_that_is_no_text(folder: Path, environ: dict[str, str]) -> None:
    path = folder / "oxfile.toml"
    path.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError, match=r"oxfile\.toml:2: is not UTF-8 text"):
        load_oxfile(str(path), environ=environ)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_oxfile(str(folder), environ=environ)


@pytest.mark.parametrize("text", ["", "[defaults]\ninstances = 2\n", "[processes]\n"])
def test_a_file_without_an_app_says_how_to_write_one(problems: Problems, text: str) -> None:
    (told,) = problems(text)
    assert told.endswith("no app: write a [processes.NAME] table with a command")


def test_an_app_without_a_command(problems: Problems) -> None:
    assert problems("\n[processes.app]\ninstances = 2\n") == ["2: processes.app: has no command: write what to run"]


def test_a_profile_or_app_that_the_words_name_and_the_file_has_not(problems: Problems, load: Load) -> None:
    text = APP + "profiles.staging = {}\n"
    assert problems(text, profile="prod") == ["--env prod: no app has that profile; it has staging"]
    assert problems(APP, profile="prod") == ["--env prod: no app has that profile; it has none"]
    assert problems(APP, only=["ap"]) == ["--only ap: there is no such app; did you mean app?"]
    assert load(text, profile="staging")


def test_a_mistake_in_a_profile_that_was_not_chosen_is_told_too(problems: Problems) -> None:
    assert problems(APP + "[processes.app.profiles.x]\nqqq = 1\n") == ["4: processes.app.profiles.x.qqq: unknown key"]

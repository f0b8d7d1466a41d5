"""What users write in an oxfile, and what becomes of it."""

from pathlib import Path

import pytest

from oxmgr.config.errors import ConfigError
from oxmgr.config.keys import KEYS
from oxmgr.config.oxfile import find_oxfile, load_for_container
from oxmgr.model.spec import Spec
from tests.unit.config.conftest import Load, Problems

APP = '[processes.app]\ncommand = "sleep 1"\n'

API = """
[processes.api]
command = "node dist/server.js"
instances = 2
env = { NODE_ENV = "production", PORT = "3000" }
restart_delay_ms = 100
"""


def test_the_first_example_that_everybody_copies(load: Load, folder: Path) -> None:
    assert load(API) == {
        "api": Spec(
            "api",
            "node dist/server.js",
            ["node", "dist/server.js"],
            str(folder),
            instances=2,
            env={"NODE_ENV": "production", "PORT": "3000"},
            restart_delay_ms=100,
        )
    }


def test_the_second(load: Load) -> None:
    spec = load('[processes.app]\ncommand = "node server.js"\nrestart_on_exit = true\n')["app"]
    assert (spec.restart, spec.instances) == ("always", 1)


def test_every_key_arrives(load: Load, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "vars").write_text("A=file\nB=file\n")
    text = """
    [processes.db]
    command = "sleep 1"
    [processes.app]
    command = ["node", "a b.js"]
    working_dir = "sub"
    instances = 3
    env = { A = "1", N = 3000, F = 1.5, T = true, X = false }
    env_file = "vars"
    restart = "always"
    stop_exit_codes = [0, 75]
    restart_delay_ms = 5
    restart_delay_max_ms = 1000
    restart_window_secs = 1.5
    max_restarts = 7
    start_delay_ms = 9
    depends_on = { db = "exited" }
    stop_signal = "INT"
    stop_timeout_ms = 1234
    stop_mode = "tree"
    namespace = "web"
    log_file = "out.log"
    error_log_file = "/tmp/err.log"
    """
    assert load(text)["app"] == Spec(
        name="app",
        command="node 'a b.js'",
        argv=["node", "a b.js"],
        working_dir=str(folder / "sub"),
        instances=3,
        env={"A": "1", "B": "file", "N": "3000", "F": "1.5", "T": "true", "X": "false"},
        restart="always",
        stop_exit_codes=[0, 75],
        restart_delay_ms=5,
        restart_delay_max_ms=1000,
        restart_window_secs=1.5,
        max_restarts=7,
        start_delay_ms=9,
        depends_on={"db": "exited"},
        stop_signal=2,
        stop_timeout_ms=1234,
        stop_mode="tree",
        namespace="web",
        log_file=str(folder / "out.log"),
        error_log_file="/tmp/err.log",
    )


def test_the_defaults_are_those_of_the_table_of_keys(load: Load) -> None:
    spec = load(APP)["app"]
    shown = {
        "instances": str(spec.instances),
        "restart": spec.restart,
        "restart_delay_max_ms": str(spec.restart_delay_max_ms),
        "restart_window_secs": f"{spec.restart_window_secs:g}",
        "max_restarts": str(spec.max_restarts),
        "start_delay_ms": str(spec.start_delay_ms),
        "stop_timeout_ms": str(spec.stop_timeout_ms),
        "stop_mode": spec.stop_mode,
        "namespace": spec.namespace,
    }
    assert {name: KEYS[name].default for name in shown} == shown
    assert (spec.stop_signal, KEYS["stop_signal"].default) == (15, "SIGTERM")
    assert (spec.restart_delay_ms, KEYS["restart_delay_ms"].default) == (None, "absent")


# --- layers ---


def test_defaults_then_the_app_then_its_profile(load: Load) -> None:
    text = """
    [defaults]
    instances = 2
    max_restarts = 5
    env = { A = "default", B = "default", C = "default" }
    [processes.app]
    command = "sleep 1"
    instances = 3
    env = { B = "app", C = "app" }
    [processes.app.profiles.production]
    instances = 4
    env = { C = "production" }
    [processes.other]
    command = "sleep 1"
    """
    plain, chosen = load(text), load(text, profile="production")
    assert (plain["app"].instances, plain["app"].max_restarts) == (3, 5)
    assert plain["app"].env == {"A": "default", "B": "app", "C": "app"}
    assert chosen["app"].instances == 4
    assert chosen["app"].env == {"A": "default", "B": "app", "C": "production"}
    assert chosen["other"] == plain["other"], "an app without that profile is as it was"
    assert (plain["other"].instances, plain["other"].env["A"]) == (2, "default")


def test_an_app_may_spell_the_restart_policy_otherwise_than_the_defaults(load: Load) -> None:
    text = '[defaults]\nrestart_on_exit = true\n[processes.app]\ncommand = "sleep 1"\nrestart = "never"\n'
    assert load(text)["app"].restart == "never"


def test_cwd_is_working_dir(load: Load) -> None:
    assert load(APP + 'cwd = "/"\n')["app"].working_dir == "/"


def test_a_file_of_variables_yields_to_the_app(load: Load, folder: Path) -> None:
    (folder / ".env").write_text("A=file\nB=file\n")
    assert load(APP + 'env_file = ".env"\nenv = { B = "app" }\n')["app"].env == {"A": "file", "B": "app"}


def test_variables_and_home_expand_in_values_and_paths(load: Load, environ: dict[str, str], folder: Path) -> None:
    environ |= {"WHERE": str(folder), "NAME": "x"}
    spec = load(APP + 'env = { A = "$NAME-${NAME}-$$NAME", H = "~/a" }\nlog_file = "$WHERE/${NAME}.log"\n')["app"]
    assert spec.env == {"A": "x-x-$NAME", "H": "/home/someone/a"}
    assert spec.log_file == f"{folder}/x.log"


def test_depends_on_is_a_list_or_says_until_when(load: Load) -> None:
    others = '[processes.a]\ncommand = "sleep 1"\n[processes.b]\ncommand = "sleep 1"\n'
    assert load(APP + 'depends_on = ["a", "b"]\n' + others)["app"].depends_on == {"a": "started", "b": "started"}
    assert load(APP + 'depends_on = { a = "exited" }\n' + others)["app"].depends_on == {"a": "exited"}


def test_dependencies_come_first_and_otherwise_the_order_of_the_file(load: Load) -> None:
    text = "".join(
        f'[processes.{name}]\ncommand = "sleep 1"\ndepends_on = {needs}\n'
        for name, needs in (
            ("web", '["api"]'),
            ("api", '["db", "cache"]'),
            ("log", "[]"),
            ("cache", "[]"),
            ("db", "[]"),
        )
    )
    assert list(load(text)) == ["db", "cache", "api", "web", "log"]


def test_disabled_leaves_an_app_out(load: Load) -> None:
    assert list(load(APP + '[processes.off]\ncommand = "sleep 1"\ndisabled = true\n')) == ["app"]


def test_a_profile_can_enable_an_app(load: Load) -> None:
    text = APP + '[processes.off]\ncommand = "sleep 1"\ndisabled = true\nprofiles.full = { disabled = false }\n'
    assert list(load(text, profile="full")) == ["app", "off"]


def test_only_takes_the_apps_that_it_names(load: Load) -> None:
    text = APP + '[processes.b]\ncommand = "sleep 1"\n[processes.c]\ncommand = "sleep 1"\n'
    assert list(load(text, only=["c", "app"])) == ["app", "c"]


def test_shell_syntax_needs_a_shell_and_plain_words_do_not(load: Load) -> None:
    assert load('[processes.a]\ncommand = "sleep 1 | cat"\n')["a"].argv == ["/bin/sh", "-c", "sleep 1 | cat"]
    assert load("""[processes.a]\ncommand = "sleep '1 2'"\n""")["a"].argv == ["sleep", "1 2"]


# --- where it is looked for ---


def test_the_file_here_wins_then_the_users(tmp_path: Path) -> None:
    here, user = tmp_path / "here", tmp_path / "config" / "oxmgr"
    here.mkdir()
    user.mkdir(parents=True)
    (user / "oxfile.toml").write_text("")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}
    assert find_oxfile(None, str(here), environ) == f"{user}/oxfile.toml"
    (here / "oxfile.toml").write_text("")
    assert find_oxfile(None, str(here), environ) == f"{here}/oxfile.toml"
    assert find_oxfile("oxfile.toml", str(here), environ) == f"{here}/oxfile.toml"


def test_none_anywhere_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no oxfile\.toml here, nor at .*/\.config/oxmgr/oxfile\.toml, nor at /etc.*init"
    ):
        find_oxfile(None, str(tmp_path), {"HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"other\.toml: there is no such file"):
        find_oxfile("other.toml", str(tmp_path), {})


def test_exit_when_is_any_all_or_an_app(folder: Path, environ: dict[str, str], problems: Problems) -> None:
    def read(text: str) -> str:
        (folder / "oxfile.toml").write_text(text)
        return load_for_container(str(folder / "oxfile.toml"), environ=environ)[1]

    assert read(APP) == "all"
    for word in ("any", "all", "app"):
        assert read(f'exit_when = "{word}"\n{APP}') == word
    assert problems(f'exit_when = "apq"\n{APP}') == ["1: exit_when: there is no app apq; did you mean app?"]
    assert "expected" in problems(f"exit_when = 1\n{APP}")[0]


def test_in_a_container_lines_go_to_stdout_unless_the_file_says_where(folder: Path, environ: dict[str, str]) -> None:
    (folder / "oxfile.toml").write_text(
        "[processes.a]\ncommand = 'sleep 1'\n"
        "[processes.b]\ncommand = 'sleep 1'\nlog_file = 'b.log'\n"
        "[processes.c]\ncommand = 'sleep 1'\nlogs.sink = 'file'\n"
        "[processes.d]\ncommand = 'sleep 1'\nlogs.format = 'json'\n"
    )
    specs, _ = load_for_container(str(folder / "oxfile.toml"), environ=environ)
    assert {spec.name: spec.logs.sink for spec in specs} == {"a": "stdout", "b": "file", "c": "file", "d": "file"}

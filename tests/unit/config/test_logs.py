"""`[processes.NAME.logs]`, `log_file`, `error_log_file`."""

from pathlib import Path

import pytest

from oxmgr.config.keys import TABLES
from oxmgr.model.logpaths import log_paths, shared_logs
from oxmgr.model.spec import DEFAULT_LOGS, Logs, Spec
from tests.unit.config.conftest import Load, Problems

APP = '[processes.app]\ncommand = "sleep 1"\n'
LOGS = f"{APP}[processes.app.logs]\n"


def test_every_key_arrives(load: Load) -> None:
    text = """
    max_size_mb = 0.5
    max_files = 0
    max_days = 0
    compress = false
    format = "cri"
    sink = "file"
    on_full = "drop"
    rate_limit = 1000
    """
    found = load(LOGS + text)["app"].logs
    assert found == Logs(0.5, 0, 0.0, False, "cri", "file", "drop", 1000)
    assert set(TABLES["logs"]) == set(Logs.__struct_fields__)


def test_without_a_table_the_defaults_hold_and_one_key_keeps_the_others(load: Load) -> None:
    assert load(APP)["app"].logs == DEFAULT_LOGS
    assert load(LOGS + "max_files = 9")["app"].logs == Logs(max_files=9)


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("max_size_mb = -1", "max_size_mb", "expected 0 to"),
        ("max_files = 1.5", "max_files", "expected a whole number, got 1.5"),
        ('format = "xml"', "format", 'expected one of "raw", "cri", "json", got "xml"'),
        ('sink = "journal"', "sink", 'got "journal"; did you mean journald?'),
        ("rate_limit = 0", "rate_limit", "expected 1 to"),
        ('format = "json"\nsink = "journald"', "format", 'format = "json" is for files, and sink is "journald"'),
        ('rate_limit = 5\nsink = "none"', "rate_limit", "nothing passes through oxmgr"),
        ("max_size = 5", "max_size", "unknown key"),
    ],
)
def test_mistakes_are_told(problems: Problems, text: str, key: str, why: str) -> None:
    (problem,) = problems(LOGS + text)
    assert key in problem and why in problem


def spec(name: str, **keys: object) -> Spec:
    return Spec(name, "x", ["x"], "/", **keys)  # type: ignore[arg-type]


def test_instances_number_their_files_before_the_ending() -> None:
    app = spec("api", log_file="/var/log/api.log", instances=2)
    assert log_paths(app, 0, "/logs") == ("/var/log/api.log",) * 2
    assert log_paths(app, 1, "/logs") == ("/var/log/api:1.log",) * 2
    assert log_paths(spec("api", instances=2), 1, "/logs") == ("/logs/api:1.out.log", "/logs/api:1.err.log")
    assert log_paths(spec("api", log_file="/dev/null"), 1, "/logs") == ("/dev/null", "/dev/null")


def shared(*specs: Spec) -> list[tuple[str, str, str]]:
    """In a world where /link is a name of /real."""
    found = shared_logs(list(specs), "/logs", lambda folder: folder.replace("/link", "/real"))
    return [(path, one[0], other[0]) for path, one, other in found]


def test_a_file_that_two_apps_would_write_to_is_found() -> None:
    one = spec("one", log_file="/x.log", instances=2)
    assert shared(one, spec("two", log_file="/y.log")) == []
    assert shared(one, spec("two", error_log_file="/x:1.log")) == [("/x:1.log", "one", "two")]
    assert shared(spec("a"), spec("b", error_log_file="/logs/a.err.log")) == [("/logs/a.err.log", "a", "b")]
    assert shared(spec("a", log_file="/dev/null"), spec("b", log_file="/dev/null")) == []
    assert shared(one, spec("two", log_file="/x.log", logs=Logs(sink="journald"))) == []


def test_and_so_is_one_by_another_name_and_the_daemons_own() -> None:
    behind = spec("behind", log_file="/link/x.log", error_log_file="/dev/null")
    there = spec("there", log_file="/real/x.log", error_log_file="/dev/null")
    assert shared(there, behind) == [("/link/x.log", "there", "behind")]
    for name in ("oxmgr.log", "oxmgr.log.1"):
        own = spec("own", log_file=f"/logs/{name}", error_log_file="/dev/null")
        assert shared(own) == [(f"/logs/{name}", "the daemon itself", "own")]


SHARED = """[processes.one]
command = "sleep 1"
log_file = "real/x.log"
error_log_file = "one.err"
[processes.two]
command = "sleep 1"
log_file = "two.log"
error_log_file = "{path}"
"""


@pytest.mark.parametrize("path", ["real/x.log", "real/../real/x.log", "link/x.log"])
def test_two_apps_with_one_file_are_told_with_line_and_names(problems: Problems, folder: Path, path: str) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (problem,) = problems(SHARED.format(path=path))
    where = f"{folder}/{path.replace('real/../', '')}"
    assert problem == (
        f"8: processes.two.error_log_file: one and two would both write to {where}: set another log_file"
    )


def test_a_shared_file_of_the_defaults_is_told_there_and_once_for_two_apps(problems: Problems) -> None:
    apps = "".join(f'[processes.{name}]\ncommand = "sleep 1"\ninstances = 3\n' for name in "ab")
    (problem,) = problems(f'[defaults]\nlog_file = "/x.log"\n{apps}')
    assert problem.startswith("2: defaults.log_file: a and b would both write to /x.log")


def test_the_log_of_another_app_and_of_the_daemon_are_no_log_of_this_one(
    problems: Problems, environ: dict[str, str]
) -> None:
    environ["OXMGR_HOME"] = "/srv/ox"
    other = f'{APP}[processes.b]\ncommand = "sleep 1"\nlog_file = "/srv/ox/logs/app.out.log"\n'
    assert "5: processes.b.log_file: app and b would both write to" in problems(other)[0]
    (problem,) = problems(f'{APP}log_file = "/srv/ox/logs/oxmgr.log"')
    assert "3: processes.app.log_file: the daemon itself and app would both write to" in problem


@pytest.mark.parametrize("key", ["log_file", "error_log_file"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/var/log/x.log~20260102T030405.000000006Z", "cannot have a ~, which rotated files have"),
        ("$TILDE.log", "cannot have a ~"),
        ("/var/log/x.log.idx", "cannot end in .idx, which the index beside a log does"),
    ],
)
def test_a_name_that_looks_like_a_file_of_another_log_is_refused(
    problems: Problems, environ: dict[str, str], key: str, name: str, why: str
) -> None:
    environ["TILDE"] = "a~b"
    (problem,) = problems(f'{APP}{key} = "{name}"')
    assert problem.startswith(f"3: processes.app.{key}: a log's name {why}")


def test_a_tilde_that_is_a_home_or_a_folders_is_none_of_the_name(load: Load) -> None:
    assert load(f'{APP}log_file = "~/x.log"')["app"].log_file == "/home/someone/x.log"
    assert load(f'{APP}log_file = "/srv/a~b/x.log"')["app"].log_file == "/srv/a~b/x.log"

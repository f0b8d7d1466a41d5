"""`[processes.NAME.logs]`, `log_file`, `error_log_file`."""

import pytest

from oxmgr.config.keys import TABLES
from oxmgr.model.spec import DEFAULT_LOGS, Logs, Spec, log_paths, shared_log
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


def test_a_file_that_two_apps_would_write_to_is_found() -> None:
    one = spec("one", log_file="/x.log", instances=2)
    assert shared_log([one, spec("two", log_file="/y.log")], "/logs") is None
    assert shared_log([one, spec("two", error_log_file="/x:1.log")], "/logs") == ("/x:1.log", "one", "two")
    assert shared_log([spec("a"), spec("b", log_file="/logs/a.err.log")], "/logs") == ("/logs/a.err.log", "a", "b")
    assert shared_log([spec("a", log_file="/dev/null"), spec("b", log_file="/dev/null")], "/logs") is None

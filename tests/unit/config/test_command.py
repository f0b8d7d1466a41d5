"""Which commands need a shell; held against the shell itself."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxmgr.config.command import needs_shell, parse_command, program_error


@pytest.mark.parametrize(
    "text",
    [
        "node server.js",
        "node 'a | b'",
        'node "a b" --x=1',
        "python3 -c 'print(1); print(2)'",
        "a\\ b",
        "echo a#b",
        "echo a~b",
        "env A=1 node server.js",
        "echo 'it''s'",
        "printf %s%%",
    ],
)
def test_words_run_directly(text: str) -> None:
    assert not needs_shell(text)


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "a && b",
        "a; b",
        "a > f",
        "a < f",
        "a &",
        "echo $HOME",
        'echo "$HOME"',
        "echo `date`",
        "echo *.js",
        "echo a?",
        "echo [ab]",
        "(a)",
        "a # comment",
        "~/bin/a",
        "echo ~",
        "A=1 node server.js",
        "cd x",
        "exec node x.js",
        ". ./env",
        "if true",
        "{ a",
        "! a",
        "a\nb",
    ],
)
def test_what_means_something_to_a_shell_gets_one(text: str) -> None:
    assert needs_shell(text)
    assert parse_command(text)[0] == ["/bin/sh", "-c", text]


pieces = st.sampled_from(
    ["a", "b c", " ", "'", '"', "\\", "|", "$", "#", "~", "*", "=", "x=", "-", "é", "\t", ";", "?"]
)


@given(st.lists(pieces, min_size=1, max_size=7).map("".join))
@settings(max_examples=150, deadline=None)
def test_what_runs_directly_gets_the_words_that_a_shell_would_have_made(tail: str) -> None:
    text = f"printf '%s\\n' {tail}"
    try:
        argv, _ = parse_command(text)
    except ValueError:
        return
    if argv[0] == "/bin/sh":
        return
    done = subprocess.run(["sh", "-c", text], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout == "".join(f"{word}\n" for word in argv[2:] or [""]).encode()


def test_an_array_is_run_as_it_stands_and_shown_as_it_could_be_typed() -> None:
    argv, shown = parse_command(["node", "a b.js", "$HOME", "*"])
    assert argv == ["node", "a b.js", "$HOME", "*"]
    assert shlex.split(shown) == argv


# --- scripts, and what their first line says ---


def error_of(folder: Path, first: str, *, path: str = "/usr/bin:/bin") -> str | None:
    script = folder / "script"
    script.write_bytes(f"{first}\necho never run\n".encode())
    script.chmod(0o755)
    return program_error(["./script"], str(folder), path)


@pytest.mark.parametrize(
    "first",
    [
        "#!/bin/sh",
        "#! /bin/sh -e",
        "#!/usr/bin/env sh",
        "#!/usr/bin/env -S sh -e",
        "#!/usr/bin/env -S A=1 sh",
        # What env makes of these is not known here, so they are let pass.
        "#!/usr/bin/env -i nosuch",
        "#!/usr/bin/env -S -u HOME nosuch",
        "#!/usr/bin/env -S",
        "#!",
        "no script at all",
    ],
)
def test_a_script_that_can_be_run_has_no_error(tmp_path: Path, first: str) -> None:
    assert error_of(tmp_path, first) is None


@pytest.mark.parametrize(
    ("first", "named"),
    [
        ("#!/nosuch/x", "run by /nosuch/x,"),
        ("#!/nosuch/x -u", "run by /nosuch/x,"),
        ("#!nosuch", "run by nosuch,"),
        ("#!/etc/passwd", "run by /etc/passwd,"),
        ("#!/usr/bin", "run by /usr/bin,"),
        ("#!/usr/bin/env nosuch", "run by nosuch,"),
        # To env, this is one word.
        ("#!/usr/bin/env sh -e", "run by sh -e,"),
        ("#!/usr/bin/env -S nosuch -e", "run by nosuch,"),
        ("#!/bin/sh\r", "ends with a carriage return"),
    ],
)
def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path, first: str, named: str) -> None:
    told = error_of(tmp_path, first)
    assert told is not None and named in told and f"{tmp_path}/./script" in told
    # The kernel, and env, say so too.
    done = subprocess.run(["sh", "-c", "exec ./script"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode in (126, 127)


def test_env_looks_in_the_path_that_the_app_will_have(tmp_path: Path) -> None:
    assert error_of(tmp_path, "#!/usr/bin/env mine") is not None
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    assert error_of(tmp_path, "#!/usr/bin/env mine", path=f"/bin:{tmp_path}") is None


def test_a_program_found_in_the_path_is_looked_into_as_well(tmp_path: Path) -> None:
    error_of(tmp_path, "#!/nosuch/x")
    told = program_error(["script"], "/", str(tmp_path))
    assert told is not None and "/nosuch/x" in told


def test_what_may_be_run_and_not_read_is_let_pass(tmp_path: Path) -> None:
    error_of(tmp_path, "#!/nosuch/x")
    (tmp_path / "script").chmod(0o111)
    # Root may read it all the same.
    assert (program_error(["./script"], str(tmp_path), "") is None) == (os.geteuid() != 0)


def test_of_a_long_path_only_the_beginning_is_shown() -> None:
    assert program_error(["nosuch"], "/", "/a:/b:/c") == "there is no program nosuch in its PATH (/a:/b:/c)"
    assert program_error(["nosuch"], "/", "/a:/b:/c:/d:/e") == (
        "there is no program nosuch in its PATH (/a:/b:/c and 2 more)"
    )

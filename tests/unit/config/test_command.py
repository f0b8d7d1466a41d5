"""Which commands need a shell; held against the shell itself."""

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxmgr.config.command import needs_shell, parse_command


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

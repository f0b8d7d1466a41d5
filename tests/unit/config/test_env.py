"""Variables in values, and files of variables."""

import shlex
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxmgr.config.env import expand, read_env_file
from oxmgr.config.errors import ConfigError

ENVIRON = {"A": "1", "LONG_NAME_2": "two", "EMPTY": "", "HOME": "/home/me", "WEIRD": "$A"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}b", "1b"),
        ("$LONG_NAME_2-x", "two-x"),
        ("[$EMPTY]", "[]"),
        ("$$A", "$A"),
        ("$$$A", "$1"),
        ("100%$", "100%$"),
        ("$ 5", "$ 5"),
        ("$1", "$1"),
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("a~", "a~"),
        ("~other/x", "~other/x"),
        ("$WEIRD", "$A"),
    ],
)
def test_what_expands_and_what_does_not(text: str, value: str) -> None:
    assert expand(text, ENVIRON) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("$NOPE", r"\$NOPE is not set"),
        ("${NOPE}", r"\$NOPE is not set"),
        ("${A", r"\$\{… is not a variable"),
        ("${A B}", r"\$\{A B is not a variable"),
        ("${}", r"\$\{ is not a variable"),
    ],
)
def test_what_cannot_be_expanded(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        expand(text, ENVIRON)


@given(st.text())
def test_doubled_dollars_make_any_text_stand_for_itself(text: str) -> None:
    literal = text.replace("$", "$$")
    assert expand(literal, {}) == text if not literal.startswith("~") else True


names = st.text(string.ascii_letters + "_", min_size=1, max_size=8)


@given(st.lists(names | st.sampled_from(["", "-", "."]), max_size=6))
def test_braces_expand_as_in_a_shell(parts: list[str]) -> None:
    environ = {part: part.swapcase() for part in parts if part.isidentifier()}
    text = "".join(f"${{{part}}}" if part in environ else part for part in parts)
    assert expand(text, environ) == "".join(environ.get(part, part) for part in parts)


def read(folder: Path, text: str) -> dict[str, str]:
    path = folder / ".env"
    path.write_text(text)
    return read_env_file(str(path))


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1\n", {"A": "1"}),
        ("# no\n\n  A = 1  \n", {"A": "1"}),
        ("export A=1\n", {"A": "1"}),
        ("A=\nB=x\n", {"A": "", "B": "x"}),
        ("A=a b  c\n", {"A": "a b  c"}),
        ("A=b # c\n", {"A": "b"}),
        ("A=b#c\n", {"A": "b#c"}),
        ("A=#c\n", {"A": ""}),
        ("A=x=y\n", {"A": "x=y"}),
        ("A='$B \\n # \"'\n", {"A": '$B \\n # "'}),
        ('A="a\\tb\\n\\"c\\" \\\\ \\$ # d" # e\n', {"A": 'a\tb\n"c" \\ $ # d'}),
        ('A="one\ntwo"\nB=1\n', {"A": "one\ntwo", "B": "1"}),
        ("A='one\n# two'\nB=1\n", {"A": "one\n# two", "B": "1"}),
        ("A=it's\n", {"A": "it's"}),
        ("A=$HOME\n", {"A": "$HOME"}),
        ("A=1\nA=2\n", {"A": "2"}),
    ],
)
def test_a_file_of_variables(tmp_path: Path, text: str, variables: dict[str, str]) -> None:
    assert read(tmp_path, text) == variables


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A=1\nnothing\n", ":2: 'nothing' is not NAME=value"),
        ("1A=1\n", ":1: '1A=1' is not NAME=value"),
        ("A-B=1\n", ":1: 'A-B=1' is not NAME=value"),
        ("\nA='never\n", ":2: A: the value's ' is never closed"),
        ('A="x"y\n', ":1: A: 'y' stands behind the closing quote"),
        ("A=\0\n", ":1: A: a value cannot hold a NUL"),
        ("A='\0'\n", ":1: A: a value cannot hold a NUL"),
    ],
)
def test_a_mistake_in_it_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert str(raised.value) == f"{tmp_path}/.env{told}"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch: cannot be read: No such file"):
        read_env_file(str(tmp_path / "nosuch"))
    (tmp_path / "binary").write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigError, match="binary: is not UTF-8 text"):
        read_env_file(str(tmp_path / "binary"))


@given(st.dictionaries(names, st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_double_quotes_carry_any_text(tmp_path: Path, variables: dict[str, str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'

    assert read(tmp_path, "".join(f"{name}={quoted(text)}\n" for name, text in variables.items())) == variables


plain = st.text(string.ascii_letters + string.digits + "_-./:@%+,", min_size=1, max_size=10)


@given(st.dictionaries(names.filter(lambda name: name not in ("_", "PATH", "IFS")), plain, min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
def test_what_a_shell_can_source_means_the_same_to_the_shell(tmp_path: Path, variables: dict[str, str]) -> None:
    """Plain values and those that shlex.quote puts in single quotes."""
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    found = read(tmp_path, text)
    script = f". {tmp_path}/.env; " + "; ".join(f'printf "%s\\n" "${name}"' for name in found)
    out = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == list(found.values())

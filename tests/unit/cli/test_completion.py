"""The completion scripts, run by a real bash, and read as zsh and fish would read them."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from oxmgr.cli.main import main
from oxmgr.cli.table import COMMANDS
from tests.conftest import children

LIST = """#!/bin/sh
cat <<'END'
[
  {
    "name": "web:0",
    "app": "web",
    "command": "node \\"name\\": x"
  },
  {
    "name": "web:1",
    "app": "web",
    "command": "x"
  },
  {
    "name": "db",
    "app": "db",
    "command": "x"
  }
]
END
"""


class Bash:
    """Answers what bash would offer."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        (folder / "completion").write_text(script)
        (folder / "bin").mkdir()
        # The names come from `oxmgr list --json`, whose form other tests hold.
        (folder / "bin" / "oxmgr").write_text(LIST)
        (folder / "bin" / "oxmgr").chmod(0o755)
        self.work = folder / "work"
        self.work.mkdir()

    def __call__(self, *words: str) -> list[str]:
        """For these words behind `oxmgr`, the last of which is being typed, split as bash splits them."""
        script = (
            f"set -u; source {self.folder}/completion; COMP_WORDS=(oxmgr {shlex.join(words)}); COMP_CWORD={len(words)}; "
            '"$(complete -p oxmgr | sed "s/.*-F \\([^ ]*\\).*/\\1/")"; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        env = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        before = set(children())
        done = subprocess.run(
            ["bash", "--norc", "-c", script], cwd=self.work, env=env, capture_output=True, text=True, check=False
        )
        # What runs in a <(…) bash does not wait for: it has closed its output and ends.
        for pid in set(children()) - before:
            os.waitpid(pid, 0)
        assert done.returncode == 0 and not done.stderr, done
        return sorted(filter(None, done.stdout.split("\n")))


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bash:
    return Bash(tmp_path, script("bash", capsys))


def test_bash_offers_the_commands(bash: Bash) -> None:
    assert bash("") == sorted([*(command.name for command in COMMANDS), "help"])
    assert bash("re") == ["reload", "reset", "restart"]
    assert bash("nosuch") == []
    assert bash("help", "va") == ["validate"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_bash_offers_every_option_of_every_command(bash: Bash, command: object) -> None:
    assert isinstance(command, type(COMMANDS[0]))
    for name in (command.name, *command.aliases):
        names = [one for option in command.options for one in option.names if one.startswith("--")]
        assert bash(name, "--") == sorted(names)


def test_bash_offers_names_where_they_are_meant(bash: Bash) -> None:
    assert bash("stop", "") == sorted([*bash("stop", "-"), "db", "web", "web:0", "web:1"])
    assert bash("rs", "d") == ["db"]
    assert bash("logs", "-f", "we") == ["web", "web:0", "web:1"]
    assert bash("validate", "we") == []


def test_bash_completes_behind_a_colon(bash: Bash) -> None:
    # Bash has made three words of `web:` and `web:1`, and replaces only the last one.
    assert bash("stop", "web", ":") == ["0", "1"]
    assert bash("stop", "web", ":", "1") == ["1"]
    assert bash("stop", "db", "web", ":", "") == ["0", "1"]


def test_bash_offers_files_folders_and_choices_as_values(bash: Bash) -> None:
    (bash.work / "a file.toml").touch()
    (bash.work / "a-folder").mkdir()
    assert bash("start", "a") == ["a file.toml", "a-folder"]
    assert bash("start", "-c", "a") == ["a file.toml", "a-folder"]
    assert bash("start", "--cwd", "a") == ["a-folder"]
    assert bash("start", "--restart", "") == ["always", "never", "on-failure"]
    assert bash("start", "--name", "") == []
    assert bash("daemon", "st") == ["status", "stop"]
    assert bash("completion", "") == sorted([*bash("completion", "-"), "bash", "fish", "zsh"])


def test_zsh_gets_the_same_by_way_of_bashcompinit(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("zsh", capsys)
    assert text.startswith("#compdef oxmgr\n") and "bashcompinit" in text
    assert text.endswith(script("bash", capsys))
    # It is bash's language but for the line that calls bashcompinit, which bash can read as well.
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    # zsh has no mapfile.
    assert "mapfile" not in text


def test_fish_can_read_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = script("fish", capsys).splitlines()
    for line in lines[1:]:
        # Within single quotes, fish takes \\ and \' for themselves, which no shlex does; so they are taken out.
        words = shlex.split(line.replace("\\\\", "").replace("\\'", ""))
        assert words[:3] == ["complete", "-c", "oxmgr"], line
        given = words[3:]
        assert set(given[::1]) & {"-f", "-a", "-l", "-s", "-F"}, line
    for command in COMMANDS:
        assert any(f"-a {command.name} " in line for line in lines)
        for option in command.options:
            assert any(f"-l {option.names[0][2:]}" in line and command.name in line for line in lines)

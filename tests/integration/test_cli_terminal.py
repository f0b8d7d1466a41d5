"""The command at a terminal and in a pipe: widths, colours, Ctrl-C, following, the foreground."""

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, wait_until
from tests.integration.conftest import COMMAND, Ox, hear_ctrl_c

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A pseudo-terminal of some width; `text` is what was written to it, `press` what is typed."""

    def __init__(self, columns: int) -> None:
        self.ours, self.theirs = os.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.ours, 65536):
                self.text += data.decode().replace("\r\n", "\n")
        except OSError:
            return  # EIO: the last one that had it open has closed it (pty(7))

    def run(self, ox: Ox, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """A session leader whose terminal this is, so that what is pressed becomes its signals."""
        self._process = subprocess.Popen(
            [COMMAND, *words],
            cwd=ox.folder,
            env={**ox.env, "TERM": "xterm", **env},
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            preexec_fn=self._take,
        )
        return self._process

    def _take(self) -> None:
        """In the new process: make this its terminal."""
        hear_ctrl_c()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def press(self, key: bytes) -> None:
        os.write(self.ours, key)

    def close(self) -> None:
        if self.theirs >= 0:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.wait(DEADLINE)
            os.close(self.theirs)
            self.theirs = -1
            self._reader.join(DEADLINE)
            os.close(self.ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal(60)
    yield made
    made.close()


def at_terminal(terminal: Terminal, ox: Ox, *words: str, **env: str) -> str:
    """What a command shows there; it must succeed."""
    assert terminal.run(ox, *words, **env).wait(DEADLINE) == 0
    terminal.close()
    return terminal.text


def wide(ox: Ox) -> None:
    """What makes a table wide: a long name, a namespace, a long reason."""
    ox("start", "sleep 1000", "--name", "n" * 40, "-i", "2", "--namespace", "a-long-namespace")
    ox("start", "exit 3", "--name", "fails", "--restart", "never", code=1)


# --- how it looks ---


def test_a_table_fits_sixty_columns_and_says_why(ox: Ox, terminal: Terminal) -> None:
    wide(ox)
    shown = at_terminal(terminal, ox, "list")
    lines = COLOURS.sub("", shown).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 60
    assert "exit code 3" in lines[3] and "running" in lines[1] and "nnn" in lines[1]
    assert shown != COLOURS.sub("", shown)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_obey_the_environment(ox: Ox, terminal: Terminal, env: dict[str, str]) -> None:
    wide(ox)
    assert "\x1b" not in at_terminal(terminal, ox, "list", **env)


def test_a_pipe_gets_no_colours_and_the_whole_width(ox: Ox) -> None:
    wide(ox)
    shown = ox("list").stdout
    assert "\x1b" not in shown and "n" * 40 in shown and "a-long-namespace" in shown and "MEMORY" in shown


def test_an_empty_table_says_what_to_do(ox: Ox) -> None:
    assert "oxmgr start" in ox("list").stdout


# --- Ctrl-C ---


def test_ctrl_c_leaves_the_daemon_and_the_apps_alone(ox: Ox, terminal: Terminal) -> None:
    ox("start", "sleep 1000", "--name", "other")
    ox.oxfile('[processes.slow]\ncommand = "sleep 1000"\nstart_delay_ms = 60000\n')
    waiting = terminal.run(ox, "start")
    # The line on how far it is tells that it waits.
    wait_until(lambda: "slow: waiting" in terminal.text, "the progress")
    before = ox.home.pid("other")
    terminal.press(b"\x03")
    assert waiting.wait(DEADLINE) == 130
    terminal.close()
    assert "interrupted" in terminal.text and "Traceback" not in terminal.text
    assert ox.home.pid("other") == before
    assert ox.json("list", "slow")[0]["status"] == "waiting"


def test_ctrl_c_while_the_command_line_is_loaded_is_silent(empty: Ox) -> None:
    # Pressed at the very moment when that module is looked for.
    script = """
import os, signal, sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.path[1:1] = os.environ["FOLDERS"].split(":")
from oxmgr.__main__ import main
sys.meta_path.insert(0, Press())
main()
"""
    folders = ":".join(path for path in sys.path if path)
    for module in ("oxmgr.cli.main", "oxmgr.cli.table", "oxmgr.model.codec", "oxmgr.cli.cmd_list"):
        done = subprocess.run(
            [sys.executable, "-IS", "-c", script, "list"],
            env={**empty.env, "AT": module, "FOLDERS": folders},
            capture_output=True,
            preexec_fn=hear_ctrl_c,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (130, b"", b""), module


def test_a_terminal_that_knows_no_width_gets_the_whole_table(ox: Ox) -> None:
    wide(ox)
    terminal = Terminal(0)
    try:
        shown = COLOURS.sub("", at_terminal(terminal, ox, "list"))
    finally:
        terminal.close()
    assert "n" * 40 in shown and "MEMORY" in shown


def test_ctrl_c_of_the_command_that_started_the_daemon_leaves_it_alone(empty: Ox, terminal: Terminal) -> None:
    empty.oxfile('[processes.slow]\ncommand = "sleep 1000"\nstart_delay_ms = 60000\n')
    waiting = terminal.run(empty, "start")
    wait_until(lambda: "slow: waiting" in terminal.text, "the progress")
    terminal.press(b"\x03")
    assert waiting.wait(DEADLINE) == 130
    # And so does the end of the terminal.
    terminal.close()
    assert empty.json("list")[0]["status"] == "waiting"


# --- pipes ---


def test_a_broken_pipe_makes_no_noise(ox: Ox) -> None:
    ox("start", "seq 1 50000; exec sleep 1000", "--name", "app")
    wait_until(lambda: ox.home.log("app").endswith("50000\n"), "the lines")
    reading, writing = os.pipe()
    os.close(reading)
    commands = ["list", "list --json", "status app", "logs app -n 100000", "events", "env app", "start app", "doctor"]
    for command in [*commands, "--help", "help start", "completion bash", "list nosuch"]:
        stderr = writing if command == "list nosuch" else subprocess.PIPE
        done = subprocess.run([COMMAND, *command.split()], env=ox.env, stdout=writing, stderr=stderr, check=False)
        assert not done.stderr and done.returncode == (4 if command == "list nosuch" else 1), (command, done)
    os.close(writing)


def test_a_command_without_standard_files_does_its_work(empty: Ox) -> None:
    script = f'exec "{COMMAND}" start "sleep 1000" --name app <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script], cwd=empty.folder, env=empty.env, check=False)
    assert done.returncode == 0
    assert empty.json("list")[0]["status"] == "running"


def test_a_full_disk_under_the_output_is_told(ox: Ox) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "list"], env=ox.env, stdout=full, stderr=-1, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "oxmgr: No space left on device\n"


# --- following ---


class Followed:
    """A command that goes on, and what it has printed so far."""

    def __init__(self, ox: Ox, *words: str) -> None:
        self.process = ox.popen(*words, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1)
        self.out = ""
        self.err = ""
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in ("out", "err")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        file = getattr(self.process, f"std{name}")
        while data := os.read(file.fileno(), 65536):
            setattr(self, name, getattr(self, name) + data.decode())

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.join()

    def join(self) -> int:
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def test_logs_follow_over_a_restart_and_a_truncation_and_lose_nothing(ox: Ox) -> None:
    script = "trap 'exit 0' TERM; while read line; do echo \"$line\"; done"
    ox("start", script, "--name", "app")
    log = Path(f"{ox.home.places.logs}/app.out.log")
    ox("send", "app", "1")
    wait_until(lambda: ox.home.log("app") == "1\n", "the first line")
    followed = Followed(ox, "logs", "app", "-f")
    wait_until(lambda: followed.out == "1\n", "the end so far")
    ox("send", "app", "2")
    wait_until(lambda: followed.out == "1\n2\n", "a line as it comes")
    ox("restart", "app")
    ox("send", "app", "-", input="3\n4\n")
    wait_until(lambda: followed.out == "1\n2\n3\n4\n", "the lines of the next process")
    os.truncate(log, 0)
    ox("send", "app", "5")
    wait_until(lambda: followed.out == "1\n2\n3\n4\n5\n", "the lines after the truncation")
    assert followed.end() == 130
    assert (followed.out, followed.err) == ("1\n2\n3\n4\n5\n", "")


def test_logs_follow_what_is_started_later(ox: Ox) -> None:
    followed = Followed(ox, "logs", "-f")
    ox("start", "seq 1 100; exec sleep 1000", "--name", "late")
    wait_until(lambda: followed.out.count("\n") >= 100, "all its lines")
    assert followed.end() == 130
    assert followed.out.split() == [str(number) for number in range(1, 101)]


def test_events_follow_until_the_daemon_ends(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    ox("start", "sleep 1000", "--name", "other")
    followed = Followed(ox, "events", "app", "-f", "-n", "1")
    wait_until(lambda: followed.out.count("\n") == 1, "the past one")
    ox("stop", "other")
    ox("stop", "app")
    wait_until(lambda: "stopped" in followed.out, "the stop")
    ox("daemon", "stop")
    assert followed.join() == 3
    assert "daemon" in followed.err and "other" not in followed.out
    words = [line.split()[3] for line in followed.out.splitlines()]
    assert words == ["started", "stopping", "stopped"]


def test_events_follow_from_daemon_to_daemon_and_none_is_missing_or_there_twice(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app")
    followed = Followed(ox, "events", "-f", "--json", "-n", "all")

    def numbers() -> list[int]:
        return [json.loads(line)["seq"] for line in followed.out.splitlines()]

    wait_until(lambda: '"started"' in followed.out, "the past ones")
    for _ in range(3):
        ox.home.kill_daemon()
        # What happens while nobody follows is told afterwards.
        ox.home.start_daemon()
        ox("restart", "app")
        ox("daemon", "reexec")
        ox("signal", "CONT", "app")
    ox("stop", "app")
    wait_until(lambda: '"kind":"stopped"' in followed.out.rpartition('"kind":"signalled"')[2], "the last event")
    kinds = [json.loads(line)["kind"] for line in followed.out.splitlines()]
    assert kinds.count("daemon-started") == 7 and kinds.count("daemon-replaced") == 3
    assert numbers() == list(range(1, len(numbers()) + 1))
    ox("daemon", "stop")
    assert followed.join() == 3
    assert numbers() == list(range(1, len(numbers()) + 1)) and kinds.count("daemon-stopping") == 0


def test_events_follow_a_daemon_that_died_until_there_is_another(ox: Ox) -> None:
    followed = Followed(ox, "events", "-f")
    wait_until(lambda: "daemon-started" in followed.out, "the first event")
    later = Followed(ox, "events", "-f", "-n", "0")
    ox("start", "sleep 1000", "--name", "app")
    wait_until(lambda: ox("signal", "CONT", "app") and "signalled" in later.out, "what comes")
    assert "daemon-started" not in later.out
    later.end()
    ox.home.kill_daemon()
    wait_until(lambda: "waiting for the next one" in followed.err, "that it waits")
    ox.home.start_daemon()
    wait_until(lambda: followed.out.count("daemon-started") == 2, "the next daemon")
    assert followed.end() == 130


# --- in the foreground ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_foreground_shows_the_output_and_ends_with_the_apps(empty: Ox, number: int) -> None:
    loop = "trap 'echo bye; exit 0' TERM; echo hello; echo wrong >&2; read line"
    empty.oxfile(f'[processes.a]\ncommand = """{loop}"""\n[processes.b]\ncommand = """{loop}"""\n')
    front = Followed(empty, "start", "--foreground")
    wait_until(lambda: front.out.count("hello") == 2 and front.out.count("wrong") == 2, "what they print")
    pids = [empty.home.pid(name) for name in ("a", "b")]
    assert "a daemon runs already" in empty("start", "--foreground", code=2).stderr
    assert front.end(number) == 0
    assert sorted(front.out.splitlines()) == sorted(
        f"{name} | {word}" for name in "ab" for word in ("hello", "wrong", "bye")
    )
    assert not front.err
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids) and empty.daemon() is None
    # A later one shows what is new, not what was.
    front = Followed(empty, "start", "--foreground", "--only", "a")
    wait_until(lambda: front.out.count("hello") == 2, "what they print this time")
    assert front.end() == 0
    assert front.out.count("bye") == 2 and front.out.count("hello") == 2


def test_ctrl_c_at_a_terminal_reaches_the_apps_only_through_the_daemon(empty: Ox, terminal: Terminal) -> None:
    app = "trap 'echo direct' INT; trap 'echo asked; exit 0' TERM; echo up; read line"
    front = terminal.run(empty, "start", app, "--name", "app", "--foreground")
    wait_until(lambda: "up" in terminal.text, "the app")
    terminal.press(b"\x03")
    assert front.wait(DEADLINE) == 0
    terminal.close()
    assert "asked" in terminal.text and "direct" not in terminal.text and "Traceback" not in terminal.text


def test_whatever_ends_the_foreground_ends_its_apps(empty: Ox) -> None:
    reading, writing = os.pipe()
    front = empty.popen(
        "start", "while :; do echo more; sleep 0.01; done", "--name", "app", "--foreground", stdout=writing
    )
    os.close(writing)
    assert os.read(reading, 4) == b"more"
    os.close(reading)
    assert front.wait(DEADLINE) == 1
    assert empty.daemon() is None


def test_a_foreground_that_cannot_start_leaves_no_daemon(empty: Ox) -> None:
    empty.oxfile('[processes.a]\ncommand = "sleep 1000"\ndepends_on = ["b"]\n[processes.b]\ncommand = "sleep 1000"\n')
    empty("start")
    empty("daemon", "stop")
    empty.oxfile('[processes.b]\ncommand = "sleep 1000"\ndepends_on = ["a"]\n[processes.a]\ncommand = "sleep 1000"\n')
    assert "circle" in empty("start", "--foreground", "--only", "b", code=2).stderr
    assert empty.daemon() is None
    assert "--json" in empty("start", "--foreground", "--json", code=2).stderr


def test_the_foreground_goes_on_with_the_next_daemon(empty: Ox) -> None:
    front = Followed(empty, "start", "while :; do echo more; sleep 0.01; done", "--name", "app", "--foreground")
    wait_until(lambda: "more" in front.out, "the app")
    app, daemon = empty.home.pid("app"), empty.daemon()
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: empty.daemon() not in (None, daemon), "the next daemon")
    assert empty.home.pid("app") == app
    seen = len(front.out)
    wait_until(lambda: len(front.out) > seen + 20, "more of the app")
    assert front.end() == 0
    assert not Path(f"/proc/{app}").exists() and empty.daemon() is None


def test_the_foreground_tells_of_a_guard_that_is_killed_and_ends_all(empty: Ox) -> None:
    front = Followed(empty, "start", "sleep 1000", "--name", "app", "--foreground")
    wait_until(empty.daemon, "the daemon")
    wait_until(lambda: "app" in empty.home.views(), "the app")
    app, guard = empty.home.pid("app"), empty.json("daemon", "status")["guard"]
    os.kill(guard, signal.SIGKILL)
    assert front.join() == 1
    assert "was killed by SIGKILL" in front.err
    assert empty.daemon() is None
    wait_until(
        lambda: not Path(f"/proc/{app}").exists() or Path(f"/proc/{app}/stat").read_text().split()[2] == "Z", "its end"
    )

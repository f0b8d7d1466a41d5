"""`oxmgr logs -f` against writers that rotate, restart, are truncated, and come later: what is printed is what was
written, in order, nothing twice."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from oxmgr.model.spec import LOG_FORMATS, Logs, Spec
from tests.conftest import DEADLINE, end_tree, wait_until
from tests.integration.conftest import Ox

SECONDS = float(os.environ.get("FOLLOW_SECONDS", "3"))
"""A minute or more by hand; the suite has less patience."""

FLOOD = """
import os, sys, time
name = os.environ["OXMGR_INSTANCE_ID"]
print(f"{name} ready", flush=True)
sys.stdin.readline()
end, number = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    for _ in range(100):
        print(f"{name} out {number} {'x' * (number % 100)}")
        print(f"{name} err {number}", file=sys.stderr)
        number += 1
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.003)
print(f"{name} end {number}", flush=True)
print(f"{name} end {number}", file=sys.stderr, flush=True)
sys.stdin.readline()
"""


class Following:
    """A command that goes on, and the lines that it has printed so far."""

    def __init__(self, ox: Ox, *words: str) -> None:
        self.process = ox.popen("logs", "-f", *words, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1)
        self.data = bytearray()
        self.errors = bytearray()
        pairs = ((self.process.stdout, self.data), (self.process.stderr, self.errors))
        self._readers = [threading.Thread(target=self._read, args=pair) for pair in pairs]
        for reader in self._readers:
            reader.start()

    def _read(self, file: "object", into: bytearray) -> None:
        while data := os.read(file.fileno(), 1 << 16):  # type: ignore[attr-defined]
            into += data

    @property
    def lines(self) -> list[str]:
        return self.data.decode().splitlines()

    def count(self, text: str, times: int = 1, seconds: float = DEADLINE) -> None:
        """Wait until it was printed that often."""
        wanted, at, found = text.encode(), 0, 0

        def is_there() -> bool:
            # What was looked through once is not looked through again: there may be much of it.
            nonlocal at, found
            end = len(self.data)
            found += self.data.count(wanted, max(0, at - len(wanted) + 1), end)
            at = end
            return found >= times

        try:
            wait_until(is_there, f"{text!r} {times} times", seconds)
        except AssertionError as error:
            end_tree(self.process.pid)
            raise AssertionError(f"{error}: {self.lines[-5:]}, {self.errors.decode()}") from None

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        wait_until(lambda: self.process.poll() is not None, "its end")
        assert self.process.returncode == 130
        for reader in self._readers:
            reader.join(DEADLINE)
        for file in (self.process.stdout, self.process.stderr):
            assert file is not None
            file.close()
        assert not self.errors, self.errors.decode()


def spec(ox: Ox, name: str, *, instances: int = 1, seconds: float = SECONDS, **logs: object) -> Spec:
    script = ox.file("flood.py", FLOOD)
    argv = [sys.executable, str(script), str(seconds)]
    usual: dict[str, object] = {"max_size_mb": 0.05, "max_files": 100_000}
    return Spec(name, "flood", argv, str(ox.folder), instances=instances, logs=Logs(**{**usual, **logs}))  # type: ignore[arg-type]


def written(folder: Path, name: str) -> bytes:
    """All that is in the files of a log, oldest first."""
    import gzip

    found = b""
    for path in [*sorted(one for one in folder.glob(f"{name}~*") if one.suffix != ".idx"), folder / name]:
        found += gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return found


@pytest.mark.parametrize("form", LOG_FORMATS)
def test_what_a_rotating_writer_writes_is_what_is_printed(ox: Ox, form: str) -> None:
    ox.home.apply(spec(ox, "app", format=form))
    wait_until(lambda: "ready" in ox.home.log("app"), "the app")
    following = Following(ox, "app")
    following.count("0 ready\n")
    ox("send", "app", "")
    following.count(" end ", 2, 2 * SECONDS + DEADLINE)
    following.end()
    folder = Path(ox.home.places.logs)
    assert len(list(folder.glob("app.out.log~*Z*"))) > 10
    printed = following.lines
    total = int(next(line for line in printed if " end " in line).split()[-1])
    again = ox("logs", "app", "-n", "all").stdout.splitlines()
    for kind in ("out", "err"):
        mine = [line for line in printed if f"0 {kind} " in line]
        assert [int(line.split()[2]) for line in mine] == list(range(total))
        # And the same is found afterwards, in all the files.
        assert [line for line in again if f"0 {kind} " in line] == mine
        if form == "raw":
            lines = written(folder, f"app.{kind}.log").decode().splitlines()
            assert [line for line in lines if f"0 {kind} " in line] == mine
    assert len(printed) == len(again) == 2 * total + 3


def test_two_instances_a_restart_and_a_truncation_lose_and_double_nothing(ox: Ox) -> None:
    ox.home.apply(spec(ox, "app", instances=2, seconds=SECONDS / 3))
    folder = Path(ox.home.places.logs)
    files = [folder / "app.out.log", folder / "app:1.out.log"]
    wait_until(lambda: all(file.exists() and b"ready" in file.read_bytes() for file in files), "both apps")
    following = Following(ox, "app")
    for turn in range(2):
        following.count("ready", 2 * (turn + 1))
        for instance in ("0", "1"):
            ox("send", f"app:{instance}", "")
        following.count(" end ", 4 * (turn + 1), 2 * SECONDS + DEADLINE)
        if turn == 0:
            # Only what was read may be cut off, and it was: the ends have come.
            os.truncate(files[0], 0)
            ox("restart", "app")
    following.end()
    printed = following.lines
    for instance in ("0", "1"):
        for kind in ("out", "err"):
            numbers = [int(line.split()[4]) for line in printed if f"app:{instance} | {instance} {kind} " in line]
            ends = [int(line.split()[-1]) for line in printed if f"| {instance} end " in line]
            assert len(ends) == 4 and numbers == [*range(ends[0]), *range(ends[2])], (instance, kind)


def test_an_instance_that_comes_later_is_shown_from_its_first_line(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "web")
    following = Following(ox, "@default", "--json")
    ox("start", "echo not me; exec sleep 1000", "--name", "other", "--namespace", "x")
    ox("start", "seq 1 100; exec sleep 1000", "--name", "late")
    following.count('"100"')
    ox("scale", "late", "3")
    following.count('"100"', 3)
    following.end()
    assert len(following.lines) == 300 and "not me" not in following.data.decode()


def test_it_goes_on_when_the_daemon_ends_and_another_one_comes(ox: Ox) -> None:
    ox("start", "echo one; exec sleep 1000", "--name", "a")
    following = Following(ox)
    following.count("one\n")
    ox("daemon", "stop")
    assert ox.home.daemon is not None and ox.home.daemon.wait(DEADLINE) == 0
    ox.home.start_daemon()
    following.count("one\none\n")
    ox("start", "echo two; exec sleep 1000", "--name", "b")
    following.count("b | two\n")
    following.end()
    assert following.lines == ["one", "one", "b | two"]


def test_nothing_is_looked_at_while_nothing_comes(ox: Ox) -> None:
    ox("start", "echo one; exec sleep 1000", "--name", "a")
    following = Following(ox, "a")
    following.count("one\n")
    status = Path(f"/proc/{following.process.pid}/status")

    def switches() -> int:
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("voluntary")))

    before = -1
    while before != (before := switches()):
        # It comes to rest.
        wait_until(lambda: "S (sleeping)" in status.read_text(), "it waits")
    # A second of nothing is the thing that is measured.
    with pytest.raises(AssertionError):
        wait_until(lambda: switches() != before, "a wakeup", 1.0)
    following.end()


def test_a_filter_is_for_what_comes_as_well(ox: Ox) -> None:
    ox("start", "read x; echo INFO a; echo ERROR b; echo '  at c'; echo INFO d; read x", "--name", "a")
    following = Following(ox, "a", "--level", "error", "--time", "--since", "today")
    ox("send", "a", "")
    following.count("at c")
    following.end()
    assert [line.split(" ", 2)[2] for line in following.lines] == ["ERROR b", "  at c"]


def echo(ox: Ox, name: str = "app") -> None:
    """An app that prints what it is sent."""
    ox("start", 'while read line; do echo "$line"; done', "--name", name)


def test_it_follows_over_a_logrotate_that_renames_and_one_that_truncates(ox: Ox) -> None:
    echo(ox)
    log = Path(f"{ox.home.places.logs}/app.out.log")
    ox("send", "app", "1")
    wait_until(lambda: ox.home.log("app") == "1\n", "the first line")
    following = Following(ox, "app")
    following.count("1\n")
    log.rename(f"{log}.1")
    ox("send", "app", "2")
    following.count("2\n")
    # As logrotate's `create` makes it, before the writer is told.
    log.touch()
    ox("send", "app", "3")
    following.count("3\n")
    ox("logs", "--reopen", "app")
    ox("send", "app", "4")
    following.count("4\n")
    os.truncate(log, 0)
    ox("send", "app", "5")
    following.count("5\n")
    assert "emptied: the logs of app" in ox("logs", "--flush", "app").stdout
    assert log.read_bytes() == b""
    ox("send", "app", "6")
    following.count("6\n")
    following.end()
    assert following.lines == list("123456")


def test_a_log_folder_that_is_removed_and_made_again_is_followed(ox: Ox) -> None:
    folder = ox.folder / "deep" / "logs"
    log = folder / "app.log"
    ox.oxfile(f'[processes.app]\ncommand = "while read line; do echo $line; done"\nlog_file = "{log}"\n')
    ox("start")
    ox("send", "app", "1")
    wait_until(lambda: log.exists() and log.read_text() == "1\n", "the first line")
    following = Following(ox, "app")
    following.count("1\n")
    shutil.rmtree(ox.folder / "deep")
    ox("send", "app", "2")
    following.count("2\n")
    ox("send", "app", "3")
    following.count("3\n")
    following.end()
    assert following.lines == ["1", "2", "3"]


@pytest.mark.parametrize("words", [["logs", "app", "-f"], ["events", "-f"]])
def test_who_follows_ends_with_its_reader(ox: Ox, words: list[str]) -> None:
    ox.home.apply(ox.home.sh("app", "echo hello; exec sleep 1000"))
    wait_until(lambda: ox.home.log("app"), "a line")
    with ox.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as follower:
        assert follower.stdout is not None and follower.stdout.readline()
        follower.stdout.close()
        assert follower.wait(DEADLINE) == 1

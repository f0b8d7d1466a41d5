"""How `oxmgr runtime` ends, whatever dies meanwhile, and what it needs to begin: as process 1 of a pid namespace. As
root, by unshare(1)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oxmgr.cli.cmd_runtime import UNHEARD
from tests.conftest import DEADLINE, Heir, wait_until
from tests.containers import Container
from tests.integration.test_runtime import LOOP, oxfile, sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

STAYS = f"trap 'echo asked' TERM; trap 'exit 8' USR1; echo up; {LOOP}"
"""Asked to end it says so, and ends when it gets SIGUSR1."""


# --- a stop in which the daemon dies ---


@pytest.mark.parametrize(
    ("words", "number"),
    [(["--rewrite", "INT:TERM"], signal.SIGINT), (["--rewrite", "USR2:TERM"], signal.SIGUSR2)],
    ids=["INT", "USR2"],
)
def test_a_stop_by_a_rewritten_signal_goes_on_when_the_daemon_dies_in_it(
    container: Container, words: list[str], number: int
) -> None:
    container.start("--grace", "60", *words, oxfile(container, f'[processes.a]\ncommand = "{STAYS}"\n'))
    container.until("a | up")
    container.wait_until_up()
    container.kill(number)
    container.until("a | asked")
    container.kill_daemon()
    container.home.until("a", lambda view: view.status == "stopping")
    container.kill(signal.SIGUSR1)
    assert container.code() == 0
    assert container.printed.decode().count("a | up") == 1


def test_a_stop_that_is_told_by_a_command_goes_on_when_the_daemon_dies_in_it(container: Container) -> None:
    container.start("--grace", "60", oxfile(container, f'[processes.a]\ncommand = "{STAYS}"\n')).until("a | up")
    container.wait_until_up()
    argv = ["nsenter", "--target", str(container.pid), "--pid", "--mount", *container.program[:1], "daemon", "stop"]
    with subprocess.Popen(argv, env=container.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        container.until("a | asked")
        container.kill_daemon()
        assert command.wait(DEADLINE) != 0, "it does not know how that ends"
    container.home.until("a", lambda view: view.status == "stopping")
    container.kill(signal.SIGUSR1)
    assert container.code() == 0
    assert container.printed.decode().count("a | up") == 1


def test_a_second_signal_hurries_a_stop_that_another_daemon_has_begun(container: Container) -> None:
    container.start("--grace", "3600", "--rewrite", "INT:TERM", *sh(f"trap 'echo asked' TERM; echo up; {LOOP}")).until(
        "up"
    )
    container.wait_until_up()
    container.kill(signal.SIGINT)
    container.until("asked")
    container.kill_daemon()
    container.home.until("sh", lambda view: view.status == "stopping")
    container.kill(signal.SIGINT)
    assert container.code() == 137


# --- the next run ---


def test_a_daemon_that_dies_at_the_start_of_the_next_run_ends_nothing(container: Container) -> None:
    """It has the home's lock, and not written down yet that this run has begun."""
    assert container.start(*sh("exit 7")).code() == 7
    desired = Path(container.home.places.desired)
    saved = desired.read_bytes()
    desired.unlink()
    os.mkfifo(desired)
    again = Container(container.home)
    try:
        again.start(*sh("echo up; exit 8"))

        def reads() -> bool:
            try:
                opened.append(os.open(desired, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody has it open
                return False
            return True

        opened: list[int] = []
        wait_until(reads, "it reads what is desired")
        daemon = os.pidfd_open(again.daemon())
        signal.pidfd_send_signal(daemon, signal.SIGSTOP)
        os.close(opened[0])
        desired.unlink()
        desired.write_bytes(saved)
        signal.pidfd_send_signal(daemon, signal.SIGKILL)
        os.close(daemon)
        assert again.code() == 8 and b"up\n" in again.printed
    finally:
        again.end()


# --- what it needs to begin ---


@pytest.mark.parametrize("name", ["PIPE", "TTIN", "TTOU", "CHLD", "SEGV", "KILL"])
def test_a_signal_that_never_comes_cannot_be_rewritten(container: Container, name: str) -> None:
    container.start("--rewrite", f"{name}:TERM", *sh("true"))
    assert container.code() == 2
    text = container.printed.decode()
    assert f"does not hear of SIG{name}" in text and "these can: HUP, INT, QUIT, USR1, " in text


def test_every_other_signal_can_be_rewritten(container: Container) -> None:
    """The guard says that it hears each: it blocks them, and has them from a file descriptor (csrc/guard.c)."""
    container.start(*sh(f"echo up; {LOOP}")).until("up")
    container.wait_until_up()
    status = Path(f"/proc/{container.pid}/status").read_text()
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    unheard = {number for number in range(1, 32) if not blocked & 1 << number - 1} | {signal.SIGCHLD}
    assert unheard == set(UNHEARD)


def test_a_command_without_a_name_is_no_program(container: Container) -> None:
    assert container.start("--", "").code() == 127
    assert b"empty name" in container.printed


@pytest.mark.parametrize(
    ("before", "code", "text"),
    [
        ("mount -t tmpfs none /proc", 1, "mount -t proc proc /proc"),
        ("mkdir /tmp/$$; cd /tmp/$$; rmdir /tmp/$$", 1, "cd to another one"),
        ("ulimit -f 0", 2, "ulimit -f unlimited"),
    ],
    ids=["no proc", "no folder", "no file"],
)
def test_what_is_missing_is_told_with_what_to_do(container: Container, before: str, code: int, text: str) -> None:
    container.wrap = ["sh", "-c", f'{before}; exec "$@"', "sh"]
    container.start(*sh("echo up"))
    assert container.code() == code
    assert text in container.printed.decode() and "Traceback" not in container.printed.decode()


# --- without standard files ---


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_what_an_app_prints_to_closed_files_goes_nowhere(container: Container, closed: str) -> None:
    out = container.home.folder / "out"
    container.wrap = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    container.start(*sh(f'ls -l /proc/$$/fd > {out}; echo hel""lo; echo hel""lo >&2; exit 5'))
    assert container.code() == 5
    fds = {line.partition(" -> ")[2] for line in out.read_text().splitlines()[1:]}
    assert {path for path in fds if path.startswith(str(container.home.folder))} == {str(out)}
    for folder in (container.home.places.run, container.home.places.state, container.home.places.logs):
        for path in Path(folder).iterdir():
            assert not path.is_file() or b"hello" not in path.read_bytes(), path


# --- without a container ---


def test_where_it_is_not_process_1_its_daemon_becomes_the_guard_and_knows_what_it_was_told(
    container: Container,
) -> None:
    container.namespaces = ["--mount"]
    container.start(*sh(f"trap 'exit 21' USR2; echo up; {LOOP}")).until("up")
    wait_until(container.answers, "the daemon answers")
    before, app = container.home.about_daemon(), container.home.pid("sh")
    os.kill(before.guard or 0, signal.SIGKILL)
    after = container.home.another_than(before.pid)
    assert after.guard == before.pid and container.home.pid("sh") == app
    os.kill(after.pid, signal.SIGKILL)
    container.home.another_than(after.pid)
    os.kill(app, signal.SIGUSR2)
    assert Heir(before.pid).wait() == 21


# --- what is no app's ---


def test_what_came_from_outside_has_the_grace_to_end(container: Container) -> None:
    """What `docker exec` has started, and whose parent is not in the container."""
    container.start(*sh(f"echo up; {LOOP}")).until("up")
    container.wait_until_up()
    script = (
        "import os, signal, time\n"
        "def end(*_):\n time.sleep(0.2); print('cleaned up'); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('there')\n"
        "while True: signal.pause()"
    )
    out = container.home.folder / "out"
    with open(out, "wb") as file:
        argv = ["nsenter", "--target", str(container.pid), "--pid", "--mount", sys.executable, "-u", "-c", script]
        with subprocess.Popen(argv, stdout=file) as outside:
            wait_until(lambda: out.read_bytes() == b"there\n", "it is there")
            container.kill(signal.SIGTERM)
            assert container.code() == 143
            assert outside.wait(DEADLINE) == 0
    assert out.read_bytes() == b"there\ncleaned up\n"

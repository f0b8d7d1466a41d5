"""A daemon and its guard, where one of them is slow, ends in the middle of something, or is of another version."""

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.client.connection import Connection, Refused, connect
from oxmgr.client.launch import daemon_argv
from oxmgr.model.messages import Apply, ReplaceDaemon, StopDaemon
from oxmgr.supervisor import guard as guards
from tests.conftest import DEADLINE, Home, wait_until
from tests.faults.reexec import guard_pid, reexec
from tests.integration.test_takeover import TRAPS, kill_both, state_of

PIDFD_GETFD = 438


@pytest.fixture
def home(empty_home: Home) -> Home:
    empty_home.guarded = True
    empty_home.start_daemon()
    return empty_home


@pytest.fixture
def connection(home: Home) -> Iterator[Connection]:
    one = connect(home.places)
    one._sock.settimeout(DEADLINE)
    yield one
    one.close()


def fill(daemon: int) -> None:
    """The socket to its guard, which reads nothing, so that the daemon has to keep what it says."""
    handle = os.pidfd_open(daemon)
    fd = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, handle, guards.FD, 0)
    os.close(handle)
    if fd < 0:
        pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=fd) as link, pytest.raises(BlockingIOError):
        while True:
            link.send(guards.pack(guards.FORGET, name="nothing"), socket.MSG_DONTWAIT)


# --- a guard that is slow ---


def test_a_guard_that_reads_late_hears_that_the_end_is_on_purpose(home: Home, connection: Connection) -> None:
    home.apply(home.sh("app", TRAPS))
    daemon, guard = home.about_daemon().pid, guard_pid(home)
    os.kill(guard, signal.SIGSTOP)
    fill(daemon)
    connection.request(StopDaemon())
    gone = os.pidfd_open(daemon)
    assert not select.select([gone], [], [], 0.2)[0], "it waits until it is told"
    os.kill(guard, signal.SIGCONT)
    connection.wait_for_end()
    os.close(gone)
    assert home.daemon is not None and home.daemon.wait(DEADLINE) == 0


def test_a_guard_that_never_reads_starts_nothing_again(home: Home, connection: Connection) -> None:
    daemon, guard = home.about_daemon().pid, guard_pid(home)
    os.kill(guard, signal.SIGSTOP)
    fill(daemon)
    connection.request(StopDaemon())
    connection.wait_for_end()
    assert home.daemon is not None and home.daemon.wait(DEADLINE) == -signal.SIGKILL
    wait_until(lambda: state_of(daemon) in ("", "Z"), "its end")


def test_a_replacement_waits_until_the_guard_is_told_all(home: Home, connection: Connection) -> None:
    daemon, guard = home.about_daemon().pid, guard_pid(home)
    os.kill(guard, signal.SIGSTOP)
    fill(daemon)
    home.apply(home.sh("app", TRAPS))
    connection._send(ReplaceDaemon(daemon_argv()))
    assert not select.select([connection], [], [], 0.5)[0]
    os.kill(guard, signal.SIGCONT)
    connection._receive()
    connection.wait_for_end()
    home.pid("app")
    pipes = [path for path in links(guard) if path.startswith(home.places.run) and path.endswith((".out", ".err"))]
    assert len(pipes) == 2


def links(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]


# --- a stop that the daemon dies in ---


@pytest.mark.parametrize("how", ["INT", "QUIT", "command"])
def test_a_stop_goes_on_with_the_next_daemon(home: Home, connection: Connection, how: str) -> None:
    started = home.folder / "started"
    home.apply(home.sh("app", f"trap 'echo asked' TERM; echo x >> {started}; {TRAPS}", stop_timeout_ms=3_600_000))
    app = home.pid("app")
    wait_until(lambda: "up" in home.log("app"), "its traps")
    if how == "command":
        connection._send(StopDaemon())
    else:
        os.kill(guard_pid(home), getattr(signal, f"SIG{how}"))
    wait_until(lambda: "asked" in home.log("app"), "the stop")
    home.kill_guarded()
    home.until("app", lambda view: view.status == "stopping" and view.pid == app)
    os.kill(app, signal.SIGUSR1)
    assert home.daemon is not None and home.daemon.wait(DEADLINE) == 0
    assert started.read_text() == "x\n"


# --- nobody there ---


def test_who_is_ready_while_nobody_is_there_lives_and_is_heard_by_the_next_daemon(home: Home) -> None:
    script = (
        "import os, signal\n"
        "def ready(*_): os.write(5, b'\\n'); print('said', flush=True)\n"
        "signal.signal(signal.SIGUSR1, ready); print('up')\nwhile True: signal.pause()"
    )
    connection = connect(home.places)
    connection._send(Apply([home.python("app", script, ready="fd:5")], b""))
    wait_until(lambda: "up" in home.log("app"), "its start")
    app = home.pid("app")
    connection.close()
    kill_both(home)
    os.kill(app, signal.SIGUSR1)
    # It has no SIGUSR1 to come any more once it has returned from the write.
    wait_until(lambda: f"{1 << signal.SIGUSR1 - 1:016x}" not in pending(app), "it to have got the signal")
    wait_until(lambda: state_of(app) == "S", "it to wait again")
    home.start_daemon()
    view = home.until("app", lambda view: view.status == "running")
    assert view.pid == app and "said" in home.log("app")


def pending(pid: int) -> str:
    return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("ShdPnd"))


# --- what is executed in a place ---


def script(home: Home, text: str) -> list[str]:
    """A daemon's words whose program is that."""
    program = home.folder / "program"
    program.write_text(f"#!/bin/sh\n{text}")
    program.chmod(0o755)
    return [str(program), *daemon_argv()[1:]]


def test_who_asked_is_hung_up_on_when_the_other_daemon_cannot_be_executed(home: Home, connection: Connection) -> None:
    before = home.about_daemon()
    connection.request(ReplaceDaemon(script(home, 'rm "$0"; echo ok')))
    connection.wait_for_end()
    after = home.about_daemon()
    assert (after.pid, after.started_at) == (before.pid, before.started_at)
    reexec(home)
    assert home.about_daemon().started_at > before.started_at


def test_another_daemon_is_shown_also_what_the_disk_has_not(home: Home) -> None:
    desired = Path(home.places.desired)
    desired.unlink(missing_ok=True)
    # A folder that is not empty can be no file's place.
    (desired / "full").mkdir(parents=True)
    try:
        home.apply(home.sh("app", "exit 0", restart="never"))
        said = home.folder / "said"
        words = script(home, f'for word; do case $word in desired=*) cat "${{word#*=}}"; esac; done > {said}\n')
        with pytest.raises(Refused):
            home.request(ReplaceDaemon(words))
        assert said.read_bytes().startswith(b"oxmgr desired") and b"exit 0" in said.read_bytes()
    finally:
        (desired / "full").rmdir()
        desired.rmdir()


# --- a guard of another version ---


def test_a_guard_stays_when_another_would_not_understand_it(home: Home, tmp_path: Path) -> None:
    package = tmp_path / "oxmgr"
    package.mkdir()
    own = Path(guards.__file__).parents[1]
    for path in own.iterdir():
        if path.name != "oxmgr-guard":
            (package / path.name).symlink_to(path)
    other = package / "oxmgr-guard"
    other.write_text('#!/bin/sh\n[ "$1" = check ] && echo 99\n')
    other.chmod(0o755)
    guard = guard_pid(home)
    words = daemon_argv()
    words[3] = f"{package}/__main__.py"
    connection = connect(home.places)
    connection.request(ReplaceDaemon(words))
    connection.wait_for_end()
    connection.close()
    log = Path(home.places.daemon_log)
    wait_until(lambda: "stays as it is" in log.read_text(), "what the log says")
    assert guard_pid(home) == guard and Path(f"/proc/{guard}/exe").samefile(own / "oxmgr-guard")
    home.kill_guarded()
    assert guard_pid(home) == guard
    assert sys.executable == words[0]


# --- the locks ---


@pytest.mark.parametrize("how", ["killed", "reexec"])
def test_the_state_folder_is_nobody_elses_between_two_daemons(home: Home, how: str) -> None:
    guard = guard_pid(home)
    daemon = home.about_daemon().pid
    lock = os.open(home.places.locks[1], os.O_RDWR)
    try:
        os.kill(guard, signal.SIGSTOP)
        os.kill(daemon, signal.SIGKILL) if how == "killed" else None
        if how == "killed":
            wait_until(lambda: state_of(daemon) == "Z", "its end")
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(guard, signal.SIGCONT)
        if how == "killed":
            home.another_than(daemon)
        else:
            reexec(home)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert Path(home.places.locks[1]).read_text() == f"{home.about_daemon().pid}\n"
        assert home.stop_daemon() == 0
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)

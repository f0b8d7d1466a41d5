"""What is signalled, what is not, and what an app's standard input takes."""

import errno
import fcntl
import os
import resource
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oxmgr.model.spec import Spec
from oxmgr.supervisor import process
from oxmgr.supervisor.output import Direct
from oxmgr.supervisor.process import Process, StartError, write_stdin
from tests.conftest import DEADLINE, as_nobody


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait(DEADLINE)
        assert child.stdout is not None
        child.stdout.close()


def gone(handle: int) -> bool:
    return bool(select.select([handle], [], [], DEADLINE)[0])


def take_number(pid: int) -> subprocess.Popen[bytes]:
    """Another process that has the number of one that is reaped."""
    for _ in range(500):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        if child.pid == pid:
            return child
        child.kill()
        child.wait(DEADLINE)
    raise AssertionError("others were faster each time")


# --- starts ---


def test_a_start_that_cannot_open_all_that_it_prints_to_leaves_nothing_open(tmp_path: Path) -> None:
    spec = Spec("app", "true", ["true"], "/")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartError, match="No such file"):
        process.start(
            spec,
            0,
            0,
            b"",
            [],
            stdin=str(tmp_path / "in"),
            outputs=(Direct("/dev/null"), Direct(str(tmp_path / "no" / "file"))),
        )
    assert os.listdir("/proc/self/fd") == before


# --- signals ---


@pytest.mark.parametrize("child", [True, False])
def test_a_process_that_has_become_another_users_refuses_and_does_not_raise(child: bool) -> None:
    with running("sleep", "1000") as other:
        main = Process(other.pid, os.pidfd_open(other.pid), child=child)
        for send in (main.signal, main.signal_group):
            with as_nobody():
                assert not send(signal.SIGTERM)
            assert main.refused
            assert send(signal.SIGCONT) and not main.refused
        main.close()


def test_to_signal_what_is_gone_is_false_and_no_refusal() -> None:
    with running("true") as other:
        main = Process(other.pid, os.pidfd_open(other.pid), child=False)
        other.wait(DEADLINE)
    assert not main.signal(signal.SIGTERM) and not main.signal_group(signal.SIGTERM) and not main.refused
    main.close()


@pytest.fixture(params=["flag", "no flag"])
def group_flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no flag":
        # One that no kernel has, so that it says what one before 6.9 says.
        monkeypatch.setattr(process, "_PROCESS_GROUP", 1 << 30)


def test_the_group_of_an_adopted_process_is_signalled_as_a_whole(group_flag: None) -> None:
    with running("sh", "-c", "sleep 1000 & echo $!; wait") as other:
        assert other.stdout is not None
        handle = os.pidfd_open(int(other.stdout.readline()))
        main = Process(other.pid, os.pidfd_open(other.pid), child=False)
        assert main.signal_group(signal.SIGKILL)
        assert gone(handle) and gone(main.pidfd)
        os.close(handle)
        main.close()


def test_a_stranger_that_has_an_adopted_process_s_number_is_not_signalled(group_flag: None) -> None:
    with running("sleep", "1000") as other:
        main = Process(other.pid, os.pidfd_open(other.pid), child=False)
    stranger = take_number(main.pid)
    try:
        assert not main.signal_group(signal.SIGKILL) and not main.signal(signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        assert stranger.wait(DEADLINE) == -signal.SIGKILL
        main.close()


def test_without_its_handle_an_adopted_process_is_not_signalled_by_number() -> None:
    with running("sleep", "1000") as other:
        main = Process(other.pid, -1, child=False)
        assert not main.signal(signal.SIGKILL) and not main.signal_group(signal.SIGKILL)
        assert other.poll() is None


# --- standard input ---


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Its name, and an fd that has it open both ways, as an app has."""
    path = str(tmp_path / "stdin")
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield path, fd
    os.close(fd)


def everything(fd: int) -> bytes:
    data = b""
    try:
        while part := os.read(fd, 1 << 20):
            data += part
    except BlockingIOError:
        pass
    return data


def test_input_is_taken_whole_or_not_at_all(fifo: tuple[str, int]) -> None:
    path, fd = fifo
    capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    write_stdin(path, b"x" * capacity)
    write_stdin(path, b"y" * capacity)
    assert everything(fd) == b"x" * capacity + b"y" * capacity
    with pytest.raises(BlockingIOError):
        write_stdin(path, b"x" * (1024 * 1024 + 1))
    assert everything(fd) == b""


def test_a_file_that_nobody_reads_is_taken_block_by_block_up_to_the_limit(fifo: tuple[str, int]) -> None:
    path, fd = fifo
    blocks = 0
    with pytest.raises(BlockingIOError):
        while True:
            write_stdin(path, b"x" * 32_768)
            blocks += 1
    assert blocks * 32_768 >= 400_000 and len(everything(fd)) == blocks * 32_768


@pytest.mark.parametrize("before", [1, 100, 2049, 4095, 4096, 5000])
@pytest.mark.parametrize("size", [4097, 5000, 20_000])
def test_what_is_taken_of_large_input_is_all_however_the_pipe_was_filled(
    fifo: tuple[str, int], before: int, size: int
) -> None:
    path, fd = fifo
    sent = b""
    taken = 0
    try:
        for number in range(1000):
            data = bytes([number % 251]) * (size if number % 3 == 2 else before)
            write_stdin(path, data)
            sent += data
            taken += 1
    except BlockingIOError:
        pass
    assert taken >= 3 and everything(fd) == sent


def test_a_line_goes_in_front_of_what_is_not_read_yet(fifo: tuple[str, int]) -> None:
    path, fd = fifo
    write_stdin(path, b"first\n")
    write_stdin(path, b"z" * 20_000)
    assert everything(fd) == b"first\n" + b"z" * 20_000


@pytest.mark.parametrize("room", [0, 1], ids=["no fd", "one, which the pidfd takes"])
def test_who_cannot_be_looked_at_is_not_taken_for_gone(room: int) -> None:
    """A daemon without file descriptors that takes over must not start a second copy."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running("sleep", "1000") as child:
        ticks = process.start_ticks(child.pid)
        lowest = os.dup(0)
        os.close(lowest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, before[1]))
            with pytest.raises(OSError, match="Too many open files"):
                process.adopt(child.pid, ticks)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        main = process.adopt(child.pid, ticks)
        assert main is not None
        main.close()
    assert process.adopt(child.pid, ticks) is None


def test_a_pidfd_that_cannot_be_had_now_is_no_sign_that_the_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pid: int) -> int:
        raise OSError(errno.EAGAIN, "not now")

    monkeypatch.setattr(os, "pidfd_open", fails)
    with pytest.raises(OSError, match="not now"):
        process.adopt(os.getpid(), process.start_ticks(os.getpid()))


def test_a_zombie_that_is_reaped_while_it_is_looked_at_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "read_stat", lambda pid: [b"Z", *[b"0"] * 49])
    assert process.zombie_exit(2**22 + 1) is None

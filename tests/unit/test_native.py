"""The extension: what a child is born with, and how ends are learnt. Also run under the sanitizers."""

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.supervisor import native
from tests.conftest import DEADLINE, wait_until

PATH = b"PATH=/usr/bin:/bin\0"
RUNGS = [0, 1, 2]


@pytest.fixture(params=RUNGS, ids=["clone3", "clone", "clone-and-pidfd_open"])
def rung(request: pytest.FixtureRequest) -> Iterator[int]:
    before = native.spawn_rung()
    yield native.spawn_rung(request.param)
    assert native.spawn_rung() == request.param, "the kernel has refused the way that was to be tested"
    native.spawn_rung(before)


def words(*texts: str) -> bytes:
    return b"".join(os.fsencode(text) + b"\0" for text in texts)


def spawn(*argv: str, **keys: object) -> tuple[int, int]:
    given = {"env": PATH, "base": b"", "folder": b"/", "fds": [0, 1, 2], "limits": [], "umask": 0o22, **keys}
    return native.spawn(words(*argv), **given)  # type: ignore[arg-type]


def ended(pidfd: int) -> None:
    """Wait for the end of that process. Not by select(2), which takes no fd over 1023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000), "it has not ended"


def wait(pid: int, pidfd: int) -> tuple[int | None, int | None]:
    """How that child ended; it is reaped and its handle closed."""
    ended(pidfd)
    os.close(pidfd)
    return {one: (code, number) for one, code, number in native.reap()}[pid]


def output(*argv: str, **keys: object) -> str:
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    pid, pidfd = spawn(*argv, fds=[null, writing, 2], **keys)
    os.close(writing)
    os.close(null)
    with open(reading, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    assert wait(pid, pidfd) == (0, None), text
    return text


def test_a_child_runs_and_its_exit_is_told(rung: int) -> None:
    assert wait(*spawn("sh", "-c", "exit 7")) == (7, None)
    assert wait(*spawn("sh", "-c", "kill -KILL $$")) == (None, 9)


def test_env_wins_over_base_and_each_variable_is_there_once(rung: int) -> None:
    text = output("env", env=PATH + words("A=own", "AB=1"), base=words("A=base", "B=base", "ABC=2"))
    assert sorted(text.split()) == ["A=own", "AB=1", "ABC=2", "B=base", "PATH=/usr/bin:/bin"]


def test_argv_may_hold_any_bytes_but_nul(rung: int) -> None:
    assert output("printf", "%s|", "", "a b", "\n", "é\udcff") == "|a b|\n|é\udcff|"


def test_the_child_leads_a_session_in_its_folder_with_its_umask_and_limits(rung: int) -> None:
    text = output(
        "sh", "-c", "ps -o pid=,pgid=,sid= -p $$; pwd; umask; ulimit -n; ulimit -Hn",
        folder=b"/usr/bin", umask=0o27, limits=[resource.RLIMIT_NOFILE, 123, 456],
    )  # fmt: skip
    ids, folder, umask, soft, hard = text.splitlines()
    assert len(set(ids.split())) == 1 and [folder, umask, soft, hard] == ["/usr/bin", "0027", "123", "456"]


def test_the_child_has_no_signal_blocked_or_ignored_and_the_parent_keeps_its_own(rung: int) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        text = output("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        assert {line.split()[1] for line in text.splitlines()} == {"0000000000000000"}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before | {signal.SIGTERM, signal.SIGUSR2}
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_the_child_has_exactly_its_fds_even_when_they_trade_places(rung: int) -> None:
    fds = []
    for number in range(5):
        fd = os.memfd_create(str(number))
        os.write(fd, f"file{number}".encode())
        fds.append(fd)
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    reading, writing = os.pipe()
    # The three lowest numbers that the child wants are given in turn by one another.
    script = "import os,sys; [os.lseek(f,0,0) for f in (0,2,3)]; os.write(1, b' '.join([os.read(0,9), os.read(2,9), os.read(3,9), str(os.listdir('/proc/self/fd')).encode()]))"
    pid, pidfd = spawn(sys.executable, "-I", "-S", "-c", script, fds=[fds[2], writing, fds[0], fds[1]])
    os.close(writing)
    with open(reading, "rb") as file:
        got = file.read()
    assert wait(pid, pidfd) == (0, None)
    assert got.startswith(b"file2 file0 file1 "), got
    # The last one is the listing's own.
    assert got.endswith(b"['0', '1', '2', '3', '4']"), got
    for fd in [*fds, inherited]:
        os.close(fd)


def test_a_child_gets_fds_at_their_numbers_and_nothing_between(rung: int) -> None:
    fds = [os.memfd_create(str(number)) for number in range(3)]
    for number, fd in enumerate(fds):
        os.write(fd, f"file{number}".encode())
    null, (reading, writing) = os.open("/dev/null", os.O_RDWR), os.pipe()
    script = "import os; read = lambda fd: os.pread(fd, 9, 0); os.write(1, b' '.join([read(3), read(7), read(300), str(os.listdir('/proc/self/fd')).encode()]))"
    placed = {0: null, 1: writing, 2: null, 3: fds[2], 7: fds[0], 300: fds[1]}
    pid, pidfd = spawn(sys.executable, "-I", "-S", "-c", script, fds=[*placed.values()], numbers=[*placed])
    os.close(writing)
    with open(reading, "rb") as file:
        got = file.read()
    assert wait(pid, pidfd) == (0, None)
    # 4 is the listing's own.
    assert got == b"file2 file0 file1 ['0', '1', '2', '3', '4', '7', '300']", got
    for fd in [*fds, null]:
        os.close(fd)


def test_a_child_has_its_own_pid_in_a_variable(rung: int) -> None:
    text = output(
        "sh", "-c", "echo $LISTEN_PID $OTHER $$", base=words("LISTEN_PID=1"), pid_names=words("LISTEN_PID", "OTHER")
    )
    assert len(set(text.split())) == 1 and len(text.split()) == 3, text


def test_fds_that_do_not_rise_are_refused() -> None:
    for numbers in ([0, 2, 1], [0, 1, 1], [-1, 0, 1]):
        with pytest.raises(native.SpawnError, match="Invalid argument"):
            spawn("true", numbers=numbers)
    with pytest.raises(native.SpawnError, match="Invalid argument"):
        spawn("true", pid_names=words("ONE", "TWO", "THREE"))


def test_fds_that_are_each_others_places_are_not_lost(rung: int) -> None:
    first, second = os.memfd_create("a"), os.memfd_create("b")
    os.write(first, b"first")
    os.write(second, b"second")
    script = (
        "import os, sys\nfrom oxmgr.supervisor import native\n"
        "a, b, out = map(int, sys.argv[1:])\n"
        "os.dup2(a, 0); os.dup2(b, 1)\n"
        "pid, fd = native.spawn(b'sh\\0-c\\0cat <&1 >&2; cat <&0 >&2\\0', b'PATH=/usr/bin:/bin\\0', b'', b'/', [1, 0, out], [], 0o22)\n"
        "os.waitpid(pid, 0)\n"
    )
    reading, writing = os.pipe()
    for fd in (first, second):
        os.lseek(fd, 0, os.SEEK_SET)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = {sys.path!r}\n{script}",
            str(first),
            str(second),
            str(writing),
        ],
        pass_fds=[first, second, writing],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    os.close(writing)
    with open(reading) as file:
        assert file.read() == "firstsecond"
    assert done.returncode == 0
    os.close(first)
    os.close(second)


@pytest.mark.parametrize(
    ("argv", "keys", "step", "error"),
    [
        (["nope"], {}, "execute", errno.ENOENT),
        (["/etc/passwd"], {}, "execute", errno.EACCES),
        (["/usr/bin"], {}, "execute", errno.EACCES),
        (["/etc/passwd/x"], {}, "execute", errno.ENOTDIR),
        (["true"], {"folder": b"/nowhere"}, "change to the folder", errno.ENOENT),
        (["true"], {"folder": b"/etc/passwd"}, "change to the folder", errno.ENOTDIR),
        (["true"], {"fds": [0, 1, 999]}, "place the file descriptors", errno.EBADF),
        (["true"], {"fds": [0] * 513}, "place the file descriptors", errno.EMFILE),
        (["true"], {"limits": [resource.RLIMIT_NOFILE, 9, 5]}, "set the resource limits", errno.EINVAL),
        (["x" * 300], {}, "execute", errno.ENOENT),
    ],
)
def test_what_fails_is_told_by_step_and_errno_and_leaves_nothing(
    rung: int, argv: list[str], keys: dict[str, object], step: str, error: int
) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(native.SpawnError) as failed:
        spawn(*argv, **keys)
    assert (failed.value.step, failed.value.errno) == (step, error)
    assert native.reap() == [] and len(os.listdir("/proc/self/fd")) == fds


def test_strings_without_their_nul_are_refused() -> None:
    with pytest.raises(native.SpawnError, match="Invalid argument"):
        native.spawn(b"true", b"", b"", b"/", [0, 1, 2], [], 0)
    with pytest.raises(native.SpawnError):
        native.spawn(b"", b"", b"", b"/", [0, 1, 2], [], 0)


def test_path_is_walked_past_folders_that_may_not_be_read_and_files_that_may_not_run(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "prog").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "b/prog").chmod(0o755)
    path = f"PATH={tmp_path}/nowhere:/etc/passwd:{tmp_path}/a:{tmp_path}/b".encode() + b"\0"
    assert output("prog", env=path) == "found\n"
    with pytest.raises(native.SpawnError, match="Permission denied"):
        spawn("prog", env=f"PATH={tmp_path}/a".encode() + b"\0")


def test_a_relative_program_is_relative_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\necho here\n")
    (tmp_path / "run").chmod(0o755)
    assert output("./run", folder=os.fsencode(tmp_path)) == "here\n"


def test_a_thousand_ends_are_all_reaped() -> None:
    pids = set()
    for _ in range(1000):
        pid, pidfd = spawn("true")
        os.close(pidfd)
        pids.add(pid)
    reaped: set[int] = set()

    def all_reaped() -> bool:
        reaped.update(pid for pid, code, _ in native.reap() if code == 0)
        return reaped == pids

    wait_until(all_reaped, "a thousand ends", 30)


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[int]:
    """An fd of a file for notes, of one page."""
    fd = os.open(tmp_path / "notes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    os.ftruncate(fd, 4096)
    yield fd
    native.note_ends(-1, 0, 0, 0)
    os.close(fd)


def ends(fd: int, offset: int, count: int) -> list[tuple[int, int]]:
    words = memoryview(os.pread(fd, count * native.END_SIZE, offset)).cast("i")
    return [(words[4 * i], words[4 * i + 1]) for i in range(count)]


def test_the_pid_is_written_before_the_child_runs_and_taken_back_when_it_does_not(rung: int, noted: int) -> None:
    shared = native.Shared(noted, 4096)
    read = f"import os; print(os.getpid() == int.from_bytes(os.pread({noted}, 4, 1024), '{sys.byteorder}'))"
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    fds = {0: null, 1: writing, 2: 2, noted: noted}
    order = sorted(fds)
    pid, pidfd = spawn(
        sys.executable, "-I", "-S", "-c", read, fds=[fds[n] for n in order], numbers=order, told=shared.word(1024)
    )
    os.close(writing)
    os.close(null)
    with open(reading) as file:
        assert file.read() == "True\n"
    assert wait(pid, pidfd) == (0, None)
    assert int.from_bytes(os.pread(noted, 4, 1024), sys.byteorder) == pid
    with pytest.raises(native.SpawnError):
        spawn("/does/not/exist", told=shared.word(1024))
    assert os.pread(noted, 4, 1024) == bytes(4)


def test_a_file_that_has_lost_its_room_ends_nobody(rung: int, noted: int) -> None:
    shared = native.Shared(noted, 4096)
    os.ftruncate(noted, 0)
    assert wait(*spawn("true", told=shared.word(0))) == (0, None)
    with pytest.raises(native.SpawnError):
        spawn("/does/not/exist", told=shared.word(0))


def test_an_end_is_noted_before_it_is_reaped_round_and_round(noted: int) -> None:
    begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    native.note_ends(noted, 32, 3, 2)
    pids = []
    for script in ("exit 7", "kill -9 $$", "exit 0", "exit 255"):
        pid, pidfd = spawn("sh", "-c", script)
        wait(pid, pidfd)
        pids.append(pid)
    assert ends(noted, 32, 3) == [(pids[1], 9), (pids[2], 0), (pids[3], 255 << 8)]
    moments = memoryview(os.pread(noted, 3 * native.END_SIZE, 32)).cast("Q")
    assert begun < moments[1] < moments[3] < moments[5] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_an_end_that_cannot_be_noted_is_reaped_all_the_same(noted: int) -> None:
    reading = os.open(f"/proc/self/fd/{noted}", os.O_RDONLY | os.O_CLOEXEC)
    native.note_ends(reading, 0, 3, 0)
    assert wait(*spawn("sh", "-c", "exit 4")) == (4, None)
    os.close(reading)


def test_the_pidfd_is_of_the_child_and_close_on_exec(rung: int) -> None:
    pid, pidfd = spawn("sleep", "1000")
    assert not os.get_inheritable(pidfd)
    signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
    assert wait(pid, pidfd) == (None, signal.SIGUSR1)


def test_what_spawns_leaks_nothing() -> None:
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    big = words(*(f"K{number}={'x' * 100}" for number in range(500)))
    for _ in range(20):
        wait(*spawn("true", base=big))
    before, fds = memory(), len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        wait(*spawn("true", base=big))
    assert memory() - before < 256 and len(os.listdir("/proc/self/fd")) == fds


def test_seccomp_that_refuses_clone3_and_pidfds_is_survived() -> None:
    """The filter is installed in a process of its own: libseccomp-free BPF, as prctl(2) and seccomp(2) describe it."""
    script = """
import ctypes, os, struct, sys
sys.path[:0] = PATHS
from oxmgr.supervisor import native
REFUSED, EPERM = (435, 434, 436), 1
prog = [(0x20, 0, 0, 0)]
for at, number in enumerate(REFUSED):
    prog.append((0x15, len(REFUSED) - at, 0, number))
prog += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050000 | EPERM)]
code = b"".join(struct.pack("HBBI", *one) for one in prog)
buffer = ctypes.create_string_buffer(code)
class Prog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Prog(len(prog), ctypes.addressof(buffer)))) == 0, ctypes.get_errno()
pid, pidfd = native.spawn(b"sh\\0-c\\0exit 5\\0", b"PATH=/usr/bin:/bin\\0", b"", b"/", [0, 1, 2], [], 0o22)
assert os.waitpid(pid, 0)[1] == 5 << 8
print(native.spawn_rung(), pidfd >= 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script.replace("PATHS", repr(sys.path))], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 True\n", done.stderr


def test_signals_come_by_fd_and_time_too() -> None:
    script = """
import os, select, signal, sys, time
sys.path[:0] = PATHS
from oxmgr.supervisor import native
fd = native.signalfd([signal.SIGUSR1, signal.SIGTERM])
assert native.read_signals(fd) == []
os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGUSR1)
select.select([fd], [], [], 5)
assert sorted(native.read_signals(fd)) == [10, 15]
timer = native.timerfd()
begun = time.monotonic()
native.timerfd_set(timer, int((begun + 0.05) * 1e9))
assert select.select([timer], [], [], 5)[0] and 0.05 <= time.monotonic() - begun < 1
native.timerfd_set(timer, 0)
assert select.select([timer], [], [], 0.05)[0] == []
"""
    subprocess.run([sys.executable, "-c", script.replace("PATHS", repr(sys.path))], check=True)


def test_the_exit_of_somebody_elses_child_is_told_or_refused_but_never_invented() -> None:
    pid, pidfd = spawn("sh", "-c", "exit 9")
    ended(pidfd)
    try:
        native.pidfd_exit(pidfd)
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.ENOTTY, errno.EINVAL), error
    assert native.reap() == [(pid, 9, None)]
    try:
        assert native.pidfd_exit(pidfd) == (9, None)
    except OSError as error:
        assert error.errno in (errno.ENOTTY, errno.EINVAL), "a kernel before 6.15"
    os.close(pidfd)


def test_with_a_terminal_a_child_leads_a_group_of_our_session_in_its_foreground() -> None:
    """In a session that has one; without, in any group of its own."""
    ours, its = os.openpty()
    leader = os.fork()
    if leader == 0:
        code = 1
        try:
            os.setsid()
            fcntl.ioctl(its, termios.TIOCSCTTY, 0)
            # In the background at first, as a daemon is.
            script = 'test "$(ps -o pgid= -p $$)" -eq $$ && test "$(ps -o tpgid= -p $$)" -eq $$ && ps -o sid= -p $$'
            pid, pidfd = spawn("sh", "-c", f'test "$({script})" -eq {os.getpid()}', fds=[its, 1, 2], terminal=its)
            code = wait(pid, pidfd)[0] or 0
        finally:
            os._exit(code)
    os.close(its)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1]) == 0
    finally:
        os.close(ours)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        session = os.getsid(0)
        script = f'test "$(ps -o pgid= -p $$)" -eq $$ && test "$(ps -o sid= -p $$)" -eq {session}'
        assert wait(*spawn("sh", "-c", script, fds=[null, 1, 2], terminal=null)) == (0, None)
    finally:
        os.close(null)


# --- the wall clock, and what is watched ---


def test_a_timer_on_the_wall_clock_fires_when_that_says_so() -> None:
    fd = native.wall_timerfd()
    try:
        assert not os.get_inheritable(fd) and not os.get_blocking(fd)
        begun = time.time()
        assert native.wall_timerfd_set(fd, int((begun + 0.05) * 1e9))
        assert select.select([fd], [], [], DEADLINE)[0]
        assert time.time() >= begun + 0.05
        native.wall_timerfd_set(fd, 0)
        assert not select.select([fd], [], [], 0)[0]
    finally:
        os.close(fd)


def test_what_happens_in_a_watched_folder_is_told_in_order(tmp_path: Path) -> None:
    fd = native.watch()
    try:
        assert not os.get_inheritable(fd) and native.read_watch(fd) == ([], True)
        number = native.watch_add(fd, str(tmp_path))
        assert native.watch_add(fd, str(tmp_path), written=False) == number, "and it goes on telling of what is written"
        (tmp_path / "naïve").write_text("x")
        (tmp_path / "naïve").rename(tmp_path / "x")
        (tmp_path / "d").mkdir()
        (tmp_path / "x").unlink()
        events, are_all = native.read_watch(fd)
        assert are_all and {one for one, _, _ in events} == {number}
        assert [(mask, name) for _, mask, name in events] == [
            (native.MADE, "naïve"),
            (native.WRITTEN, "naïve"),
            (native.MOVED_FROM, "naïve"),
            (native.MOVED_TO, "x"),
            (native.MADE | native.FOLDER, "d"),
            (native.REMOVED, "x"),
        ]
        native.watch_remove(fd, number)
        assert native.read_watch(fd)[0] == [(number, native.FORGOTTEN, "")]
        native.watch_remove(fd, number)
    finally:
        os.close(fd)


def test_a_long_row_of_events_comes_in_pieces(tmp_path: Path) -> None:
    fd = native.watch()
    try:
        native.watch_add(fd, str(tmp_path))
        for number in range(400):
            (tmp_path / f"{number:0200}").touch()
        names, whole = [], False
        while not whole:
            events, whole = native.read_watch(fd)
            names += [name for _, mask, name in events if mask == native.MADE]
        assert names == [f"{number:0200}" for number in range(400)]
    finally:
        os.close(fd)


def test_only_a_folder_can_be_watched(tmp_path: Path) -> None:
    fd = native.watch()
    try:
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            native.watch_add(fd, str(tmp_path / "file"))
        with pytest.raises(FileNotFoundError):
            native.watch_add(fd, str(tmp_path / "nothing"))
    finally:
        os.close(fd)


def test_whose_a_socket_is() -> None:
    with socket.socket() as one:
        pid, wanted = os.getpid(), [5, os.fstat(one.fileno()).st_ino]
        assert native.has_socket([pid], wanted, 10_000) == native.HAS
        assert native.has_socket([pid], [5], 10_000) == native.HAS_NOT
        assert native.has_socket([pid], [5], 2) == native.UNFINISHED
        assert native.has_socket([], wanted, 2) == native.HAS_NOT
    assert native.has_socket([pid], wanted, 10_000) == native.HAS_NOT

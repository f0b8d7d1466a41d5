"""Clients that do not behave, and who may be one."""

import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxmgr.client.connection import NoDaemon, Refused, connect
from oxmgr.client.launch import daemon_argv
from oxmgr.model.codec import decode, encode
from oxmgr.model.frames import FRAME_LIMIT, PROTOCOL, frame
from oxmgr.model.messages import Act, Apply, Done, Env, Failed, GetDaemon, GetEnv, GetEvents, GetInstances, Hello
from oxmgr.model.places import Places
from oxmgr.supervisor.control import Client, Server
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.loop import READ, Loop
from tests.conftest import Home, wait_until


@pytest.fixture
def raw(home: Home) -> Iterator[socket.socket]:
    """A socket that is connected and has said nothing."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(home.places.socket)
        yield sock


HELLO = frame(encode(Hello(PROTOCOL, "test")))


def hung_up(sock: socket.socket) -> bool:
    """Whether the other side closes, after whatever it still says."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def answers(home: Home) -> bool:
    return home.views() is not None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        os.urandom(64) + b"\xff" * 64,
        (2**31).to_bytes(4, "big") + b"x",
        (FRAME_LIMIT + 1).to_bytes(4, "big"),
        frame(b""),
        frame(b"\xc1"),
        frame(encode({"type": "hello"})),
        frame(encode(Hello(99, "9.9.9"))),
        HELLO + frame(encode({"type": "nothing-known"})),
        HELLO + frame(encode({"type": "act", "verb": 5, "targets": []})),
        HELLO + frame(b"\x81\xa4type\xa5apply" * 100),
        HELLO + frame(b"\x83\xa4type\xa3act\xa4verb\xa1\xff\xa7targets\x90"),
        HELLO + frame(b"\x82\xa4type\xa6daemon\xa1x" + b"\x91" * 5000 + b"\x90"),
        (64 * 1024 + 1).to_bytes(4, "big"),
    ],
)
def test_garbage_gets_its_sender_dropped_and_nobody_else(home: Home, raw: socket.socket, data: bytes) -> None:
    raw.sendall(data)
    assert hung_up(raw)
    assert answers(home)


def test_half_a_frame_holds_up_nobody(home: Home, raw: socket.socket) -> None:
    raw.sendall(HELLO + (1000).to_bytes(4, "big") + b"half of it")
    home.apply(home.sh("app", "exec sleep 1000"))
    home.request(Act("stop", ["app"]))


def test_two_requests_at_once_are_answered_one_after_the_other(home: Home, raw: socket.socket) -> None:
    raw.sendall(HELLO + frame(encode(GetInstances())) * 3)
    got = b""
    while got.count(b"instances") < 6:
        got += raw.recv(65536)


def test_hundreds_of_requests_in_one_write_are_answered_each(home: Home, raw: socket.socket) -> None:
    raw.sendall(HELLO + frame(encode(GetDaemon())) * 600)
    file = raw.makefile("rb")
    replies = [decode(file.read(int.from_bytes(file.read(4), "big"))) for _ in range(601)]
    assert {reply["type"] for reply in replies[1:]} == {"daemon"}
    file.close()


def test_one_client_with_much_to_ask_lets_others_have_their_turn(home: Home, raw: socket.socket) -> None:
    home.apply(*(home.sh(f"app{number}", "exec sleep 1000") for number in range(50)))
    raw.sendall(HELLO)
    raw.setblocking(False)
    sent = 0
    data = frame(encode(GetInstances())) * 5000
    try:
        while sent < len(data):
            sent += raw.send(data[sent:])
    except BlockingIOError:
        pass
    begun = time.monotonic()
    connection = connect(home.places)
    connection.request(GetDaemon())
    connection.close()
    assert time.monotonic() - begun < 0.5
    home.apply(prune=True)


def test_what_nobody_has_introduced_is_not_kept(home: Home, raw: socket.socket) -> None:
    raw.sendall((FRAME_LIMIT).to_bytes(4, "big") + b"x" * 1000)
    assert hung_up(raw)


def test_all_clients_together_cost_bounded_memory_and_the_largest_goes_first(home: Home) -> None:
    assert home.daemon is not None
    small = home.connect()
    before = resident(home.daemon.pid)
    held = crowd(home, 12)
    for sock in held:
        try:
            sock.sendall((FRAME_LIMIT).to_bytes(4, "big") + b"x" * (12 * 1024 * 1024))
        except OSError:
            pass
    wait_until(lambda: "all clients together" in daemon_log(home), "one to be dropped")
    assert resident(home.daemon.pid) - before < 1.5 * 64 * 1024 * 1024
    assert small.request(GetInstances())
    for sock in held:
        sock.close()


@pytest.mark.parametrize("value", [b"\xff\xfe", "hé".encode("latin-1")])
def test_an_environment_need_not_be_text(home: Home, value: bytes) -> None:
    home.request(Apply([home.sh("app", "printenv ODD; exec sleep 1000")], b"PATH=/usr/bin:/bin\0ODD=" + value + b"\0"))
    reply = home.connect().request(GetEnv("app"))
    assert isinstance(reply, Env) and os.fsencode(reply.env["ODD"]) == value and reply.env["OXMGR_APP"] == "app"
    log = Path(f"{home.places.logs}/app.out.log")
    wait_until(lambda: log.exists() and value in log.read_bytes(), "its own words")


def test_a_client_that_stops_reading_costs_bounded_memory_and_no_time(home: Home) -> None:
    home.apply(*(home.sh(f"app{number}", "exec sleep 1000") for number in range(50)))
    assert home.daemon is not None
    before = resident(home.daemon.pid)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.settimeout(5)
        deaf.connect(home.places.socket)
        deaf.sendall(HELLO)
        deaf.settimeout(0.2)
        try:
            for _ in range(20_000):
                deaf.sendall(frame(encode(GetInstances())))
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        begun = time.monotonic()
        assert answers(home)
        assert time.monotonic() - begun < 0.5
        assert resident(home.daemon.pid) - before < FRAME_LIMIT * 2.5
    home.apply(prune=True)


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_follower_that_stops_reading_is_dropped_while_others_hear_on(home: Home) -> None:
    deaf = home.connect()
    stream = deaf.stream(GetEvents(follow=True))
    next(stream)
    good = home.connect()
    heard = good.stream(GetEvents(limit=0, follow=True))
    next(heard)
    home.apply(home.sh("app", "exec sleep 1000"))
    assert "app" in {next(heard).app for _ in range(2)}  # type: ignore[union-attr]


def test_a_client_that_goes_while_it_waits_leaves_the_work_to_be_done(home: Home) -> None:
    home.apply(home.sh("app", "trap 'sleep 0.2; exit 0' TERM; echo up; while :; do sleep 0.01; done"))
    wait_until(lambda: "up" in home.log("app"), "the trap")
    gone = connect(home.places)
    gone._send(Act("stop", ["app"]))
    home.until("app", lambda view: view.status == "stopping")
    gone.close()
    home.until("app", lambda view: view.status == "stopped")


def test_many_silent_clients_lock_nobody_out_who_is_in(home: Home) -> None:
    inside = home.connect()
    silent = []
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(home.places.socket)
        silent.append(sock)
    assert inside.request(GetInstances())
    for sock in silent:
        sock.close()
    wait_until(lambda: _tries(home), "room for new clients")


def _tries(home: Home) -> bool:
    try:
        return answers(home)
    except NoDaemon:
        return False


def crowd(home: Home, number: int) -> list[socket.socket]:
    """So many clients that have introduced themselves and stay."""
    held = []
    for _ in range(number):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(home.places.socket)
        sock.sendall(HELLO)
        held.append(sock)
    return held


def test_clients_leave_room_for_the_fds_of_supervision(empty_home: Home) -> None:
    home = empty_home
    pid = home.start_daemon(nofile=40)
    home.apply(home.sh("left", "setsid sleep 1234 & echo $!; exec sleep 1235"))
    wait_until(lambda: home.log("left"), "its child")
    left = os.pidfd_open(int(home.log("left")))
    inside = home.connect()
    held = crowd(home, 60)
    wait_until(lambda: "clients are turned away: there are 13" in daemon_log(home), "the log to say so")
    done = inside.request(Act("stop", ["left"]))
    assert isinstance(done, Done) and done.instances[0].status == "stopped"
    assert select.select([left], [], [], 0)[0], "stopped means that nothing of it lives"
    os.close(left)
    for sock in held:
        sock.close()
    wait_until(lambda: _tries(home), "the daemon to answer again")
    assert home.daemon is not None and home.daemon.pid == pid


def test_no_fds_left_is_survived_and_told(empty_home: Home) -> None:
    home = empty_home
    home.start_daemon(nofile=41)
    inside = home.connect()
    inside._send(Apply([home.sh("app", "exec sleep 1000", instances=30)]))
    wait_until(lambda: "file descriptors are taken" in daemon_log(home), "its instances to have all fds")
    held = crowd(home, 20)
    wait_until(lambda: "there are no file descriptors left" in daemon_log(home), "the log to say so")
    for sock in held:
        sock.close()
    home.connections.remove(inside)
    inside.close()
    wait_until(lambda: _tries(home), "the daemon to answer again")
    home.request(Act("stop", ["all"]))
    assert {view.status for view in home.views().values()} == {"stopped"}


def daemon_log(home: Home) -> str:
    with open(home.places.daemon_log) as file:
        return file.read()


def test_the_socket_and_the_files_are_nobody_elses(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000", env={"SECRET": "x"}))
    for folder in (home.places.state, home.places.run, home.places.logs):
        assert os.stat(folder).st_mode & 0o777 == 0o700
        for name in os.listdir(folder):
            assert not os.stat(f"{folder}/{name}").st_mode & 0o007, name
    for name in ("desired", "journal", "lock", "events"):
        assert os.stat(f"{home.places.state}/{name}").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("groups", "welcome"), [([], False), ([65533], True)])
def test_only_the_owner_root_and_the_named_group_are_answered(
    empty_home: Home, groups: list[int], welcome: bool
) -> None:
    """As user 65534, through a folder that anybody may enter."""
    reading, told = os.pipe()
    argv = daemon_argv(group=65533, told=told)
    empty_home.daemon = subprocess.Popen(argv, env=empty_home.env, pass_fds=[told], stdin=subprocess.DEVNULL)
    os.close(told)
    with open(reading) as file:
        assert file.read() == "\n"
    empty_home.folder.chmod(0o755)
    os.chmod(empty_home.places.run, 0o777)
    os.chmod(empty_home.places.socket, 0o666)
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])\n"
        "try:\n    s.sendall(bytes.fromhex(sys.argv[2])); print(len(s.recv(100)) > 0)\n"
        "except (BrokenPipeError, ConnectionResetError):\n    print(False)\n"
    )
    done = subprocess.run(
        ["python3", "-c", script, empty_home.places.socket, HELLO.hex()],
        user=65534, group=65534, extra_groups=groups, capture_output=True, text=True, check=False, cwd="/",
        executable="/usr/bin/python3",
    )  # fmt: skip
    assert done.stdout.strip() == str(welcome), done


def test_a_home_with_a_very_long_name_works(empty_home: Home) -> None:
    from oxmgr.model.places import find_places

    long = empty_home.folder / ("long" * 30)
    long.mkdir()
    empty_home.env["OXMGR_HOME"] = str(long)
    empty_home.places = find_places({"OXMGR_HOME": str(long)}, 0)
    empty_home.start_daemon()
    assert answers(empty_home)


def test_a_second_daemon_says_whose_home_it_is_and_ends(home: Home) -> None:
    done = subprocess.run(daemon_argv(), env=home.env, capture_output=True, text=True, check=False)
    assert home.daemon is not None
    assert done.returncode == 1
    assert f"another one runs for {home.folder}, pid {home.daemon.pid}" in done.stderr
    assert answers(home)


def test_a_stale_socket_is_replaced(home: Home) -> None:
    home.kill_daemon()
    assert os.path.exists(home.places.socket)
    with pytest.raises(NoDaemon, match="no daemon runs"):
        connect(home.places)
    home.start_daemon()
    assert answers(home)


def test_a_daemon_that_hangs_is_told_from_one_that_is_not_there(home: Home) -> None:
    import signal

    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NoDaemon, match="hangs or is stopped"):
            connect(home.places, timeout=0.3)
    finally:
        home.daemon.send_signal(signal.SIGCONT)


def test_requests_that_make_no_sense_are_refused_with_the_reason(home: Home) -> None:
    from oxmgr.model.messages import SendSignal
    from oxmgr.model.spec import Spec

    app = home.sh("app", "exec sleep 1000")
    cases = [
        (Act("explode", ["all"]), "explode"),
        (Act("stop", []), "nothing was named"),
        (SendSignal(["all"], 99), "no signal 99"),
        (Apply([app, app]), "app is there twice"),
        (Apply([Spec("a", "", [], "/")]), "needs a command"),
        (
            Apply([home.sh("a", "x", depends_on={"b": "started"}), home.sh("b", "x", depends_on={"a": "started"})]),
            "circle",
        ),
        (Apply([home.sh("a", "x", instances=0)]), "1 to 10000 instances"),
    ]
    for request, why in cases:
        with pytest.raises(Refused, match=why):
            home.request(request)
    assert home.views() == {}


def test_the_daemon_imports_what_it_may_and_nothing_else(home: Home) -> None:
    """Reads the daemon's own list of loaded libraries and Python files."""
    assert home.daemon is not None
    script = (
        "import sys\n"
        f"sys.path[1:1] = {[*daemon_argv()[5].split(':')]!r}\nimport oxmgr.supervisor.daemon\nprint('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    allowed = {
        "sys", "builtins", "_frozen_importlib", "_imp", "_thread", "_warnings", "_weakref", "_io", "marshal", "posix",
        "_frozen_importlib_external", "time", "zipimport", "_codecs", "codecs", "encodings", "encodings.aliases",
        "encodings.utf_8", "_signal", "_abc", "abc", "io", "__main__", "os", "os.path", "posixpath", "genericpath", "stat",
        "_stat", "_collections_abc", "_datetime", "datetime", "types", "msgspec", "msgspec._core", "fcntl", "resource",
        "_prctl", "_cffi_backend", "select", "heapq", "_heapq", "_socket", "binascii", "errno", "_bisect", "_tokenize",
        "_distutils_hack", "warnings", "zlib",
    }  # fmt: skip
    strangers = {name for name in loaded if not name.startswith("oxmgr") and name not in allowed}
    assert not strangers
    assert not {name for name in loaded if name.startswith(("oxmgr.cli", "oxmgr.config", "oxmgr.client"))}


class Here:
    """A server in a loop of its own, in this process."""

    def __init__(self, folder: Path, commands: object) -> None:
        self.faults: list[Exception] = []
        self.loop = Loop(self.faults.append)
        self.places = Places(str(folder), str(folder), str(folder))
        self.server = Server(self.places.socket, -1, self.loop, Log(self.places.daemon_log))
        self.server.commands = commands  # type: ignore[assignment]

    def run_while(self, what: Callable[[], object]) -> None:
        """Run the loop until that has been done in a thread."""

        def thread() -> None:
            try:
                what()
            except BaseException as wrong:
                failed.append(wrong)
            os.eventfd_write(done, 1)

        failed: list[BaseException] = []
        done = os.eventfd(0)
        self.loop.add(done, READ, lambda _: self.loop.stop())
        self.loop._going = True
        beside = threading.Thread(target=thread)
        beside.start()
        self.loop.run()
        beside.join()
        self.loop.remove(done)
        os.close(done)
        assert not failed, failed

    def end(self) -> None:
        self.server.stop_listening()
        self.server.hang_up()


class Waits:
    """Commands that answer nothing and note who has hung up; to every second one they answer at once."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def handle(self, request: object, client: Client) -> None:
        client.on_close.append(lambda: self.left.append(type(request).__name__))
        if isinstance(request, GetDaemon):
            client.finish(Failed("at once"))


def test_who_hangs_up_before_the_last_reply_can_have_what_waits_taken_back_once(tmp_path: Path) -> None:
    waits = Waits()
    here = Here(tmp_path, waits)

    def hang_up_while_waiting() -> None:
        connection = connect(here.places)
        with pytest.raises(Refused):
            connection.request(GetDaemon())
        connection._send(GetInstances())
        connection.close()
        wait_until(lambda: waits.left, "the daemon to hear of it")

    here.run_while(hang_up_while_waiting)
    here.end()
    assert waits.left == ["GetInstances"] and here.faults == []


def test_a_stranger_s_fd_is_not_closed_when_there_was_none_to_be_had(tmp_path: Path) -> None:
    here = Here(tmp_path, Waits())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = socket.socket(socket.AF_UNIX)
    spare = here.server._spare

    def come_again() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            first.connect(here.places.socket)
            wait_until(lambda: here.server._spare == -1, "the spare one to be given up")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stranger = os.dup2(first.fileno(), spare)
        # What was at the door is let in once there is room.
        connect(here.places).close()
        assert os.path.sameopenfile(stranger, first.fileno())
        os.close(stranger)

    here.run_while(come_again)
    first.close()
    here.end()
    assert here.faults == []


class Faulty:
    """A daemon's commands that have a fault, and ones whose answer is over the limit of a frame."""

    def handle(self, request: object, client: Client) -> None:
        if isinstance(request, GetDaemon):
            raise ZeroDivisionError("a fault")
        client.finish(Failed("x" * FRAME_LIMIT))


def test_a_fault_of_the_daemon_is_an_answer_and_no_silence(tmp_path: Path) -> None:
    here = Here(tmp_path, Faulty())
    told: list[str] = []

    def ask() -> None:
        connection = connect(here.places)
        for request in (GetDaemon(), GetInstances(), GetDaemon()):
            with pytest.raises(Refused) as refused:
                connection.request(request)
            told.append(str(refused.value))
        connection.close()

    here.run_while(ask)
    assert told == [
        "a fault in the daemon, ZeroDivisionError: its log has it, please report it",
        f"a message of {FRAME_LIMIT + 32} bytes is over the limit of {FRAME_LIMIT}: ask for fewer apps at a time",
        "a fault in the daemon, ZeroDivisionError: its log has it, please report it",
    ]
    assert [type(fault) for fault in here.faults] == [ZeroDivisionError, ZeroDivisionError]
    here.end()


def test_a_fault_does_not_hold_up_what_was_asked_in_the_same_write(tmp_path: Path) -> None:
    here = Here(tmp_path, Faulty())

    def ask() -> None:
        connection = connect(here.places)
        connection._sock.sendall(frame(encode(GetDaemon())) * 3)
        for _ in range(3):
            assert "a fault in the daemon" in str(connection._receive())
        connection.close()

    here.run_while(ask)
    here.end()
    assert len(here.faults) == 3


@pytest.mark.parametrize("nofile", range(36, 46, 3))
def test_whichever_open_is_the_last_one_the_daemon_lives_on(empty_home: Home, nofile: int) -> None:
    home = empty_home
    home.start_daemon(nofile=nofile)
    connection = home.connect()
    connection._send(Apply([home.sh("app", "exec sleep 1000", instances=30)]))
    wait_until(lambda: "file descriptors are taken" in daemon_log(home), "its instances to have all fds")
    home.connections.remove(connection)
    connection.close()
    wait_until(lambda: _tries(home), "the daemon to answer")
    home.request(Act("stop", ["all"]))
    assert "fault" not in daemon_log(home)

"""Clients that do not behave, and who may be one."""

import os
import resource
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oxmgr.client.connection import NoDaemon, Refused, connect
from oxmgr.client.launch import daemon_argv
from oxmgr.model.codec import decode, encode
from oxmgr.model.frames import FRAME_LIMIT, frame
from oxmgr.model.messages import Act, Apply, Env, Failed, GetDaemon, GetEnv, GetInstances, Hello
from oxmgr.model.places import Places
from oxmgr.supervisor.control import Client, Server
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.loop import READ, Loop
from tests.conftest import Home, wait_until
from tests.integration.clients import HELLO, answers, hung_up


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


@pytest.mark.parametrize("value", [b"\xff\xfe", "hé".encode("latin-1")])
def test_an_environment_need_not_be_text(home: Home, value: bytes) -> None:
    home.request(Apply([home.sh("app", "printenv ODD; exec sleep 1000")], b"PATH=/usr/bin:/bin\0ODD=" + value + b"\0"))
    reply = home.connect().request(GetEnv("app"))
    assert isinstance(reply, Env) and os.fsencode(reply.env["ODD"]) == value and reply.env["OXMGR_APP"] == "app"
    log = Path(f"{home.places.logs}/app.out.log")
    wait_until(lambda: log.exists() and value in log.read_bytes(), "its own words")


def test_a_client_that_goes_while_it_waits_leaves_the_work_to_be_done(home: Home) -> None:
    home.apply(home.sh("app", "trap 'sleep 0.2; exit 0' TERM; echo up; while :; do sleep 0.01; done"))
    wait_until(lambda: "up" in home.log("app"), "the trap")
    gone = connect(home.places)
    gone._send(Act("stop", ["app"]))
    home.until("app", lambda view: view.status == "stopping")
    gone.close()
    home.until("app", lambda view: view.status == "stopped")


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

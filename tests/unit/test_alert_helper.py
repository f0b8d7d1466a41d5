"""The helper that sends alerts, against servers that do what servers do."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxmgr.client.logframe import parse_rfc3339
from oxmgr.helpers import alert as helper
from oxmgr.model.codec import encode
from oxmgr.model.logindex import COMPRESSED, ROTATED
from oxmgr.model.messages import Alert, SendAlert
from tests.conftest import DEADLINE, REPOSITORY

SECRET = "s3cr3t"


def an_order(**keys: object) -> SendAlert:
    alert = Alert(
        "api crashed",
        "crash",
        "api",
        "api",
        "default",
        "",
        "",
        7,
        "exit code 3",
        3,
        None,
        2,
        1,
        {"api": 1},
        [],
        [],
        "9",
    )
    return SendAlert(alert, 1_795_507_200.5, **keys)  # type: ignore[arg-type]


class Server:
    """One that answers each connection with what a function makes of its request; `requests` are those."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.requests: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/{SECRET}"
        self._answer = answer
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            self._open.append(sock)
            try:
                self.requests.append(self._read(sock))
                self._answer(sock)
            except OSError:
                pass
            sock.close()

    def _read(self, sock: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more or data.startswith(b"\x16"):
                raise OSError("this is no HTTP")
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(body) < size:
            body += sock.recv(65536)
        return head + b"\r\n\r\n" + body

    def end(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for sock in self._open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], Server]]:
    servers: list[Server] = []

    def one(answer: Callable[[socket.socket], None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield one
    for server in servers:
        server.end()


def says(*parts: bytes, again: bytes = b"") -> Callable[[socket.socket], None]:
    """Sends these, then the last one without end."""

    def answer(sock: socket.socket) -> None:
        for part in parts:
            sock.sendall(part)
        while again:
            sock.sendall(again)

    return answer


def hang(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def drip(sock: socket.socket) -> None:
    """Each byte comes long before any timeout of a single read."""
    while True:
        sock.sendall(b"H")
        time.sleep(0.1)


def post(url: str, **headers: str) -> str:
    return helper.prepare_post(an_order(webhook=url, headers=headers), b'{"a":1}')()


OK = b"HTTP/1.1 200 OK\r\n\r\n"


def test_a_post_has_the_json_and_the_headers(serve: Callable[..., Server]) -> None:
    server = serve(says(OK))
    assert post(server.url, Authorization="Bearer x") == "ok"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST /{SECRET} HTTP/1.1".encode()) and body == b'{"a":1}'
    for line in (b"Authorization: Bearer x", b"Content-Type: application/json", b"User-agent: oxmgr/9"):
        assert line.lower() in head.lower()


def test_a_password_in_the_url_is_sent_as_http_wants_it(serve: Callable[..., Server]) -> None:
    server = serve(says(OK))
    assert post(f"http://me:p%40ss@127.0.0.1:{server.port}/x") == "ok"
    assert b"Authorization: Basic bWU6cEBzcw==" in server.requests[0] and b"me:p" not in server.requests[0]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("201 Created", "ok"),
        ("204 No Content", "ok"),
        ("500 Oops", "again: it answers 500"),
        ("503 Busy", "again: it answers 503"),
        ("429 Slow", "again: it answers 429"),
        ("404 Not Found", "never: it answers 404"),
        ("401 No", "never: it answers 401"),
    ],
)
def test_an_answer_says_whether_to_come_again(serve: Callable[..., Server], status: str, said: str) -> None:
    assert post(serve(says(f"HTTP/1.1 {status}\r\n\r\n".encode())).url) == said


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve: Callable[..., Server], status: int) -> None:
    other = serve(says(OK))
    server = serve(says(f"HTTP/1.1 {status} Elsewhere\r\nLocation: {other.url}\r\n\r\n".encode()))
    assert post(server.url) == f"never: it answers {status}, to lead elsewhere: write where"
    assert len(server.requests) == 1 and other.requests == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hang, "again: no answer within 1 s"),
        (drip, "again: no answer within 1 s"),
        (says(again=b"HTTP/1.1 100 Continue\r\n\r\n"), "again: no answer within 1 s"),
        (says(b"HTTP/1.1 200 OK\r\n", again=b"X: y\r\n"), "again: its answer is no HTTP: HTTPException"),
        (says(b"HTTP/1.1 200 OK\r\nX: ", again=b"y" * 9999), "again: its answer is no HTTP: LineTooLong"),
        (says(again=b"x" * 9999), "again: its answer is no HTTP: BadStatusLine"),
        (says(b"HTTP/1.1 200 OK\r\n\r\n", again=b"x" * 65536), "ok"),
        (says(b"HTTP/1.1 500 No\r\n\r\n", again=b"x" * 65536), "again: it answers 500"),
        (
            says(b"HTTP/1.1 302 No\r\nLocation: /\r\n\r\n", again=b"x" * 65536),
            "never: it answers 302, to lead elsewhere: write where",
        ),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"), "ok"),
        (says(b"SSH-2.0-OpenSSH\r\n"), "again: its answer is no HTTP: BadStatusLine"),
        (says(b""), "again: its answer is no HTTP: RemoteDisconnected"),
    ],
)
def test_a_server_that_misbehaves_costs_a_bounded_time(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket.socket], None], said: str
) -> None:
    monkeypatch.setattr(helper, "POST_PATIENCE", 1)
    begun = time.monotonic()
    told = post(serve(answer).url)
    assert time.monotonic() - begun < 5
    assert told == said or (said.startswith("again: its answer") and told.startswith("again: "))
    assert SECRET not in told
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_cannot_be_reached_is_tried_again(serve: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/{SECRET}"
    assert post(url) == "again: Connection refused"
    url = serve(says(b"x")).url.replace("http:", "https:")
    told = _by_a_helper(an_order(webhook=url), "POST_PATIENCE", 2)
    assert told.startswith("again: ") and SECRET not in told


def test_nothing_is_loaded_once_the_rights_are_given_up(serve: Callable[..., Server]) -> None:
    """Who is nobody may not be able to read Python's files."""
    server = serve(says(b"HTTP/1.1 302 No\r\nLocation: /\r\n\r\n"))
    orders = [
        an_order(webhook=server.url),
        an_order(webhook=server.url.replace("127.0.0.1", "localhost")),
        an_order(command=["true"]),
    ]
    for order in [*orders, an_order(webhook="https://localhost:1/")]:
        script = (
            f"import sys\nsys.path[:0] = {[str(REPOSITORY), *sys.path]!r}\n"
            "from oxmgr.helpers import alert\n"
            "def become_nobody():\n    global before\n    before = set(sys.modules)\n"
            "alert.become_nobody = become_nobody\nalert.main()\nprint(sorted(set(sys.modules) - before))"
        )
        words = [sys.executable, "-I", "-S", "-c", script, "alert", "", str(os.getpid())]
        done = subprocess.run(words, input=encode(order), capture_output=True, timeout=DEADLINE * 2, check=True)
        assert done.stdout.splitlines()[1] == b"[]", done


# --- a command ---


def test_a_command_gets_the_json_and_the_variables(tmp_path: Path) -> None:
    script = 'cat > got; echo "$OXMGR_ALERT $OXMGR_APP $OXMGR_INSTANCE $OXMGR_SEQ $OXMGR_REASON" > told'
    assert _run(tmp_path, ["/bin/sh", "-c", script]) == "ok"
    assert json.loads((tmp_path / "got").read_text())["app"] == "api"
    assert (tmp_path / "told").read_text() == "crash api api 7 exit code 3\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/bin/sh", "-c", "exit 3"], "again: it ended with exit code 3"),
        (["/bin/sh", "-c", "kill -9 $$"], "again: it was killed by signal 9"),
        (["/nosuch/program"], "never: /nosuch/program: No such file or directory"),
        (["/bin/sh", "-c", "yes | head -c 100000000; exit 0"], "ok"),
    ],
)
def test_how_a_command_ends_says_whether_to_come_again(tmp_path: Path, command: list[str], said: str) -> None:
    assert _run(tmp_path, command) == said


@pytest.mark.parametrize("script", ["sleep 1000", "setsid sleep 1000 & setsid sleep 1000 & sleep 1000"])
def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, script: str) -> None:
    assert _run(tmp_path, ["/bin/sh", "-c", script], patience=1) == "again: it does not end within 1 s"


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    assert _run(tmp_path, ["/bin/sh", "-c", "setsid sh -c 'sleep 1000 & sleep 1000' & exit 0"]) == "ok"


def _run(folder: Path, command: list[str], patience: int = 30) -> str:
    folder.chmod(0o777)
    return _by_a_helper(an_order(command=command, working_dir=str(folder)), "COMMAND_PATIENCE", patience)


def _by_a_helper(order: SendAlert, patience: str, seconds: int) -> str:
    """Of its own, as the daemon starts it: of root's, as nobody. Nothing is left of it, for the fixture that all tests
    have looks."""
    script = (
        f"import sys\nsys.path[:0] = {[str(REPOSITORY), *sys.path]!r}\n"
        f"from oxmgr.helpers import alert\nalert.{patience} = {seconds}\nalert.main()\n"
    )
    words = [sys.executable, "-I", "-S", "-c", script, "alert", "", str(os.getpid())]
    done = subprocess.run(words, input=encode(order), capture_output=True, timeout=DEADLINE * 2, check=True)
    return done.stdout.decode().strip()


# --- the last lines ---


def test_the_last_lines_of_both_streams(tmp_path: Path) -> None:
    out, err = tmp_path / "a.out.log", tmp_path / "a.err.log"
    out.write_bytes(b"".join(b"line %d\n" % number for number in range(1000)))
    err.write_bytes(b"oh\xff no\nand no end")
    found = helper.last_lines([str(out), str(err)], time.time_ns())
    assert found == ([f"line {number}" for number in range(980, 1000)], ["oh\ufffd no", "and no end"])


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert helper.last_lines([], 0) == ([], [])
    assert helper.last_lines([str(tmp_path / "no"), "/dev/null"], 0) == ([], [])


def test_lines_of_a_rotated_and_compressed_file_are_found(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with gzip.open(f"{log}{ROTATED}20261124T080000.000000000Z{COMPRESSED}", "wb") as file:
        file.write(b"".join(b"old %d\n" % number for number in range(30)))
    log.write_bytes(b"new\n")
    out, _ = helper.last_lines([str(log), str(tmp_path / "none")], time.time_ns())
    assert out == [f"old {number}" for number in range(11, 30)] + ["new"]


def test_lines_with_frames_go_to_the_stream_that_they_say(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(
        b"2026-11-24T08:00:00.000000001Z stdout F hello\n"
        b"2026-11-24T08:00:00.000000002Z stderr P one li\n"
        b"2026-11-24T08:00:00.000000003Z stderr F ne\n"
        b'{"time":"2026-11-24T08:00:00.000000004Z","stream":"stderr","message":"two"}\n'
        b"2026-11-24T09:00:00.000000001Z stdout F of the next process\n"
    )
    until = parse_rfc3339(b"2026-11-24T08:30:00Z")
    assert until is not None
    assert helper.last_lines([str(log), str(log)], until) == (["hello"], ["one line", "two"])


def test_a_line_of_a_gigabyte_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with open(log, "wb") as file:
        file.write(b"first\n")
        file.truncate(1 << 30)
    out, _ = helper.last_lines([str(log), str(tmp_path / "none")], time.time_ns())
    assert len(out[-1]) == helper.LINE_LIMIT + 1


def test_the_message_is_whole() -> None:
    found = json.loads(helper.fill_in(an_order()))
    assert list(found) == list(Alert.__struct_fields__)
    assert found["time"] == "2026-11-24T08:00:00.500Z" and found["host"] == os.uname().nodename
    assert found["text"] == f"api crashed ({os.uname().nodename})"

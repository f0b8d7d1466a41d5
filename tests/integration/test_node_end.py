"""Node's HTTP servers under a stop signal: what was asked is answered, and the app ends as it would without us."""

import http.client
import shutil
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from oxmgr.model.messages import Act
from oxmgr.model.spec import Spec
from tests.conftest import DEADLINE, Home, wait_until
from tests.integration.test_node import node
from tests.integration.test_sockets import free_port, held, inode_of

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

LATE = """
const answer = (request, response) => {
  console.log('asked');
  if (request.url !== '/late') return response.end('soon');
  const wait = setInterval(() => {
    if (request.socket.server.listening) return;
    clearInterval(wait);
    response.end('late');
  }, 5);
};
"""
"""/late is answered when the server takes no more connections."""


class Asking:
    """A connection on which a thread waits for an answer."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        self.answer = self.connection = ""
        self.error: Exception | None = None
        self._socket = connection
        self._path = path
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._socket.request("GET", self._path)
            response = self._socket.getresponse()
            self.answer, self.connection = response.read().decode(), response.headers["Connection"]
        except OSError as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(DEADLINE)
        self._socket.close()
        assert self.error is None, self.error


def begin(home: Home, what: str) -> None:
    home.connect()._send(Act(what, ["web"]))


def asked(home: Home, times: int = 1) -> None:
    wait_until(lambda: home.log("web").count("asked") >= times, "it to be asked")


def connected(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)


def web(home: Home, script: str, port: int, **keys: Any) -> Spec:
    return node(home, LATE + script.replace("PORT", str(port)), f"127.0.0.1:{port}", **keys)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; the key is beside it."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost".split()
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    subprocess.run([*words, "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True)
    return folder


HTTPS = """
const fs = require('fs'), folder = 'FOLDER';
const options = { key: fs.readFileSync(`${folder}/key`), cert: fs.readFileSync(`${folder}/cert`) };
require('https').createServer(options, answer).listen(PORT);
"""


def test_https_takes_the_held_socket_and_answers_over_a_reload(home: Home, certificate: Path) -> None:
    port = free_port()
    done = home.apply(web(home, HTTPS.replace("FOLDER", str(certificate)), port))
    assert not done.failed, home.log("web", "err")
    old, before = home.pid("web"), inode_of(home)
    trust = ssl.create_default_context(cafile=str(certificate / "cert"))
    asking = Asking(http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE, context=trust), "/late")
    asked(home)
    assert not home.request(Act("reload", ["web"])).failed
    asking.end()
    assert (asking.answer, asking.connection) == ("late", "close")
    assert home.pid("web") != old and before in held(home.pid("web"))
    again = Asking(http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE, context=trust), "/")
    again.end()
    assert again.answer == "soon"


PLAIN = "require('http').createServer(answer).listen(PORT);"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_asked_is_answered_and_then_it_dies_of_the_signal(home: Home, number: signal.Signals) -> None:
    port = free_port()
    home.apply(web(home, PLAIN, port, stop_signal=int(number)))
    asking = Asking(connected(port), "/late")
    asked(home)
    home.request(Act("stop", ["web"]))
    asking.end()
    assert (asking.answer, asking.connection) == ("late", "close")
    assert home.views()["web"].signal == number.name


def test_through_npm_which_is_gone_at_once(home: Home) -> None:
    if not shutil.which("npm"):
        pytest.skip("needs npm")
    port = free_port()
    (home.folder / "package.json").write_text('{"scripts": {"start": "node server.js"}}')
    (home.folder / "server.js").write_text(LATE + PLAIN.replace("PORT", str(port)))
    argv = ["npm", "start"]
    done = home.apply(Spec("web", "npm start", argv, str(home.folder), listen=[f"127.0.0.1:{port}"], ready="listen"))
    assert not done.failed, home.log("web", "err")
    asking = Asking(connected(port), "/late")
    asked(home)
    home.request(Act("stop", ["web"]))
    asking.end()
    assert (asking.answer, asking.connection) == ("late", "close")


def test_who_has_just_asked_may_ask_once_more(home: Home) -> None:
    port = free_port()
    home.apply(web(home, PLAIN, port))
    connection = connected(port)
    said = []

    def is_last() -> bool:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.read() == b"soon"
        said.append(response.headers["Connection"])
        return said[-1] == "close"

    assert not is_last()
    begin(home, "stop")
    # http.client would make another connection after `close`, and nobody is there to take it.
    wait_until(is_last, "its last answer")
    home.until("web", lambda view: view.status == "stopped")
    assert set(said[:-1]) == {"keep-alive"}
    connection.close()


def test_who_has_long_asked_nothing_does_not_hold_it_up(home: Home) -> None:
    port = free_port()
    home.apply(web(home, PLAIN, port))
    connection = connected(port)
    connection.request("GET", "/")
    connection.getresponse().read()
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 1.1, "the connection to be idle for longer than LINGER")
    begun = time.monotonic()
    home.request(Act("stop", ["web"]))
    assert time.monotonic() - begun < 0.9
    connection.close()


HANDLER = """
const server = require('http').createServer(answer).listen(PORT);
process.once('SIGTERM', () => { console.log('handled'); server.close(() => process.exit(7)); });
"""


def test_who_has_a_handler_ends_itself_and_its_last_answer_says_so(home: Home) -> None:
    port = free_port()
    home.apply(web(home, HANDLER, port))
    asking = Asking(connected(port), "/late")
    asked(home)
    begin(home, "stop")
    wait_until(lambda: "handled" in home.log("web"), "its handler")
    asking.end()
    assert (asking.answer, asking.connection) == ("late", "close")
    assert home.until("web", lambda view: view.status == "stopped").exit_code == 7


SIGNAL_EXIT = """
require('http').createServer(answer).listen(PORT);
process.on('SIGTERM', function ours() {
  if (process.listeners('SIGTERM').length !== 1) return;
  console.log('re-raised');
  process.removeListener('SIGTERM', ours);
  process.kill(process.pid, 'SIGTERM');
});
"""


def test_who_raises_the_signal_again_when_nobody_else_hears_it_ends_in_order_too(home: Home) -> None:
    port = free_port()
    home.apply(web(home, SIGNAL_EXIT, port))
    asking = Asking(connected(port), "/late")
    asked(home)
    home.request(Act("stop", ["web"]))
    asking.end()
    assert asking.answer == "late" and "re-raised" in home.log("web")
    assert home.views()["web"].signal == "SIGTERM"


STREAM = """
require('http').createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  response.write('data: 1\\n\\n');
}).listen(PORT);
"""
SOCKET = """
const server = require('http').createServer(answer).listen(PORT);
server.on('upgrade', (request, socket) => socket.write('HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n'));
"""


@pytest.mark.parametrize("script", [STREAM, SOCKET], ids=["event-stream", "upgrade"])
def test_what_has_no_end_does_not_hold_it_up(home: Home, script: str) -> None:
    port = free_port()
    home.apply(web(home, script, port))
    connection = connected(port)
    connection.request(
        "GET", "/", headers={"Connection": "Upgrade", "Upgrade": "websocket"} if script == SOCKET else {}
    )
    with connection.getresponse():
        begun = time.monotonic()
        home.request(Act("stop", ["web"]))
        assert time.monotonic() - begun < 5 and home.views()["web"].signal == "SIGTERM"
    connection.close()


HTTP2 = """
const http2 = require('http2');
const server = http2.createServer().on('stream', (stream) => {
  console.log('asked');
  setInterval(() => {
    if (server.listening || stream.writableEnded) return;
    stream.respond();
    stream.end('late');
  }, 5);
}).listen(PORT, () => {
  const client = http2.connect('http://127.0.0.1:PORT');
  client.request().on('data', (data) => require('fs').writeFileSync('answer', data));
});
"""


def test_http2_answers_its_streams(home: Home) -> None:
    port = free_port()
    # It asks itself.
    home.apply(web(home, HTTP2, port))
    asked(home)
    home.request(Act("stop", ["web"]))
    assert (home.folder / "answer").read_text() == "late"
    assert home.views()["web"].signal == "SIGTERM"

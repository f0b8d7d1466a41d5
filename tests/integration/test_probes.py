"""A probe is answered by this very instance: by nobody else that shares its port, has it, or comes after it."""

import os
import re
import socket
import time
from collections.abc import Callable

import pytest

from oxmgr.model.codec import replace
from oxmgr.model.spec import NEVER, HealthCheck, Spec
from tests.conftest import Home, wait_until
from tests.faults.reexec import reexec
from tests.integration.test_ready import free_port

SHARING = """
import os, select, socket, sys, time
kind, index = sys.argv[1], os.environ["OXMGR_INSTANCE_ID"]
s = socket.socket(fileno=3)
s.setblocking(False)
while True:
    select.select([s], [], [])
    try:
        c, _ = s.accept()
    except BlockingIOError:
        continue
    if kind == "closes":
        c.close()
        continue
    c.setblocking(True)
    if c.recv(4096):
        word = "500 Broken" if (kind, index) == ("bad", "0") else "200 OK"
        c.sendall(f"HTTP/1.1 {word}\\r\\nContent-Length: 2\\r\\n\\r\\nok".encode())
    c.close()
"""
"""Takes the held socket; any of its instances may take a connection, and closes it as soon as it has answered."""

OWN = """
import os, socket, sys, time
family, host, port, kind = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
s = socket.socket(family)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((host, port))
if kind == "deferred":
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
s.listen(16)
if kind == "forks":
    os.fork() and time.sleep(1000)
    kept = [os.dup(s.fileno()) for _ in range(900)]
while True:
    c, _ = s.accept()
    asked = b""
    while not asked.endswith(b"\\r\\n\\r\\n") and (data := c.recv(4096)):
        asked += data
    if asked:
        status = open("status").read() if os.path.exists("status") else "200 OK"
        c.sendall(f"HTTP/1.1 {status}\\r\\nContent-Length: 2\\r\\n\\r\\nok".encode())
        kind == "polite" or c.recv(4096)
    c.close()
"""


def sharing(home: Home, port: int, kind: str = "good", **keys: object) -> Spec:
    spec = home.python("web", SHARING, listen=[f"127.0.0.1:{port}"], **keys)
    return replace(spec, argv=[*spec.argv, kind])


def own(home: Home, port: int, kind: str = "good", host: str = "127.0.0.1", **keys: object) -> Spec:
    spec = home.python("web", OWN, **keys)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return replace(spec, argv=[*spec.argv, str(int(family)), host, str(port), kind])


def quick(port: int, **keys: object) -> HealthCheck:
    keys = {"interval_secs": 0.1, "timeout_secs": 1.0, "initial_delay_secs": 0, "unhealthy_threshold": 1, **keys}
    return HealthCheck(endpoint=f"http://127.0.0.1:{port}/", **keys)  # type: ignore[arg-type]


def missing(why: str) -> str:
    """What came back last."""
    words = re.fullmatch(r"not ready \d+(\.\d)? s after its start: (.*)", why)
    assert words, why
    return words[2]


def test_instances_that_share_a_socket_get_ready_and_stay_healthy(home: Home) -> None:
    port = free_port()
    spec = sharing(home, port, instances=8, ready=f"http://127.0.0.1:{port}/", ready_timeout_ms=20000)
    assert home.apply(replace(spec, health_check=quick(port))).failed == {}
    wait_until(lambda: all(view.health == "healthy" for view in home.views().values()), "all to be found healthy", 20)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert {(view.status, view.restarts) for view in home.views().values()} == {("running", 0)}


def test_the_error_of_one_is_not_counted_for_those_that_share_its_socket(home: Home) -> None:
    port = free_port()
    home.apply(sharing(home, port, "bad", instances=4, ready="started", health_check=quick(port)))
    home.until("web:0", lambda view: view.restarts >= 3)
    assert {view.restarts for name, view in home.views().items() if name != "web:0"} == {0}


@pytest.mark.parametrize("ready", ["http://127.0.0.1:{}/", "tcp:{}"])
def test_a_reload_to_a_version_that_only_sleeps_leaves_the_old_one_at_its_work(home: Home, ready: str) -> None:
    port = free_port()
    ready = ready.format(port)
    assert home.apply(sharing(home, port, ready=ready, ready_timeout_ms=20000)).failed == {}
    pid = home.pid("web")
    sleeps = home.sh("web", "exec sleep 1000", listen=[f"127.0.0.1:{port}"], ready=ready, ready_timeout_ms=1000)
    done = home.apply(sleeps)
    assert "it goes on as it was, for the new one failed: not ready" in done.failed["web"]
    assert "others take the connections" in done.failed["web"]
    assert home.pid("web") == pid
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_a_reload_to_a_version_that_is_never_found_healthy_ends(home: Home) -> None:
    """It is ready, and its health is never known: others answer."""
    port = free_port()
    spec = sharing(home, port, ready="command:true", health_check=quick(port))
    home.apply(spec)
    home.until("web", lambda view: view.health == "healthy")
    pid = home.pid("web")
    keys: dict[str, object] = {"listen": spec.listen, "ready": spec.ready, "health_check": spec.health_check}
    sleeps = home.sh("web", "exec sleep 1000", **keys)
    assert "others take the connections" in home.apply(sleeps).failed["web"]
    assert home.pid("web") == pid


def test_who_closes_at_once_is_never_ready(home: Home) -> None:
    port = free_port()
    spec = sharing(home, port, "closes", ready=f"http://127.0.0.1:{port}/", ready_timeout_ms=500, restart=NEVER)
    assert missing(home.apply(spec).failed["web"]).startswith("http://")


def test_tcp_on_a_held_socket_is_answered_by_who_accepts(home: Home) -> None:
    """The kernel completes the handshake without it."""
    port = free_port()
    keys = {"listen": [f"127.0.0.1:{port}"], "ready": f"tcp:{port}", "ready_timeout_ms": 500, "restart": NEVER}
    done = home.apply(home.sh("web", "exec sleep 1000", **keys))
    assert missing(done.failed["web"]) == f"tcp:{port}: no answer yet"
    check = HealthCheck(tcp=str(port), interval_secs=0.1, timeout_secs=0.2, initial_delay_secs=0, unhealthy_threshold=2)
    home.apply(
        home.sh("hangs", "exec sleep 1000", listen=keys["listen"], health_check=check, restart=NEVER), prune=True
    )
    view = home.until("hangs", lambda view: view.status == "errored")
    assert "failed 2 times in a row: nobody accepts the connection within 0.2 s" in view.reason
    assert home.apply(sharing(home, port, ready=f"tcp:{port}"), prune=True).failed == {}


def test_one_that_hangs_is_found_where_each_has_its_own_socket(home: Home) -> None:
    port = free_port()
    script = SHARING.replace("while True", "time.sleep(1000 if index == '0' else 0)\nwhile True", 1)
    spec = home.python("web", script, listen=[f"127.0.0.1:{port}"], reuse_port=True, instances=4)
    spec = replace(spec, argv=[*spec.argv, "good"], health_check=quick(port, timeout_secs=0.5))
    home.apply(spec)
    home.until("web:0", lambda view: view.restarts >= 1)
    assert {view.restarts for name, view in home.views().items() if name != "web:0"} == {0}


@pytest.mark.parametrize("health", [False, True])
def test_a_stranger_that_answers_is_said(home: Home, health: bool) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        keys: dict[str, object] = {"ready": f"tcp:{port}", "ready_timeout_ms": 300}
        if health:
            keys = {"health_check": quick(port)}
        home.apply(home.sh("web", "exec sleep 1000", restart=NEVER, **keys))
        view = home.until("web", lambda view: view.status == "errored")
        assert view.reason.endswith("somebody else answers at that port")
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.parametrize("kind", ["good", "forks", "deferred"])
def test_whoever_of_its_tree_accepts(home: Home, kind: str) -> None:
    port = free_port()
    assert home.apply(own(home, port, kind, ready=f"http://127.0.0.1:{port}/", health_check=quick(port))).failed == {}
    home.until("web", lambda view: view.health == "healthy")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "0.0.0.0"])
@pytest.mark.parametrize("ready", ["http://localhost:{}/", "tcp:localhost:{}", "tcp:{}"])
def test_localhost_is_wherever_the_app_listens(home: Home, host: str, ready: str) -> None:
    port = free_port()
    assert home.apply(own(home, port, host=host, ready=ready.format(port))).failed == {}


def test_who_is_not_ready_is_told_with_what_was_asked_and_came_back(home: Home) -> None:
    port = free_port()
    (home.folder / "status").write_text("404 Not Found")
    url = f"http://127.0.0.1:{port}/nothere"
    done = home.apply(own(home, port, ready=url, ready_timeout_ms=1500, restart=NEVER))
    assert missing(done.failed["web"]) == f"{url}: status 404"
    done = home.apply(home.sh("b", "exec sleep 1000", ready=f"tcp:{port}", ready_timeout_ms=300, restart=NEVER))
    assert missing(done.failed["b"]) == f"tcp:{port}: Connection refused"
    done = home.apply(home.sh("c", "exec sleep 1000", ready="command:exit 3", ready_timeout_ms=300, restart=NEVER))
    assert missing(done.failed["c"]) == "command:exit 3: exit code 3"


def test_probes_leave_nothing_in_time_wait(home: Home) -> None:
    port = free_port()
    home.apply(own(home, port, "polite", ready=f"http://127.0.0.1:{port}/", health_check=quick(port)))
    home.until("web", lambda view: view.health == "healthy")
    with open("/proc/net/tcp") as file:
        states = [line.split()[3] for line in file if f":{port:04X} " in line]
    assert "0A" in states and "06" not in states


@pytest.mark.parametrize("end", [Home.kill_guarded, reexec])
def test_the_next_daemon_goes_on_checking(empty_home: Home, end: Callable[[Home], object]) -> None:
    home = empty_home
    home.guarded = True
    home.start_daemon()
    port = free_port()
    check = quick(port, unhealthy_threshold=2)
    home.apply(own(home, port, ready=f"http://127.0.0.1:{port}/", health_check=check))
    home.until("web", lambda view: view.health == "healthy")
    pid = home.pid("web")
    end(home)
    view = home.until("web", lambda view: view.health == "healthy")
    assert (view.pid, view.restarts) == (pid, 0)
    (home.folder / "status").write_text("503 Broken")
    view = home.until("web", lambda view: view.pid not in (None, pid))
    assert view.restarts == 1 or os.path.exists(f"/proc/{view.pid}")

"""Ready and healthy: an app is running once it answers, and restarted when it does not any more."""

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from oxmgr.model.codec import replace
from oxmgr.model.messages import Act, Apply
from oxmgr.model.spec import NEVER, HealthCheck, Spec
from tests.conftest import Home, wait_until

SERVER = """
import os, socket, sys, threading, time
port, folder = int(sys.argv[1]), sys.argv[2]
time.sleep(float(sys.argv[3]))
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", port))
s.listen(16)
print("listening on", port, flush=True)
def serve(c):
    while c.recv(4096):
        status = open(folder + "/status").read() if os.path.exists(folder + "/status") else "200 OK"
        if status == "none":
            continue
        if status == "endless":
            try:
                while True:
                    c.sendall(b"x" * 65536)
            except OSError:
                return
        if status == "huge":
            try:
                c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1073741824\\r\\n\\r\\n")
                for _ in range(16384):
                    c.sendall(b"x" * 65536)
                open(folder + "/sent", "w").close()
            except OSError:
                return
        c.sendall(("HTTP/1.1 %s\\r\\nContent-Length: 2\\r\\n\\r\\nok" % status).encode())
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def server(home: Home, port: int, delay: float = 0.3, **keys: object) -> Spec:
    spec = home.python("web", SERVER, **keys)
    return replace(spec, argv=[*spec.argv, str(port), str(home.folder), str(delay)])


@pytest.mark.parametrize("ready", ["listen", "tcp:{port}", "http://127.0.0.1:{port}/x", "log:^listening on", "command"])
def test_a_start_waits_until_the_app_is_ready(home: Home, ready: str) -> None:
    port = free_port()
    if ready == "command":
        ready = f"command:{sys.executable} -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'"
    done = home.apply(server(home, port, ready=ready.format(port=port)))
    assert done.failed == {}
    view = home.views()["web"]
    assert view.status == "running" and view.ready
    socket.create_connection(("127.0.0.1", port)).close()


def test_who_is_not_ready_in_time_is_stopped_and_the_reason_told(home: Home) -> None:
    spec = home.sh("slow", "exec sleep 1000", ready="listen", ready_timeout_ms=300, restart=NEVER)
    done = home.apply(spec)
    # The time that it took in the end, which is more where there is no CPU for everybody.
    assert re.fullmatch(r"not ready \d+(\.\d)? s after its start: it does not listen", done.failed["slow"])
    assert home.views()["slow"].status == "errored"


def test_the_answer_of_another_does_not_count(home: Home) -> None:
    """A stranger listens at the port; the app itself does not."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        for ready in (f"tcp:{port}", f"http://127.0.0.1:{port}/"):
            spec = home.sh("app", "exec sleep 1000", ready=ready, ready_timeout_ms=500, restart=NEVER)
            assert home.apply(spec).failed["app"].startswith("not ready ")


def test_a_probe_of_a_command_dies_with_its_time_and_all_that_it_started(home: Home) -> None:
    script = f"sleep 500 & echo $! >> {home.folder}/pids; wait"
    # Time enough for a shell to come to its second command.
    check = HealthCheck(command=script, timeout_secs=1, interval_secs=0.2, initial_delay_secs=0, unhealthy_threshold=2)
    home.apply(home.sh("app", "exec sleep 1000", health_check=check, restart=NEVER))
    view = home.until("app", lambda view: view.status == "errored")
    assert "failed 2 times in a row: it does not end within 1 s" in view.reason
    pids = (home.folder / "pids").read_text().split()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the end of what the probes started")


def test_unhealthy_is_restarted_and_healthy_is_told(home: Home) -> None:
    port = free_port()
    check = HealthCheck(
        endpoint=f"http://127.0.0.1:{port}/", interval_secs=0.1, initial_delay_secs=0, unhealthy_threshold=2
    )
    home.apply(server(home, port, 0, ready="listen", health_check=check))
    home.until("web", lambda view: view.health == "healthy")
    pid = home.pid("web")
    (home.folder / "status").write_text("503 Broken")
    home.until("web", lambda view: view.pid not in (None, pid))
    (home.folder / "status").unlink()
    view = home.until("web", lambda view: view.health == "healthy")
    assert view.restarts >= 1


@pytest.mark.parametrize("answer", ["none", "endless", "huge", "302 Found\\r\\nLocation: /"])
def test_a_bad_answer_is_bounded_and_others_go_on(home: Home, answer: str) -> None:
    port = free_port()
    (home.folder / "status").write_text(answer.replace("\\r\\n", "\r\n"))
    check = HealthCheck(endpoint=f"http://127.0.0.1:{port}/", timeout_secs=0.3, interval_secs=0.1, initial_delay_secs=0)
    spec = server(home, port, 0, ready="listen", health_check=check, restart=NEVER)
    home.apply(spec, home.sh("quick", "exec sleep 1000"))
    home.request(Act("restart", ["quick"]))
    if answer == "huge" or answer.startswith("302"):
        # By the status line alone: nothing is followed, and nobody reads 1 GB.
        home.until("web", lambda view: view.health == "healthy")
        assert not (home.folder / "sent").exists() and daemon_memory(home) < 64
    else:
        view = home.until("web", lambda view: view.status == "errored")
        assert "no answer within 0.3 s" in view.reason or "not HTTP" in view.reason


def daemon_memory(home: Home) -> float:
    """Its most, in MB (proc(5), VmHWM)."""
    status = Path(f"/proc/{home.about_daemon().pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_dependents_wait_for_ready(home: Home) -> None:
    port = free_port()
    needs = (
        f"import socket, time; socket.create_connection(('127.0.0.1', {port})); print('it was there'); time.sleep(1000)"
    )
    after = home.python("after", needs, depends_on={"web": "ready"}, restart=NEVER)
    home.apply(server(home, port, 0.5, ready="listen"), after)
    wait_until(lambda: home.log("after") == "it was there\n", "the dependent's line")


def test_the_next_daemon_goes_on_waiting(home: Home) -> None:
    port = free_port()
    connection = home.connect()
    connection._send(Apply([server(home, port, 1.0, ready="listen")]))
    wait_until(lambda: "web" in home.views(), "the app")
    pid = home.until("web", lambda view: view.pid).pid
    home.kill_daemon()
    home.start_daemon()
    view = home.until("web", lambda view: view.status == "running")
    assert view.pid == pid and view.restarts == 0

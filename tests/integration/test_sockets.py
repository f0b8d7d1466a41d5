"""Sockets that are held: given by sd_listen_fds(3), never closed while the app is wanted."""

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from oxmgr.client.connection import Refused
from oxmgr.client.launch import daemon_argv
from oxmgr.model.codec import replace
from oxmgr.model.messages import Act, ReplaceDaemon
from oxmgr.model.spec import Spec
from tests.conftest import DEADLINE, Home, end_tree, wait_until
from tests.integration.test_notify import later

SERVER = """
import os, socket, sys, threading, time
assert os.environ["LISTEN_PID"] == str(os.getpid())
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"])
def serve(fd, name):
    s = socket.socket(fileno=fd)
    if s.type == socket.SOCK_DGRAM:
        while True:
            data, sender = s.recvfrom(99)
            s.sendto(b"%s %d" % (name.encode(), os.getpid()), sender)
    while True:
        c, _ = s.accept()
        c.sendall(b"%s %d" % (name.encode(), os.getpid()))
        c.close()
for number, name in enumerate(names):
    threading.Thread(target=serve, args=(3 + number, name)).start()
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def server(home: Home, *listen: str, **keys: object) -> Spec:
    return home.python("web", SERVER, listen=[*listen], **keys)


def ask(address: tuple[str, int] | str) -> tuple[str, int]:
    """The name of the socket that answers, and the pid of the process. Who is cut off, for the process that had taken
    its connection was killed, asks again; who is refused does not."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    for _ in range(5):
        with socket.socket(family) as asking:
            asking.settimeout(DEADLINE)
            asking.connect(address)
            data = b""
            try:
                while more := asking.recv(99):
                    data += more
            except ConnectionResetError:
                continue
        if data:
            name, pid = data.decode().split()
            return name, int(pid)
    raise AssertionError("cut off five times")


def held(pid: int) -> list[str]:
    """What a process has as fds 3 and up that are sockets."""
    links = []
    for fd in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}") if fd >= 3 else "")
        except FileNotFoundError:
            continue  # it has closed it meanwhile
    return [link for link in links if link.startswith("socket:")]


def test_an_app_gets_each_kind_in_order_with_its_name(home: Home) -> None:
    port, other, path = free_port(), free_port(), f"{home.folder}/api.sock"
    spec = server(home, f"[::]:{port}", f"admin=127.0.0.1:{other}", f"unix:{path}", f"dns=udp:127.0.0.1:{other}")
    done = home.apply(spec)
    pid = home.pid("web")
    assert ask(("127.0.0.1", port)) == ("web", pid) and ask(("::1", port)) == ("web", pid)
    assert ask(("127.0.0.1", other)) == ("admin", pid) and ask(path) == ("web", pid)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(DEADLINE)
        asking.sendto(b"x", ("127.0.0.1", other))
        assert asking.recv(99) == f"dns {pid}".encode()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert done.instances[0].sockets == [f"[::]:{port}", f"127.0.0.1:{other}", f"unix:{path}", f"udp:127.0.0.1:{other}"]
    home.request(Act("stop", ["web"]))
    assert not os.path.exists(path)
    with pytest.raises(ConnectionRefusedError):
        ask(("127.0.0.1", port))


def test_nobody_is_refused_over_crashes_and_restarts(home: Home) -> None:
    port = free_port()
    home.apply(server(home, f"127.0.0.1:{port}", restart_delay_max_ms=0))
    pids = set()
    for _ in range(20):
        pid = home.pid("web")
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
        assert ask(("127.0.0.1", port))[1] != pid
    home.request(Act("restart", ["web"]))
    assert ask(("127.0.0.1", port))[1] == home.pid("web")
    assert len(pids) == 20


def test_while_it_waits_for_its_restart_clients_wait_too(home: Home) -> None:
    port = free_port()
    home.apply(server(home, f"127.0.0.1:{port}", restart_delay_ms=300))
    pid = home.pid("web")
    os.kill(pid, signal.SIGKILL)
    home.until("web", lambda view: view.status == "backoff")
    assert ask(("127.0.0.1", port))[1] != pid


def test_instances_share_a_socket_or_have_one_each(home: Home) -> None:
    port = free_port()
    home.apply(server(home, f"127.0.0.1:{port}", instances=3))
    found = {tuple(held(home.pid(f"web:{index}"))) for index in range(3)}
    assert len(found) == 1
    for reuse_port in (True, False, True):
        done = home.apply(server(home, f"127.0.0.1:{port}", instances=3, reuse_port=reuse_port))
        assert not done.failed and all(view.ready and view.restarts == 0 for view in done.instances), done
    found = {tuple(held(home.pid(f"web:{index}"))) for index in range(3)}
    assert len(found) == 3
    answers = {ask(("127.0.0.1", port))[1] for _ in range(100)}
    assert answers == {home.pid(f"web:{index}") for index in range(3)}
    home.apply(server(home, f"127.0.0.1:{port}", instances=1, reuse_port=True))
    assert {ask(("127.0.0.1", port))[1] for _ in range(20)} == {home.pid("web")}


def test_a_change_opens_and_closes_only_what_differs(home: Home) -> None:
    stays, goes, comes = free_port(), free_port(), free_port()
    home.apply(server(home, f"127.0.0.1:{stays}", f"127.0.0.1:{goes}"))
    first = held(home.pid("web"))
    home.apply(server(home, f"127.0.0.1:{comes}", f"name=127.0.0.1:{stays}"))
    second = held(home.pid("web"))
    assert second[1] == first[0] and second[0] not in first
    assert ask(("127.0.0.1", comes))[0] == "web" and ask(("127.0.0.1", stays))[0] == "name"
    with pytest.raises(ConnectionRefusedError):
        ask(("127.0.0.1", goes))
    pid = home.pid("web")
    home.apply(server(home, f"127.0.0.1:{comes}", f"name=127.0.0.1:{stays}", backlog=7))
    assert home.pid("web") == pid
    queue = subprocess.run(
        ["ss", "-Hltn", f"sport = :{stays}"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert queue[2] == "7"
    home.apply(home.python("web", "import time; time.sleep(1000)"))
    with pytest.raises(ConnectionRefusedError):
        ask(("127.0.0.1", stays))


def test_a_port_that_is_taken_is_told_with_who_has_it(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"[::]:{port}"):
            done = home.apply(server(home, address))
            why = done.failed["web"]
            assert why.startswith(f"cannot start web: {address} is taken, pid {os.getpid()} (") and "python" in why
    # It is tried again, and free now.
    home.until("web", lambda view: view.ready)
    assert ask(("127.0.0.1", port))[1] == home.pid("web")


def test_an_address_of_another_app_is_refused(home: Home) -> None:
    port = free_port()
    home.apply(server(home, f"127.0.0.1:{port}"))
    other = replace(server(home, f"[::]:{port}"), name="other")
    with pytest.raises(Refused, match=f"web and other would both listen at \\[::\\]:{port}: give one of them another"):
        home.apply(other)
    # In the place of the other one: it waits for the end of that.
    home.apply(other, prune=True)
    home.until("other", lambda view: view.ready)
    assert ask(("127.0.0.1", port)) == ("other", home.pid("other"))


def test_a_unix_socket_of_a_dead_process_is_replaced_and_a_live_one_is_not(home: Home) -> None:
    path = f"{home.folder}/api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        why = home.apply(server(home, f"unix:{path}", max_restarts=1)).failed["web"]
        assert f"unix:{path} is taken, pid {os.getpid()} (" in why
    done = home.apply(server(home, f"unix:{path}", socket_mode=0o600))
    assert not done.failed and ask(path)[0] == "web"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_what_cannot_be_bound_says_why(home: Home) -> None:
    assert "this host has no such address" in home.apply(server(home, "203.0.113.7:80", max_restarts=1)).failed["web"]
    assert "No such file" in home.apply(server(home, "unix:/nowhere/x", max_restarts=1)).failed["web"]


def inode_of(home: Home) -> str:
    return held(home.pid("web"))[0]


@pytest.mark.parametrize("how", ["killed", "reexec"])
@pytest.mark.parametrize("waiting", [False, True], ids=["running", "backoff"])
def test_sockets_survive_the_daemon(empty_home: Home, waiting: bool, how: str) -> None:
    home, port = empty_home, free_port()
    home.guarded = True
    home.start_daemon()
    home.apply(server(home, f"127.0.0.1:{port}", restart_delay_ms=1000 if waiting else None))
    pid, before = home.pid("web"), inode_of(home)
    if waiting:
        os.kill(pid, signal.SIGKILL)
        home.until("web", lambda view: view.status == "backoff")
    if how == "killed":
        home.kill_guarded()
    else:
        home.request(ReplaceDaemon(daemon_argv()))
        wait_until(lambda: home.views()["web"].sockets, "the next daemon to hold it")
    if not waiting:
        assert ask(("127.0.0.1", port)) == ("web", pid)
        os.kill(pid, signal.SIGKILL)
    assert ask(("127.0.0.1", port))[1] != pid
    assert inode_of(home) == before


def test_sockets_survive_a_reexec_without_a_guard(home: Home) -> None:
    port = free_port()
    home.apply(server(home, f"127.0.0.1:{port}"))
    pid, before = home.pid("web"), inode_of(home)
    home.request(ReplaceDaemon(daemon_argv()))
    wait_until(lambda: home.views()["web"].sockets, "the next daemon to hold it")
    os.kill(pid, signal.SIGKILL)
    assert ask(("127.0.0.1", port))[1] != pid
    assert inode_of(home) == before


def test_with_no_guard_either_the_living_app_gives_them_back(home: Home) -> None:
    port, path = free_port(), f"{home.folder}/api.sock"
    home.apply(server(home, f"127.0.0.1:{port}", f"unix:{path}"))
    pid, before = home.pid("web"), held(home.pid("web"))
    home.kill_daemon()
    home.start_daemon()
    assert home.views()["web"].sockets == [f"127.0.0.1:{port}", f"unix:{path}"]
    os.kill(pid, signal.SIGKILL)
    assert ask(("127.0.0.1", port))[1] != pid and ask(path)[0] == "web"
    assert held(home.pid("web")) == before


def test_a_dead_app_of_a_dead_daemon_gets_them_anew(home: Home) -> None:
    port, path = free_port(), f"{home.folder}/api.sock"
    home.apply(server(home, f"127.0.0.1:{port}", f"unix:{path}"))
    pid = home.pid("web")
    home.kill_daemon()
    end_tree(pid)
    home.start_daemon()
    home.until("web", lambda view: view.ready)
    assert ask(("127.0.0.1", port))[1] == home.pid("web") and ask(path)[1] == home.pid("web")


def test_an_app_without_any_has_none(home: Home) -> None:
    home.apply(home.sh("plain", "exec sleep 1000"))
    pid = home.pid("plain")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert b"LISTEN" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_ready_by_an_fd(home: Home) -> None:
    script = "import os, time; os.write({fd}, b'\\n'); time.sleep(1000)"
    done = home.apply(replace(home.python("app", script.format(fd=7)), ready="fd:7"))
    assert not done.failed and done.instances[0].ready
    spec = replace(home.python("app2", "import os; os.close(3); import time; time.sleep(1000)"), ready="fd:3")
    done = home.apply(replace(spec, ready_timeout_ms=300, restart="never"))
    assert done.failed == {"app2": "not ready 0.3 s after its start"}
    port = free_port()
    both = home.python("both", "import os, time; os.write(4, b'x\\n'); os.fstat(3); time.sleep(1000)")
    assert not home.apply(replace(both, ready="fd:4", listen=[f"127.0.0.1:{port}"])).failed


@pytest.mark.parametrize("guard", [True, False], ids=["guard", "no-guard"])
def test_an_fd_is_waited_for_by_the_next_daemon(empty_home: Home, guard: bool) -> None:
    home, go = empty_home, empty_home.folder / "go"
    home.guarded = guard
    home.start_daemon()
    script = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.002)\nos.write(3, b'\\n'); time.sleep(1000)"
    later(home, replace(home.python("app", script), ready="fd:3"))
    wait_until(lambda: "app" in home.views(), "it to be there")
    pid = home.until("app", lambda view: view.pid).pid
    if guard:
        home.kill_guarded()
    else:
        home.kill_daemon()
        home.start_daemon()
    assert home.views()["app"].status == "starting"
    go.touch()
    assert home.until("app", lambda view: view.ready).pid == pid

"""Programs that bind by themselves, with bind_shim: they take the sockets that are held for them."""

import os
import signal
import socket
from pathlib import Path

import pytest

from oxmgr.model.codec import replace
from oxmgr.model.messages import Act
from oxmgr.model.spec import Spec
from tests.conftest import Home
from tests.integration.test_sockets import ask, free_port, held, inode_of

SERVER = """
import os, socket, sys
address = ADDRESS
family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
s = socket.socket(family)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(address)
s.listen(5)
print(s.getsockname(), s.getblocking(), os.get_inheritable(s.fileno()), flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b"x %d" % os.getpid())
    c.close()
"""
ASYNC = """
import asyncio, os
async def serve(reader, writer):
    writer.write(b"x %d" % os.getpid())
    writer.close()
async def main():
    async with await asyncio.start_server(serve, *ADDRESS) as server:
        await server.serve_forever()
asyncio.run(main())
"""

UNIX_ASYNC = ASYNC.replace("start_server(serve, *ADDRESS)", "start_unix_server(serve, ADDRESS)")


def server(home: Home, script: str, address: tuple[str, int] | str, *listen: str, **keys: object) -> Spec:
    keys = {"ready": "listen", "restart_delay_max_ms": 0, "bind_shim": True, "listen": [*listen], **keys}
    return home.python("web", script.replace("ADDRESS", repr(address)), **keys)


def place(address: tuple[str, int] | str) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "unix"])
@pytest.mark.parametrize("script", [SERVER, ASYNC], ids=["plain", "asyncio"])
def test_it_takes_what_it_binds_to_and_nobody_is_refused(home: Home, script: str, host: str) -> None:
    if script is ASYNC and host == "unix":
        pytest.skip("asyncio.start_server has no path")
    address: tuple[str, int] | str = f"{home.folder}/x.sock" if host == "unix" else (host, free_port())
    client = address if isinstance(address, str) else ("::1" if ":" in host else "127.0.0.1", address[1])
    done = home.apply(server(home, script, address, place(address), instances=2))
    assert not done.failed, home.log("web", "err")
    before = held(home.pid("web:0"))[0]
    assert before == held(home.pid("web:1"))[0]
    for number in range(10):
        name = f"web:{number % 2}"
        pid = home.pid(name)
        os.kill(pid, signal.SIGKILL)
        assert ask(client)[1] != 0
        home.until(name, lambda view, pid=pid: view.pid not in (None, pid) and view.ready)  # type: ignore[misc]
    assert before in held(home.pid("web:0"))


@pytest.mark.parametrize("script", [SERVER, UNIX_ASYNC], ids=["plain", "asyncio"])
def test_who_removes_its_file_before_it_listens_has_one_of_its_own(home: Home, script: str) -> None:
    path = f"{home.folder}/x.sock"
    script = script.replace("s.bind(", "os.unlink(address); s.bind(")
    assert not home.apply(server(home, script, path, f"unix:{path}")).failed
    view = home.until("web", lambda view: view.ready)
    assert ask(path)[1] == view.pid and any("is not held" in text for text in view.warnings)
    assert "is taken" in home.request(Act("reload", ["web"])).failed["web"]
    home.request(Act("restart", ["web"]))
    assert ask(path)[1] == home.until("web", lambda view: view.ready).pid != view.pid


def test_what_does_not_match_is_the_kernels(home: Home) -> None:
    port, other = free_port(), free_port()
    done = home.apply(server(home, SERVER, ("127.0.0.1", other), f"127.0.0.1:{port}", ready="started"))
    assert not done.failed
    home.until("web", lambda view: str(other) in home.log("web"))
    assert ask(("127.0.0.1", other))[1] == home.pid("web")
    # 127.0.0.1 is held, so all addresses are not to be had; as without us.
    spec = server(home, SERVER, ("0.0.0.0", port), f"127.0.0.1:{port}", ready="started", restart="never")
    home.apply(spec)
    home.until("web", lambda view: view.status == "exited")
    assert "Address already in use" in home.log("web", "err")
    spec = server(home, SERVER, ("127.0.0.1", 70_000), f"127.0.0.1:{port}", ready="started", restart="never")
    home.apply(spec)
    home.until("web", lambda view: view.status == "exited")
    assert "port must be 0-65535" in home.log("web", "err")


def test_its_own_flags_stay(home: Home) -> None:
    port = free_port()
    home.apply(server(home, SERVER, ("127.0.0.1", port), f"127.0.0.1:{port}"))
    home.until("web", lambda view: "(" in home.log("web"))
    assert home.log("web").splitlines()[0] == f"('127.0.0.1', {port}) True False"


def test_udp_and_children(home: Home) -> None:
    port = free_port()
    script = f"""
import os, socket
if os.fork():
    os.wait()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", {port}))
print("bound", flush=True)
while True:
    data, sender = s.recvfrom(99)
    s.sendto(b"%d" % os.getpid(), sender)
"""
    home.apply(home.python("web", script, listen=[f"udp:127.0.0.1:{port}"], bind_shim=True))
    home.until("web", lambda view: "bound" in home.log("web"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(10)
        asking.sendto(b"x", ("127.0.0.1", port))
        assert int(asking.recv(99)) != home.pid("web")


def test_what_the_user_preloads_stays_and_who_asks_for_nothing_has_nothing(home: Home) -> None:
    port = free_port()
    spec = server(home, SERVER, ("127.0.0.1", port), f"127.0.0.1:{port}")
    home.apply(replace(spec, env={"LD_PRELOAD": "/usr/lib/none.so"}))
    maps = Path(f"/proc/{home.pid('web')}/maps").read_text()
    environ = Path(f"/proc/{home.pid('web')}/environ").read_bytes()
    assert "oxmgr-shim.so" in maps and b"oxmgr-shim.so /usr/lib/none.so\0" in environ
    home.apply(replace(spec, bind_shim=False, ready="started", argv=["sleep", "1000"]))
    assert "oxmgr-shim.so" not in Path(f"/proc/{home.pid('web')}/maps").read_text()
    assert inode_of(home)

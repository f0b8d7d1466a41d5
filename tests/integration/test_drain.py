"""With bind_shim, who is replaced takes no connection from a moment before its stop signal on."""

import os

import pytest

from oxmgr.client.connection import Connection
from oxmgr.model.messages import Act, Done, Event, GetEvents, Observed
from oxmgr.model.spec import Hooks, Spec
from oxmgr.supervisor.channels import DRAIN
from tests.conftest import Home, wait_until
from tests.integration.test_rollouts import answer
from tests.integration.test_sockets import ask, free_port
from tests.integration.test_takeover import journal, kill_both

SERVER = """
import os, select, signal, socket, threading
folder, blocking = FOLDER, BLOCKING
fd = int(os.environ["OXMGR_DRAIN"].partition(":")[0])
def on_term(*_):
    told = "drained" if select.select([fd], [], [], 0)[0] else "open"
    print("term", os.getpid(), told, os.path.exists(folder + "/hooked"), flush=True)
    threading.Thread(target=end).start()
def end():
    while os.path.exists(folder + "/wait"):
        select.select([], [], [], 0.01)
    os._exit(0)
def on_drain():
    select.select([fd], [], [])
    if os.path.exists(folder + "/murder"):
        os.unlink(folder + "/murder")
        os.kill(os.getppid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, on_term)
threading.Thread(target=on_drain, daemon=True).start()
s = socket.socket()
s.bind(("127.0.0.1", PORT))
s.listen(5)
s.setblocking(blocking)
while True:
    if not blocking:
        select.select([s], [], [])
    try:
        c, _ = s.accept()
    except BlockingIOError:
        continue
    c.sendall(b"x %d" % os.getpid())
    c.close()
"""


@pytest.fixture
def home(empty_home: Home) -> Home:
    empty_home.guarded = True
    empty_home.start_daemon()
    return empty_home


def server(home: Home, port: int, *, blocking: bool = False, **keys: object) -> Spec:
    script = SERVER.replace("FOLDER", repr(str(home.folder))).replace("BLOCKING", repr(blocking))
    given = {"listen": [f"127.0.0.1:{port}"], "bind_shim": True, "ready": "listen", **keys}
    return home.python("web", script.replace("PORT", str(port)), **given)


def ends(home: Home) -> list[list[str]]:
    # Only whole lines: unbuffered, Python writes each word by itself.
    return [line.split()[1:] for line in home.log("web").split("\n")[:-1] if line.startswith("term")]


def begin_reload(home: Home) -> Connection:
    connection = home.connect()
    connection._send(Act("reload", ["web"]))
    return connection


def stopping_at(home: Home, pid: int) -> float:
    found = home.connect().stream(GetEvents(limit=100))
    return next(one.at for one in found if isinstance(one, Event) and (one.kind, one.pid) == ("stopping", pid))


@pytest.mark.parametrize("blocking", [False, True], ids=["polls", "blocks"])
def test_who_is_replaced_takes_nobody_any_more(home: Home, blocking: bool) -> None:
    port, wait = free_port(), home.folder / "wait"
    assert not home.apply(server(home, port, blocking=blocking, stop_timeout_ms=60_000)).failed
    old = home.pid("web")
    assert ask(("127.0.0.1", port))[1] == old
    wait.touch()
    reloading = begin_reload(home)
    wait_until(lambda: ends(home), "its stop signal")
    assert ends(home) == [[str(old), "drained", "False"]]
    assert {ask(("127.0.0.1", port))[1] for _ in range(20)} == {home.pid("web")} != {old}
    wait.unlink()
    assert isinstance(answer(reloading), Done)


@pytest.mark.parametrize("what", ["stop", "restart"])
def test_a_stop_for_which_nobody_is_there_instead_comes_at_once(home: Home, what: str) -> None:
    home.apply(server(home, free_port()))
    old = home.pid("web")
    home.request(Act(what, ["web"]))
    wait_until(lambda: ends(home), "its stop signal")
    assert ends(home) == [[str(old), "open", "False"]]


def test_its_hook_comes_before_and_its_time_to_stop_is_counted_from_the_signal_on(home: Home) -> None:
    hooked, wait = home.folder / "hooked", home.folder / "wait"
    home.apply(server(home, free_port(), hooks=Hooks(pre_stop=f"touch {hooked}"), stop_timeout_ms=60_000))
    old = home.pid("web")
    wait.touch()
    reloading = begin_reload(home)
    wait_until(lambda: ends(home), "its stop signal")
    assert ends(home) == [[str(old), "drained", "True"]]
    due = [one.due for one in journal(home) if isinstance(one, Observed) and one.pid == old and one.due]
    assert due[-1] - stopping_at(home, old) > 60 + DRAIN / 2
    wait.unlink()
    assert isinstance(answer(reloading), Done)


def test_the_signal_comes_although_the_daemon_has_died_before_it(home: Home) -> None:
    home.apply(server(home, free_port(), stop_timeout_ms=60_000))
    old = home.pid("web")
    (home.folder / "murder").touch()
    daemon = home.about_daemon().pid
    begin_reload(home)
    home.another_than(daemon)
    wait_until(lambda: ends(home), "its stop signal")
    assert ends(home)[0][:2] == [str(old), "drained"]
    wait_until(lambda: not os.path.exists(f"/proc/{old}"), "its end")
    assert home.pid("web") != old


def test_who_has_lost_daemon_and_guard_goes_on(home: Home) -> None:
    port = free_port()
    home.apply(server(home, port))
    pid = home.pid("web")
    kill_both(home)
    assert {ask(("127.0.0.1", port))[1] for _ in range(20)} == {pid}
    home.start_daemon()
    assert home.pid("web") == pid

"""Unix sockets of `listen`: whose their files are, what may be in their place, and when they go."""

import os
import socket
import stat
from pathlib import Path

import pytest

from oxmgr.model.listen import read_address
from oxmgr.model.messages import Act
from oxmgr.model.spec import Spec
from oxmgr.supervisor.sockets import Refused, _bind_unix, _set_rights
from tests.conftest import Home, as_nobody, wait_until
from tests.integration.test_sockets import ask, server

READY = """
import os, sys, time, pathlib
folder = pathlib.Path({folder!r})
if (folder / "broken").exists(): sys.exit(3)
print("begun", flush=True)
while (folder / "wait").exists(): time.sleep(0.02)
os.write(int(os.environ["READY_FD"]), b"\\n")
"""


def rolling(home: Home, path: str, **keys: object) -> Spec:
    """One that is replaced without a gap."""
    spec = server(home, f"unix:{path}", ready="fd:9", env={"READY_FD": "9"}, **keys)
    script = READY.format(folder=str(home.folder)) + spec.argv[-1]
    return home.python("web", script, listen=spec.listen, ready="fd:9", env={"READY_FD": "9"}, **keys)


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_living_one_of_another_kind_is_not_replaced(home: Home, kind: socket.SocketKind) -> None:
    path = f"{home.folder}/other.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
        if kind == socket.SOCK_SEQPACKET:
            other.listen()
        before = os.lstat(path).st_ino
        assert "is taken" in home.apply(server(home, f"unix:{path}", max_restarts=1)).failed["web"]
        assert os.lstat(path).st_ino == before


def test_a_file_in_its_place_is_told_and_left(home: Home) -> None:
    path = home.folder / "file"
    path.write_text("precious")
    why = home.apply(server(home, f"unix:{path}", max_restarts=1)).failed["web"]
    assert "there is a file that is no socket: remove it" in why and path.read_text() == "precious"


def test_an_old_one_keeps_its_own_until_it_is_replaced(home: Home) -> None:
    one, two = f"{home.folder}/one.sock", f"{home.folder}/two.sock"
    home.apply(rolling(home, one))
    old = home.pid("web")
    (home.folder / "broken").touch()
    assert "exit code 3" in home.apply(rolling(home, two)).failed["web"]
    assert home.pid("web") == old and ask(one)[1] == old and not os.path.lexists(two)
    (home.folder / "broken").unlink()
    (home.folder / "wait").touch()
    connection = home.connect()
    connection._send(Act("reload", ["web"]))
    wait_until(lambda: home.log("web").count("begun") == 2, "the new one")
    assert ask(one)[1] == old
    (home.folder / "wait").unlink()
    wait_until(lambda: home.pid("web") != old and not os.path.lexists(one), "the end of the old one")
    assert ask(two)[1] == home.pid("web")


def test_a_change_of_its_mode_is_made(home: Home) -> None:
    path = f"{home.folder}/api.sock"
    home.apply(server(home, f"unix:{path}", socket_mode=0o660))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    inode = os.stat(path).st_ino
    assert not home.apply(server(home, f"unix:{path}", socket_mode=0o600)).failed
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and os.stat(path).st_ino == inode


def test_one_whose_file_is_gone_is_made_anew_by_the_next_start(home: Home) -> None:
    path = f"{home.folder}/api.sock"
    home.apply(server(home, f"unix:{path}"))
    os.unlink(path)
    assert not home.request(Act("restart", ["web"])).failed
    assert ask(path)[1] == home.pid("web")


def test_rights_are_given_to_nothing_that_is_in_its_place(tmp_path: Path, home: Home) -> None:
    """The folder of a socket may be its app's user's own."""
    victim, link = tmp_path / "victim", tmp_path / "api.sock"
    victim.write_text("precious")
    victim.chmod(0o600)
    link.symlink_to(victim)
    spec = server(home, f"unix:{link}", socket_uid=65534, socket_mode=0o666)
    with pytest.raises(Refused, match="another file"):
        _set_rights(read_address(f"unix:{link}"), spec)
    assert victim.stat().st_uid == os.getuid() and stat.S_IMODE(victim.stat().st_mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_one_that_cannot_be_given_its_rights_leaves_no_file(home: Home) -> None:
    """Nobody could connect to it, and whoever binds next would take it for somebody's."""
    home.folder.chmod(0o777)
    path = home.folder / "api.sock"
    with as_nobody(), pytest.raises(PermissionError):
        _bind_unix(read_address(f"unix:{path}"), server(home, f"unix:{path}", socket_uid=0))
    assert not path.exists()

"""The short form of the load campaign."""

import os
import shutil

import pytest

from oxmgr.supervisor.owners import ESTABLISHED, rows
from tests.bench.load import SERVERS, Counts, build, kill, load, lost, reload
from tests.conftest import Home, wait_until
from tests.integration.test_sockets import free_port

RELOADS, KILLS = 4, 6
OF_ITS_OWN = {"uvicorn": ("raced", "reset")}
"""What a server itself does to requests in a reload: it closes at once each connection of which it has read no request
yet, also one that it has just accepted."""


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build("asker.c", out=tmp_path_factory.mktemp("asker"))


def begin(home: Home, server: str) -> int:
    """The port at which two instances of it answer."""
    if server.startswith("Node") and not shutil.which("node"):
        pytest.skip("needs node")
    port = free_port()
    done = home.apply(SERVERS[server](home.folder, port))
    assert not done.failed, (done.failed, home.log("web:0", "err"))
    return port


def assert_none_is_lost(counts: Counts, by: str, of_its_own: tuple[str, ...] = ()) -> None:
    print(counts)
    counts |= dict.fromkeys(of_its_own, 0)
    assert counts["answered"] >= 8 and lost(counts, by) == 0
    assert by == "SIGKILL" or counts["raced"] == 0


@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "close"])
@pytest.mark.parametrize("server", ["Node http", "uvicorn", "static binary"])
def test_no_request_is_lost_in_reloads_and_nobody_is_refused_by_kills(
    home: Home, asker: str, server: str, keep: bool
) -> None:
    port = begin(home, server)
    with load(asker, port, keep=keep) as counts:
        for _ in range(RELOADS):
            reload(home)
    assert_none_is_lost(counts, "reload", OF_ITS_OWN.get(server, ()))
    with load(asker, port, keep=keep) as counts:
        for number in range(KILLS):
            kill(home, number)
    assert_none_is_lost(counts, "SIGKILL")


def accepted(port: int) -> int:
    return sum(1 for local, _, state, inode in rows(os.getpid()) if local[1] == port and state == ESTABLISHED and inode)


@pytest.mark.parametrize("server", ["Node http", "uvicorn", "static binary"])
def test_a_request_of_more_than_a_second_survives_a_reload(home: Home, asker: str, server: str) -> None:
    port = begin(home, server)
    with load(asker, port, keep=True, path="/slow", many=8, rate=0) as counts:
        wait_until(lambda: accepted(port) == 8, "them to have been asked")
        reload(home)
    assert_none_is_lost(counts, "reload", OF_ITS_OWN.get(server, ()))

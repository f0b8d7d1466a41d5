"""Whose a socket is: the kernel's answer is what /proc says, whichever of them is asked."""

import os
import socket
from collections.abc import Iterator

import pytest

from oxmgr.supervisor import diag, owners


@pytest.fixture(params=["kernel", "proc"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> tuple[int, int]:
        raise PermissionError

    if request.param == "proc":
        monkeypatch.setattr(diag, "find", refused)
        monkeypatch.setattr(diag, "listening", refused)


def inode_of(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture(params=["127.0.0.1", "::1", "both"])
def listening(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and where it is reached."""
    host = request.param
    with socket.socket(socket.AF_INET if host == "127.0.0.1" else socket.AF_INET6) as made:
        if host == "both":
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::" if host == "both" else host, 0))
        made.listen()
        yield made, "127.0.0.1" if host == "both" else host


def test_who_listens_at_a_port_is_found(way: None, listening: tuple[socket.socket, str]) -> None:
    port = listening[0].getsockname()[1]
    assert owners.port_listeners(port) == {inode_of(listening[0])}
    listening[0].close()
    assert owners.port_listeners(port) == set()


def test_the_kernel_can_be_asked_here() -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        assert diag.find(made.getsockname(), ("127.0.0.1", 1)) == (diag.LISTENING, inode_of(made))
        assert diag.listening(made.getsockname()[1]) == [(diag.LISTENING, inode_of(made))]


def test_who_has_accepted_a_connection_is_found(way: None, listening: tuple[socket.socket, str]) -> None:
    made, host = listening
    with socket.create_connection((host, made.getsockname()[1])) as ours:
        ends = ours.getsockname()[:2], ours.getpeername()[:2]
        assert owners.answerer(*ends) == 0, "nobody has accepted it"
        theirs, _ = made.accept()
        assert owners.answerer(*ends) == inode_of(theirs)
        theirs.close()
    made.close()
    assert owners.answerer(*ends) == 0


def test_what_a_process_has_open_is_found() -> None:
    with socket.socket() as one, socket.socket() as other:
        wanted = inode_of(one)
        assert owners.has_any([os.getpid()], {wanted}) and wanted in owners.inodes([os.getpid()])
        other_inode = inode_of(other)
    assert not owners.has_any([os.getpid()], {wanted, other_inode})
    assert not owners.has_any([], {wanted})

"""Clients that are no more than a socket."""

import socket

from oxmgr.model.codec import encode
from oxmgr.model.frames import PROTOCOL, frame
from oxmgr.model.messages import Hello
from tests.conftest import Home

HELLO = frame(encode(Hello(PROTOCOL, "test")))


def hung_up(sock: socket.socket) -> bool:
    """Whether the other side closes, after whatever it still says."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def answers(home: Home) -> bool:
    return home.views() is not None


def daemon_log(home: Home) -> str:
    with open(home.places.daemon_log) as file:
        return file.read()

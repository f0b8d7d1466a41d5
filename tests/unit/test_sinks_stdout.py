"""What is sent to a standard output that goes away is told to everybody whose it was."""

import os

import pytest

from oxmgr.supervisor.loop import Loop
from oxmgr.supervisor.sinks import Stdout


def test_a_block_that_did_not_go_out_is_not_said_to_have_when_another_app_meets_the_error() -> None:
    def failed(error: Exception) -> None:
        raise error

    reading, writing = os.pipe()
    out = Stdout(Loop(failed))
    own, out.fd = out.fd, writing
    os.set_blocking(writing, False)
    number = out.send(b"A" * 200_000)
    assert not out.is_out(number)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        out.send(b"B\n")
    with pytest.raises(BrokenPipeError):
        out.is_out(number)
    os.close(writing)
    if own != 1:
        os.close(own)

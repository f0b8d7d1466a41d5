"""What is sent to a standard output that goes away is told to everybody whose it was."""

import os

import pytest

from oxmgr.supervisor.loop import Loop
from oxmgr.supervisor.sinks import Stdout, Target


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


def test_who_waits_after_all_who_waited_have_gone_is_asked_like_them() -> None:
    def never() -> None:
        raise AssertionError("it has gone")

    faults: list[Exception] = []
    loop = Loop(faults.append)
    reading, writing = os.pipe()
    try:
        target = Target(loop)
        target.wait(writing, never)
        target.forget(never)
        target.wait(writing, loop.stop)
        loop.run()
        assert not faults
    finally:
        os.close(reading)
        os.close(writing)

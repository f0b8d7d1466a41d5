"""What comes over a Node app's channel, however much and however it ends."""

import socket

from oxmgr.supervisor.channels import BUDGET, READY, NodeChannel, make_channel
from oxmgr.supervisor.loop import Loop
from tests.unit.store import KeepsFds


def test_one_that_has_sent_much_and_is_gone_is_read_to_its_end() -> None:
    faults: list[Exception] = []
    loop, said = Loop(faults.append), []
    ours, theirs = make_channel()
    with socket.socket(fileno=theirs) as app:
        app.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * BUDGET)
        channel = NodeChannel(loop, KeepsFds(0), "app.node", ours, lambda: said.append(True))  # type: ignore[arg-type]
        for _ in range(2):
            app.sendall(b"x" * BUDGET)
        app.sendall(b"\n" + READY + b"\n")

    def look() -> None:
        if channel.is_open:
            loop.at(0.0, look)
        else:
            loop.stop()

    look()
    loop.run()
    assert said == [True] and not faults
    assert not [timer for _, _, timer in loop._timers if timer.callback == channel._go_on]

"""Raises the loopback of the network namespace that this process was born in, says so, and holds it until the
daemon has opened it."""

import os
from _signal import SIGKILL

import _prctl


def main() -> int:
    """0 when it is up: `ok` and a newline go to standard output, else why it is not. Ends with the daemon, and at the
    end of its input."""
    _prctl.prctl(_prctl.PR_SET_PDEATHSIG, SIGKILL)
    try:
        from pyroute2 import IPRoute

        with IPRoute() as route:
            route.link("set", index=route.link_lookup(ifname="lo")[0], state="up")
    except Exception as error:
        os.write(1, f"{type(error).__name__}: {error}\n".encode())
        return 1
    os.write(1, b"ok\n")
    while os.read(0, 64):
        pass
    return 0

"""csrc/shim.c by itself: accept(2) of who is to take no more waits as the kernel's does, and can be ended as that."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

import oxmgr

SHIM = Path(oxmgr.__file__).parent / "oxmgr-shim.so"
SOURCE = Path(__file__).parent / "waits.c"


@pytest.mark.parametrize("by", ["kernel", "shim"])
def test_a_wait_for_nobody_ends_as_the_kernels(tmp_path: Path, by: str) -> None:
    program = tmp_path / "waits"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O2", "-pthread", "-o", program, SOURCE], check=True)
    with socket.socket() as sock, socket.socket() as client:
        sock.bind(("127.0.0.1", 0))
        sock.listen(5)
        reading, told = os.pipe()
        os.write(told, b"\n")
        os.close(told)
        inodes = [f"{fd}:{os.fstat(fd).st_ino}" for fd in (sock.fileno(), reading)]
        env = {"OXMGR_BIND": f"{inodes[0]}:5:4:", "OXMGR_DRAIN": inodes[1]}
        if by == "shim":
            # It does not even see who is there.
            client.connect(sock.getsockname())
            env["LD_PRELOAD"] = str(SHIM)
        words, given = [str(program), str(sock.fileno())], [reading, sock.fileno()]
        done = subprocess.run(words, env=env, pass_fds=given, stdout=subprocess.PIPE, text=True, timeout=60)
        os.close(reading)
    assert done.stdout.splitlines() == [
        "SO_RCVTIMEO: Resource temporarily unavailable",
        "SA_RESTART: -1",
        "a signal: Interrupted system call",
        "cancelled: 1",
    ]

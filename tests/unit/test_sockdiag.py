"""Whose a socket is: asked of the kernel, and read from /proc where it does not answer."""

import gc
import os
import socket
import time
from collections.abc import Iterator
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import pytest

from oxmgr.supervisor import native, owners
from oxmgr.supervisor.asking import CLOSED, OTHERS, STRANGER, Asked, Asking
from oxmgr.supervisor.loop import Loop
from oxmgr.supervisor.owners import ESTABLISHED, NO_FAULT
from oxmgr.supervisor.sockdiag import _DUMP, BY_KERNEL, SockDiag, _of_inet


@pytest.fixture(params=["kernel", "proc"])
def diag(request: pytest.FixtureRequest) -> Iterator[SockDiag]:
    made = SockDiag()
    if request.param == "proc":
        made.refused = "this test"
    elif made.rung() != BY_KERNEL:
        pytest.skip(made.rung())
    yield made
    made.close()


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def listener(host: str = "127.0.0.1", **options: bool) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if options:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, 0))
    made.listen()
    return made


@pytest.mark.parametrize(
    ("host", "to"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1"), ("::1", "::1")],
)
def test_who_would_take_a_connection_and_who_has(diag: SockDiag, host: str, to: str) -> None:
    with listener(host) as server, socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as client:
        remote = to, server.getsockname()[1]
        client.bind((to, 0))
        local = client.getsockname()[:2]
        takers = diag.takers(remote, local)
        assert [one.inode for one in takers] == [inode(server)] == diag.beside(takers[0])
        assert inode(server) in diag.listening(os.getpid())
        assert diag.connection(remote, local) is None
        client.connect(remote)
        found = diag.connection(remote, local)
        assert found is not None and (found.state, found.inode) == (ESTABLISHED, 0), "nobody has accepted"
        accepted, _ = server.accept()
        found = diag.connection(remote, local)
        assert found is not None and (found.state, found.inode) == (ESTABLISHED, inode(accepted))
        accepted.close()
        found = diag.connection(remote, local)
        assert found is None or (found.state, found.inode) != (ESTABLISHED, 0), "it is over, not waiting"
    assert diag.takers(remote, local) == []


def test_of_those_that_share_a_port_it_is_known_which_one_would(diag: SockDiag) -> None:
    with listener(shared=True) as one, socket.socket() as two:
        two.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        two.bind(one.getsockname())
        two.listen()
        for _ in range(20):
            with socket.socket() as client:
                client.bind(("127.0.0.1", 0))
                takers = diag.takers(one.getsockname(), client.getsockname())
                assert sorted(diag.beside(takers[0])) == sorted([inode(one), inode(two)])
                client.connect(one.getsockname())
                for server in (one, two):
                    server.setblocking(False)
                    try:
                        server.accept()[0].close()
                    except BlockingIOError:
                        continue
                    assert inode(server) in [found.inode for found in takers]


def test_unix_sockets_that_listen_are_found(diag: SockDiag) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as silent:
        server.bind(f"\0ox-test-{os.getpid()}")
        server.listen()
        found = diag.listening(os.getpid())
        assert inode(server) in found and inode(silent) not in found


def test_what_is_left_of_a_question_that_was_given_up_is_no_answer_to_the_next(diag: SockDiag) -> None:
    with listener() as one, listener() as two:
        if not diag.refused:
            for _ in diag._ask(_of_inet(socket.AF_INET, 0, 0, bytes(32), 1 << owners.LISTEN), _DUMP):
                break
        for server in (one, two):
            assert [found.inode for found in diag.takers(server.getsockname(), ("127.0.0.1", 1))] == [inode(server)]


# --- asked ---


class Run:
    """Asks once, in a loop of its own, an instance that this process is, or is not."""

    def __init__(self, diag: SockDiag, *, born_with: set[int] | None = None, mine: bool = True) -> None:
        self.diag = diag
        pids = [os.getpid() if mine else os.getppid()]
        self.asked = Asked(
            lambda inodes, then: then(native.has_socket(pids, inodes, 10_000)), lambda: born_with or set()
        )

    def __call__(self, probe: str, timeout: float = 0.3) -> str:
        faults: list[Exception] = []
        said: list[str] = []
        loop = Loop(faults.append)

        def done(why: str) -> None:
            said.append(why)
            loop.stop()

        loop.at(0.0, lambda: Asking(loop, self.diag, probe, timeout, self.asked, done))
        loop.at(time.monotonic() + 10, loop.stop)
        loop.run()
        assert not faults
        return said[0]


def test_a_connection_to_itself_is_none(diag: SockDiag) -> None:
    """Whoever connects to a port from which connections begin may get that very port, and then TCP connects it to itself."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        assert low <= port <= high
    assert {Run(diag)(f"tcp:{port}") for _ in range(50)} == {"Connection refused"}


@pytest.mark.parametrize("left", range(4))
def test_what_there_is_not_enough_of_is_no_fault_of_the_app(diag: SockDiag, left: int) -> None:
    """Whichever of its fds it is that is wanting."""
    run, before = Run(diag, mine=False), getrlimit(RLIMIT_NOFILE)
    with listener() as server:
        faults: list[Exception] = []
        said: list[str] = []
        loop = Loop(faults.append)

        def few_left() -> None:
            gc.collect()  # what is collected later would leave another one free
            # The lowest that are free, and the one behind them.
            fds = [os.dup(0) for _ in range(left + 1)]
            for fd in fds:
                os.close(fd)
            setrlimit(RLIMIT_NOFILE, (fds[-1], before[1]))

        def done(why: str) -> None:
            said.append(why)
            loop.stop()

        few_left()
        try:
            Asking(loop, diag, f"tcp:{server.getsockname()[1]}", 1.0, run.asked, done)
            loop.run()
        finally:
            setrlimit(RLIMIT_NOFILE, before)
        assert not faults
        assert said == [STRANGER] if left == 3 else said[0].startswith(NO_FAULT) or said == [STRANGER]
        assert left or said == [f"{NO_FAULT}Too many open files"]


def test_others_and_strangers_are_told_apart_and_not_bothered(diag: SockDiag) -> None:
    with listener() as server:
        port = server.getsockname()[1]
        assert Run(diag, mine=False)(f"http://127.0.0.1:{port}/") == STRANGER
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        assert Run(diag)(f"tcp:{port}") == "", "its own"
        held = Run(diag, born_with={inode(server)})
        assert held(f"tcp:{port}") == "nobody accepts the connection within 0.3 s"


def test_who_closes_before_it_is_known_is_nobody(diag: SockDiag) -> None:
    """As another one that takes the connection and ends it at once."""
    child = 0
    with listener() as server:
        child = os.fork()
        if not child:
            while True:
                server.accept()[0].close()
        try:
            said = {
                Run(diag, born_with={inode(server)})(f"http://127.0.0.1:{server.getsockname()[1]}/") for _ in range(20)
            }
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert said <= {CLOSED, OTHERS} and said


def test_no_name_is_looked_up(diag: SockDiag) -> None:
    assert Run(diag)("tcp:[::zz]:80") == "::zz is no address"


def test_rows_of_proc_are_read_for_who_holds_a_port() -> None:
    with listener() as server:
        rows = [row for row in owners.rows(os.getpid()) if row[0] == server.getsockname()]
        assert [(row[2], row[3]) for row in rows] == [(owners.LISTEN, inode(server))]

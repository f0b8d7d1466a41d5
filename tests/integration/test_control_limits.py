"""What clients may cost: bounded memory, no time of others, and no file descriptor that supervision needs."""

import os
import select
import signal
import socket
import time

import pytest

from oxmgr.client.connection import NoDaemon, connect
from oxmgr.model.codec import encode
from oxmgr.model.frames import FRAME_LIMIT, frame
from oxmgr.model.messages import Act, Apply, Done, Event, EventsEnd, GetDaemon, GetEvents, GetInstances, SendSignal
from tests.conftest import Home, wait_until
from tests.integration.clients import HELLO, answers, daemon_log, hung_up


def test_one_client_with_much_to_ask_lets_others_have_their_turn(home: Home, raw: socket.socket) -> None:
    home.apply(*(home.sh(f"app{number}", "exec sleep 1000") for number in range(50)))
    raw.sendall(HELLO)
    raw.setblocking(False)
    sent = 0
    data = frame(encode(GetInstances())) * 5000
    try:
        while sent < len(data):
            sent += raw.send(data[sent:])
    except BlockingIOError:
        pass
    begun = time.monotonic()
    connection = connect(home.places)
    connection.request(GetDaemon())
    connection.close()
    assert time.monotonic() - begun < 0.5
    home.apply(prune=True)


def test_what_nobody_has_introduced_is_not_kept(home: Home, raw: socket.socket) -> None:
    raw.sendall((FRAME_LIMIT).to_bytes(4, "big") + b"x" * 1000)
    assert hung_up(raw)


def test_all_clients_together_cost_bounded_memory_and_the_largest_goes_first(home: Home) -> None:
    assert home.daemon is not None
    small = home.connect()
    before = resident(home.daemon.pid)
    held = crowd(home, 12)
    for sock in held:
        try:
            sock.sendall((FRAME_LIMIT).to_bytes(4, "big") + b"x" * (12 * 1024 * 1024))
        except OSError:
            pass
    wait_until(lambda: "all clients together" in daemon_log(home), "one to be dropped")
    assert resident(home.daemon.pid) - before < 1.5 * 64 * 1024 * 1024
    assert small.request(GetInstances())
    for sock in held:
        sock.close()


def test_a_client_that_stops_reading_costs_bounded_memory_and_no_time(home: Home) -> None:
    home.apply(*(home.sh(f"app{number}", "exec sleep 1000") for number in range(50)))
    assert home.daemon is not None
    before = resident(home.daemon.pid)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.settimeout(5)
        deaf.connect(home.places.socket)
        deaf.sendall(HELLO)
        deaf.settimeout(0.2)
        try:
            for _ in range(20_000):
                deaf.sendall(frame(encode(GetInstances())))
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        begun = time.monotonic()
        assert answers(home)
        assert time.monotonic() - begun < 0.5
        assert resident(home.daemon.pid) - before < FRAME_LIMIT * 2.5
    home.apply(prune=True)


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_follower_that_stops_reading_costs_little_and_misses_nothing_while_others_hear_on(home: Home) -> None:
    home.apply(home.sh("app", "exec sleep 1000"))
    slow = home.connect().stream(GetEvents(after=1, limit=1 << 62, follow=True))
    second = next(slow)
    good = home.connect().stream(GetEvents(limit=0, follow=True))
    next(good)
    assert home.daemon is not None
    before = resident(home.daemon.pid)
    signals = home.connect()
    heard: list[int] = []
    for _ in range(6000):
        signals.request(SendSignal(["app"], signal.SIGCONT))
        event = next(good)
        assert isinstance(event, Event)
        heard.append(event.seq)
    assert heard == list(range(heard[0], heard[0] + 6000))
    assert resident(home.daemon.pid) - before < 2_000_000
    assert isinstance(second, Event)
    numbers = [second.seq]
    while numbers[-1] < heard[-1]:
        event = next(slow)
        assert isinstance(event, Event | EventsEnd)
        numbers += [event.seq] if isinstance(event, Event) else []
    assert numbers == list(range(2, heard[-1] + 1))


def test_many_silent_clients_lock_nobody_out_who_is_in(home: Home) -> None:
    inside = home.connect()
    silent = []
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(home.places.socket)
        silent.append(sock)
    assert inside.request(GetInstances())
    for sock in silent:
        sock.close()
    wait_until(lambda: _tries(home), "room for new clients")


def _tries(home: Home) -> bool:
    try:
        return answers(home)
    except NoDaemon:
        return False


def crowd(home: Home, number: int) -> list[socket.socket]:
    """So many clients that have introduced themselves and stay."""
    held = []
    for _ in range(number):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(home.places.socket)
        sock.sendall(HELLO)
        held.append(sock)
    return held


def test_clients_leave_room_for_the_fds_of_supervision(empty_home: Home) -> None:
    home = empty_home
    pid = home.start_daemon(nofile=40)
    home.apply(home.sh("left", "setsid sleep 1234 & echo $!; exec sleep 1235"))
    wait_until(lambda: home.log("left"), "its child")
    left = os.pidfd_open(int(home.log("left")))
    inside = home.connect()
    held = crowd(home, 60)
    wait_until(lambda: "clients are turned away: there are 13" in daemon_log(home), "the log to say so")
    done = inside.request(Act("stop", ["left"]))
    assert isinstance(done, Done) and done.instances[0].status == "stopped"
    assert select.select([left], [], [], 0)[0], "stopped means that nothing of it lives"
    os.close(left)
    for sock in held:
        sock.close()
    wait_until(lambda: _tries(home), "the daemon to answer again")
    assert home.daemon is not None and home.daemon.pid == pid


@pytest.mark.parametrize("nofile", range(41, 44))
def test_no_fds_left_is_survived_and_told(empty_home: Home, nofile: int) -> None:
    """An instance takes three: with one of these limits there are none for the last client, with the others it is one
    too many."""
    home = empty_home
    home.start_daemon(nofile=nofile)
    inside = home.connect()
    inside._send(Apply([home.sh("app", "exec sleep 1000", instances=30)]))
    wait_until(lambda: "file descriptors are taken" in daemon_log(home), "its instances to have all fds")
    held = crowd(home, 20)
    wait_until(lambda: "turned away: there are" in daemon_log(home), "the log to say so")
    for sock in held:
        sock.close()
    home.connections.remove(inside)
    inside.close()
    wait_until(lambda: _tries(home), "the daemon to answer again")
    home.request(Act("stop", ["all"]))
    assert {view.status for view in home.views().values()} == {"stopped"}


@pytest.mark.parametrize("nofile", range(36, 46, 3))
def test_whichever_open_is_the_last_one_the_daemon_lives_on(empty_home: Home, nofile: int) -> None:
    home = empty_home
    home.start_daemon(nofile=nofile)
    connection = home.connect()
    connection._send(Apply([home.sh("app", "exec sleep 1000", instances=30)]))
    wait_until(lambda: "file descriptors are taken" in daemon_log(home), "its instances to have all fds")
    home.connections.remove(connection)
    connection.close()
    wait_until(lambda: _tries(home), "the daemon to answer")
    home.request(Act("stop", ["all"]))
    assert "fault" not in daemon_log(home)

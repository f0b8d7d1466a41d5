"""The guard alone, with daemons whose strings the test pulls (puppet.c): what it keeps, what it tells, and that nothing
a daemon does ends it."""

import array
import errno
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import oxmgr
from oxmgr.supervisor import guard as daemons_side
from tests.conftest import DEADLINE, wait_until

GUARD = f"{os.path.dirname(oxmgr.__file__)}/oxmgr-guard"
SANITIZED = "BUILT_PACKAGE" in os.environ
MESSAGE = struct.Struct("=IiqQ88s")
HELLO, KEEP, FORGET, TAKEN, END, REPLACE, ANSWERS = range(1, 8)
KEPT, LISTED, EXIT, SIGNAL, REFUSED, BEGINS = range(16, 22)
KEPT_MOST = EXITS_MOST = 4096


class Message(NamedTuple):
    kind: int
    value: int
    a: int
    b: int
    name: str
    fds: list[int]


class Told(NamedTuple):
    """What the answer to a hello was."""

    kept: dict[str, int]
    exits: list[Message]
    listed: Message


class Puppet:
    """A daemon that a guard has started: `link` is its end of the guard's socketpair."""

    def __init__(self, pid: int, link: socket.socket, strings: socket.socket) -> None:
        self.pid = pid
        self.link = link
        self.strings = strings

    def say(self, kind: int, value: int = 0, a: int = 0, name: bytes | str = b"", fds: tuple[int, ...] = ()) -> None:
        data = MESSAGE.pack(kind, value, a, 0, os.fsencode(name))
        self.raw(data, fds)

    def raw(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        with_it = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert select.select([], [self.link], [], DEADLINE)[1], "the guard does not read"
        self.link.sendmsg([data], with_it)

    def hear(self, seconds: float = DEADLINE) -> Message:
        assert select.select([self.link], [], [], seconds)[0], "the guard says nothing"
        data, with_it, _, _ = self.link.recvmsg(MESSAGE.size + 1, 1024, socket.MSG_CMSG_CLOEXEC)
        assert len(data) == MESSAGE.size, data
        fds = [fd for _, _, found in with_it for fd in array.array("i", found)]
        kind, value, a, b, name = MESSAGE.unpack(data)
        return Message(kind, value, a, b, os.fsdecode(name.partition(b"\0")[0]), fds)

    def hello(self) -> Told:
        """All of its answer. What was on its way before is passed over, as a daemon does that was executed in the place
        of another."""
        self.say(HELLO)
        while self.hear().kind != BEGINS:
            pass
        told = Told({}, [], Message(0, 0, 0, 0, "", []))
        while True:
            one = self.hear()
            if one.kind == KEPT:
                (told.kept[one.name],) = one.fds
            elif one.kind == EXIT:
                told.exits.append(one)
            else:
                assert one.kind == LISTED, one
                return told._replace(listed=one)

    def up(self) -> Told:
        told = self.hello()
        self.say(ANSWERS)
        return told

    def is_silent(self) -> bool:
        """The guard has said no more than was heard. It has, by the time that it has answered another hello."""
        return not select.select([self.link], [], [], 0)[0]

    def order(self, what: str, value: int) -> None:
        self.strings.sendall(struct.pack("=ii", ord(what), value))

    def orphans(self, count: int) -> list[int]:
        """The pids of so many processes of its, which `let_go` makes end."""
        self.order("o", count)
        data = b""
        while len(data) < 4 * count:
            more = self.strings.recv(65536)
            assert more, "the puppet is gone"
            data += more
        return [pid for (pid,) in struct.iter_unpack("=i", data)]

    def let_go(self) -> None:
        self.strings.sendall(b"g")
        assert self.strings.recv(1) == b"\0"

    def end(self, code: int) -> None:
        self.order("x", code)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.link.close()
        self.strings.close()


def status_of_orphan(index: int) -> int:
    """As of waitpid(2); see puppet.c."""
    return signal.SIGKILL if index % 5 == 4 else (index % 251) << 8


class Guard:
    def __init__(self, folder: Path, puppet: str, program: str = GUARD) -> None:
        self.folder = folder
        self.program = program
        self.puppet = puppet
        self.crash = folder / "crash"
        self.path = f"{folder}/strings"
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        self.puppets: list[Puppet] = []
        self.process: subprocess.Popen[bytes] | None = None
        env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        self.env = {**env, "PUPPET_CRASH": str(self.crash)}

    def start(self, told: int = -1, nofile: int | None = None, wrap: tuple[str, ...] = ()) -> Puppet:
        self.spawn(told, nofile, wrap)
        return self.next()

    def words(self, told: int = -1, *, program: str = "") -> list[str]:
        return [program or self.program, "-", str(told) if told >= 0 else "-", self.puppet, self.path]

    def spawn(self, told: int = -1, nofile: int | None = None, wrap: tuple[str, ...] = ()) -> None:
        def limit() -> None:
            if nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))

        self.process = subprocess.Popen(
            [*wrap, *self.words(told)],
            env=self.env,
            pass_fds=[told] if told >= 0 else [],
            stdin=subprocess.DEVNULL,
            preexec_fn=limit,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def next(self, seconds: float = DEADLINE) -> Puppet:
        """The daemon that it starts next."""
        assert select.select([self.listening], [], [], seconds)[0], "no daemon comes"
        strings = self.listening.accept()[0]
        data, with_it, _, _ = strings.recvmsg(4, 64, socket.MSG_CMSG_CLOEXEC)
        (link,) = array.array("i", with_it[0][2])
        puppet = Puppet(struct.unpack("=i", data)[0], socket.socket(fileno=link), strings)
        self.puppets.append(puppet)
        return puppet

    def replaced(self, puppet: Puppet) -> Puppet:
        """Kill that daemon; the next one."""
        puppet.kill()
        puppet.close()
        return self.next()

    def fds(self) -> list[str]:
        return sorted(os.readlink(f"/proc/{self.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{self.pid}/fd"))

    def status(self, key: str, pid: int = 0) -> int:
        text = Path(f"/proc/{pid or self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key + ":"))

    def zombies(self) -> list[int]:
        found = []
        for pid in map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()):
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    found.append(pid)
            except FileNotFoundError:
                continue
        return found

    def ends(self, puppet: Puppet, code: int = 0) -> None:
        puppet.say(END, code)
        puppet.end(0)
        assert self.process is not None
        assert self.process.wait(DEADLINE) == code

    def close(self) -> None:
        for puppet in self.puppets:
            puppet.close()
        self.listening.close()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            # The puppets end with their connections, and orphans of theirs have come to us.
            wait_until(lambda: reap_all() == 0, "the puppets to end")


def reap_all() -> int:
    """How many children are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return 0
    return 1


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("puppet") / "puppet"
    subprocess.run(["cc", "-O1", "-o", program, Path(__file__).parent / "puppet.c"], check=True)
    return str(program)


@pytest.fixture
def guard(tmp_path: Path, puppet: str, nothing_left: None) -> Iterator[Guard]:
    one = Guard(tmp_path, puppet)
    yield one
    one.close()


def can_lower_its_oom_score() -> bool:
    """Some sandboxes take no score below 0 from anybody."""
    script = "echo -900 > /proc/self/oom_score_adj && grep -q -- -900 /proc/self/oom_score_adj"
    return subprocess.run(["sh", "-c", script], stderr=subprocess.DEVNULL).returncode == 0


def pipe_with(text: bytes) -> int:
    """The reading end of a pipe that holds this and no more."""
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    return reading


def keep(puppet: Puppet, name: str, text: bytes) -> None:
    fd = pipe_with(text)
    puppet.say(KEEP, name=name, fds=(fd,))
    os.close(fd)


def content(kept: dict[str, int]) -> dict[str, bytes]:
    found = {name: os.read(fd, 100) for name, fd in kept.items()}
    for fd in kept.values():
        os.close(fd)
    return found


# --- what it keeps ---


def test_what_is_kept_under_a_name_is_there_for_the_next_daemon_under_that_name(guard: Guard) -> None:
    one = guard.start()
    assert one.up().kept == {}
    keep(one, "a", b"1")
    keep(one, "b", b"2")
    keep(one, "c" * 87, b"3")
    keep(one, "gone", b"4")
    one.say(FORGET, name="gone")
    one.say(FORGET, name="never there")
    keep(one, "a", b"another")
    told = guard.replaced(one).hello()
    assert content(told.kept) == {"a": b"another", "b": b"2", "c" * 87: b"3"}
    assert (told.listed.value, told.listed.b) == (3, guard.pid)


def test_a_hello_is_answered_by_all_each_time(guard: Guard) -> None:
    one = guard.start()
    one.up()
    for number in range(200):
        keep(one, str(number), b"")
    for _ in range(3):
        told = one.hello()
        assert set(told.kept) == {str(number) for number in range(200)} and told.listed.value == 200
        content(told.kept)


def test_what_is_forgotten_or_replaced_is_closed(guard: Guard) -> None:
    one = guard.start()
    one.up()
    before = guard.fds()
    for _ in range(50):
        keep(one, "a", b"1")
    one.say(FORGET, name="a")
    one.hello()
    assert guard.fds() == before


def test_a_table_that_is_full_refuses_one_more_and_goes_on(guard: Guard) -> None:
    one = guard.start(nofile=KEPT_MOST + 100)
    one.up()
    fd = pipe_with(b"")
    for number in range(KEPT_MOST):
        one.say(KEEP, name=f"n{number}", fds=(fd,))
    one.say(KEEP, name="more", fds=(fd,))
    refused = one.hear()
    assert (refused.kind, refused.value, refused.name) == (REFUSED, errno.ENOSPC, "more")
    one.say(KEEP, name="n7", fds=(fd,))
    one.say(FORGET, name="n8")
    one.say(KEEP, name="more", fds=(fd,))
    os.close(fd)
    one = guard.replaced(one)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    told = one.hello()
    assert told.listed.value == KEPT_MOST and "more" in told.kept and "n8" not in told.kept
    content(told.kept)


def test_with_16_files_it_refuses_what_it_has_no_room_for_and_can_still_start_daemons(guard: Guard) -> None:
    one = guard.start(nofile=16)
    one.up()
    refused = set()
    for number in range(40):
        keep(one, f"n{number}", b"x")
    one.say(HELLO)
    while (said := one.hear()).kind != BEGINS:
        assert (said.kind, said.value) == (REFUSED, errno.EMFILE)
        refused.add(said.name)
    while (said := one.hear()).kind != LISTED:
        os.close(said.fds[0])
    assert 20 < len(refused) < 40
    pids = one.orphans(1)
    one.let_go()
    two = guard.replaced(one)
    told = two.up()
    assert len(told.kept) + len(refused) == 40 and not refused & set(told.kept)
    if not told.exits:
        told.exits.append(two.hear())
    assert [said.value for said in told.exits] == pids and told.exits[0].b, "its start is known"
    assert set(content(told.kept).values()) == {b"x"}
    guard.ends(guard.replaced(two))


# --- what a daemon may do ---


def test_nonsense_is_passed_over(guard: Guard) -> None:
    one = guard.start()
    one.up()
    keep(one, "a", b"1")
    os.close(one.hello().kept["a"])
    before = guard.fds()
    dice = random.Random(4)
    nothing = os.open("/dev/null", os.O_RDWR)
    for _ in range(4000):
        fds = (nothing,) * dice.choice([0, 0, 0, 1, 1, 2, 7, 8, 9, 60])
        size = dice.choice([MESSAGE.size] * 6 + [1, 3, 24, MESSAGE.size - 1, MESSAGE.size + 1, 4000])
        data = bytearray(dice.randbytes(size))
        # A death on purpose and a new name of its own are no nonsense.
        if size == MESSAGE.size:
            kind = dice.choice([0, HELLO, FORGET, TAKEN, REPLACE, *range(8, 22), 1 << 31])
            data[:4] = struct.pack("=I", kind)
        elif size >= 4:
            data[:4] = struct.pack("=I", KEEP)
        one.raw(bytes(data), fds)
        while not one.is_silent():
            for fd in one.hear().fds:
                os.close(fd)
    told = one.hello()
    assert content(told.kept) == {"a": b"1"}
    assert guard.fds() == before
    one.raw(MESSAGE.pack(KEEP, 0, 0, 0, b"\xff" * 88), (nothing,))
    one.say(KEEP, name="", fds=(nothing,))
    one.say(KEEP, name="no fd")
    one.say(KEEP, name="two", fds=(nothing, nothing))
    assert (refused := one.hear()).kind == REFUSED and refused.name == "no fd"
    os.close(nothing)
    two = guard.replaced(one)
    two.say(HELLO)
    names = set()
    while (said := two.hear()).kind != LISTED:
        if said.kind == KEPT:
            names.add(said.name)
            os.close(said.fds[0])
    assert names == {"a", os.fsdecode(b"\xff" * 87)}, "what is not terminated is cut at its end"


def test_bytes_of_any_kind_do_not_end_it(guard: Guard) -> None:
    """Messages that mean something, in any order and with any number in them, but an end on purpose."""
    one = guard.start()
    one.up()
    dice = random.Random(int(os.environ.get("FUZZ_SEED", "1")))
    nothing = os.open("/dev/null", os.O_RDWR)
    rounds = int(os.environ.get("FUZZ_ROUNDS", "20000"))
    for number in range(rounds):
        kind = dice.choice([HELLO, KEEP, KEEP, KEEP, FORGET, TAKEN, REPLACE, ANSWERS, dice.getrandbits(32)])
        if kind == END:
            continue
        name = b"%d" % dice.randrange(40) if dice.random() < 0.9 else dice.randbytes(88)
        value = dice.choice([0, 1, -1, 4, 2**31 - 1, -(2**31), dice.randrange(-100, 100)])
        try:
            one.link.sendmsg(
                [MESSAGE.pack(kind, value, dice.randrange(-(2**63), 2**63), dice.getrandbits(64), name)],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [nothing] * dice.randrange(3)))],
            )
        except BlockingIOError:
            pass
        if number % 50 == 0 and dice.random() < 0.5:
            while not one.is_silent():
                for fd in one.hear().fds:
                    os.close(fd)
        if number % (rounds // 6) == 0:
            # As few as that, for whoever dies soon is started later and later.
            one = guard.replaced(one)
    os.close(nothing)
    one = guard.replaced(one)
    one.say(HELLO)
    while (said := one.hear()).kind != LISTED:
        for fd in said.fds:
            os.close(fd)
    guard.ends(one, 7)


def test_a_daemon_that_reads_nothing_holds_up_nobody(guard: Guard) -> None:
    one = guard.start()
    one.say(ANSWERS)
    for _ in range(3000):
        one.say(HELLO)
        one.say(KEEP, name="no fd")
    pids = one.orphans(100)
    one.let_go()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all to be reaped")
    two = guard.replaced(one)
    told = two.up()
    assert [said.value for said in told.exits] and {said.value for said in told.exits} == set(pids)


def test_a_daemon_that_never_stops_talking_does_not_keep_it_from_reaping(guard: Guard) -> None:
    one = guard.start()
    one.up()
    pids = one.orphans(20)
    flood = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\nwhile True: os.write(0, bytes(112))"], stdin=one.link.fileno()
    )
    # Blocking, so that it writes as soon as there is room.
    one.link.setblocking(True)
    try:
        one.let_go()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all to be reaped")
    finally:
        flood.kill()
        flood.wait()


def test_a_daemon_that_closes_its_end_and_lives_on_is_told_nothing_and_waited_for(guard: Guard) -> None:
    one = guard.start()
    one.up()
    keep(one, "a", b"1")
    one.hello()
    one.link.close()
    pids = one.orphans(1)
    one.let_go()
    wait_until(lambda: not os.path.exists(f"/proc/{pids[0]}"), "the orphan to be reaped")
    one.kill()
    told = guard.next().hello()
    assert [said.value for said in told.exits] == pids
    assert content(told.kept) == {"a": b"1"}


# --- the ends that it tells of ---


def test_an_end_is_told_with_pid_status_and_start_before_the_list_is_whole(guard: Guard) -> None:
    one = guard.start()
    one.up()
    pids = one.orphans(10)
    ticks = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) for pid in pids}
    one.let_go()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all to be reaped")
    two = guard.replaced(one)
    told = two.up()
    assert {said.value: (said.a, said.b) for said in told.exits} == {
        pid: (status_of_orphan(index), ticks[pid]) for index, pid in enumerate(pids)
    }


@pytest.mark.parametrize("reader", ["reads", "does not read", "none"])
def test_ten_thousand_ends_are_told_each_and_once_to_who_takes_note(guard: Guard, reader: str) -> None:
    count, batch = (10_000, 1000) if not SANITIZED else (5000, 500)
    one = guard.start()
    one.up()
    wanted: dict[int, int] = {}
    told: list[Message] = []

    def take(most: int) -> None:
        for _ in range(most):
            said = one.hear()
            assert said.kind == EXIT
            told.append(said)
            one.say(TAKEN, 1)

    def gone() -> bool:
        return not any(os.path.exists(f"/proc/{pid}") for pid in wanted)

    for _ in range(count // batch):
        pids = one.orphans(batch)
        assert not wanted.keys() & set(pids), "the kernel has come round with its pids"
        wanted |= {pid: status_of_orphan(index) for index, pid in enumerate(pids)}
        one.let_go()
        if reader == "reads":
            take(batch)
        elif reader == "none" and len(wanted) % (3 * batch) == 0:
            # They end while there is no daemon, or while the next one has not said hello.
            one = guard.replaced(one)
    if reader != "reads":
        # It remembers as many as it has room for, and the kernel the others: none is lost.
        wait_until(lambda: len(guard.zombies()) >= count - EXITS_MOST, "the ends")
        one = guard.replaced(one)
        one.say(HELLO)
        while one.hear().kind != BEGINS:
            pass
        listed = False
        while len(told) < count:
            said = one.hear()
            if said.kind == LISTED:
                listed = True
                continue
            assert said.kind == EXIT
            told.append(said)
            one.say(TAKEN, 1)
        assert listed or one.hear().kind == LISTED
    assert len(told) == count
    assert {said.value: said.a for said in told} == wanted
    wait_until(gone, "all to be reaped")
    assert guard.zombies() == []
    again = guard.replaced(one).hello()
    assert again.exits == [], "what was taken note of is not told again"


def test_an_end_that_was_not_taken_note_of_is_told_to_the_next_daemon(guard: Guard) -> None:
    one = guard.start()
    one.up()
    pids = one.orphans(4)
    one.let_go()
    first = [one.hear().value for _ in range(4)]
    assert sorted(first) == sorted(pids)
    one.say(TAKEN, 1)
    one.say(TAKEN, 1000)
    one.say(TAKEN, -5)
    two = guard.replaced(one)
    assert [said.value for said in two.up().exits] == first[1:]
    two.say(TAKEN, 3)
    assert guard.replaced(two).hello().exits == []


def test_a_hello_in_the_middle_tells_all_that_is_not_on_record_once(guard: Guard) -> None:
    """A daemon that was executed in the place of another says hello on the same line, on which the ends may be that the
    other one had not read."""
    one = guard.start()
    one.up()
    pids = one.orphans(3)
    one.let_go()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all to be reaped")
    assert sorted(said.value for said in one.hello().exits) == sorted(pids)
    one.say(TAKEN, 3)
    assert one.hello().exits == []


def test_who_asks_for_the_ends_alone_gets_no_fds(guard: Guard) -> None:
    one = guard.start()
    one.up()
    keep(one, "a", b"1")
    pids = one.orphans(2)
    one.let_go()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all to be reaped")
    while not one.is_silent():
        one.hear()
    one.say(HELLO, 1)
    assert [one.hear().kind for _ in range(4)] == [BEGINS, EXIT, EXIT, LISTED]


# --- the daemon's ends ---


def test_a_daemon_that_cannot_start_at_first_ends_the_guard_with_its_code(guard: Guard) -> None:
    guard.env["PUPPET_EXIT"] = "43"
    guard.spawn()
    assert guard.process is not None and guard.process.wait(DEADLINE) == 43


def test_a_program_that_is_not_there_ends_it_with_127(guard: Guard) -> None:
    guard.puppet = "/nowhere"
    guard.spawn()
    assert guard.process is not None and guard.process.wait(DEADLINE) == 127


def test_a_daemon_that_is_killed_before_it_answers_is_started_again(guard: Guard) -> None:
    guard.replaced(guard.start())


def test_the_guard_ends_with_the_code_of_an_end_on_purpose(guard: Guard) -> None:
    one = guard.start()
    one.up()
    guard.ends(one, 42)


def test_a_daemon_that_is_killed_while_it_ends_on_purpose_has_ended(guard: Guard) -> None:
    one = guard.start()
    one.up()
    one.say(END, 3)
    one.kill()
    assert guard.process is not None and guard.process.wait(DEADLINE) == 3


def test_an_exit_that_was_not_said_to_be_on_purpose_is_a_death(guard: Guard) -> None:
    one = guard.start()
    one.up()
    one.end(0)
    guard.next()


def test_a_daemon_that_crashes_in_a_loop_is_started_again_ever_later_and_for_ever(guard: Guard) -> None:
    one = guard.start()
    one.up()
    guard.crash.touch()
    one.kill()
    wanted = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.0]
    starts = len(wanted) + 1

    def times() -> list[float]:
        return [int(line) / 1e9 for line in guard.crash.read_text().splitlines()]

    wait_until(lambda: len(times()) == starts, "so many starts", 30.0)
    found = times()
    for begun, following, delay in zip(found, found[1:], wanted, strict=False):
        # What comes on top is the time that a start takes here.
        assert delay - 0.002 <= following - begun < delay + 0.5, found
    guard.crash.unlink()
    one = guard.next(10.0)
    one.up()
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 1.1, "it to have lived for more than a second")
    begun = time.monotonic()
    guard.replaced(one)
    assert time.monotonic() - begun < 0.5, "at once again"


# --- signals ---


def test_signals_are_passed_on_also_those_that_come_while_there_is_no_daemon(guard: Guard) -> None:
    one = guard.start()
    one.up()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGINT, signal.SIGRTMAX):
        os.kill(guard.pid, number)
        said = one.hear()
        assert (said.kind, said.value, said.a) == (SIGNAL, number, 0)
    guard.crash.touch()
    one.kill()
    wait_until(guard.crash.read_text, "the next one, which crashes")
    os.kill(guard.pid, signal.SIGUSR2)
    wait_until(lambda: len(guard.crash.read_text().splitlines()) >= 3, "some that crash")
    os.kill(guard.pid, signal.SIGQUIT)
    guard.crash.unlink()
    two = guard.next()
    two.up()
    assert {two.hear().value, two.hear().value} == {signal.SIGUSR2, signal.SIGQUIT}
    two.hello()
    assert two.is_silent()


def test_that_it_is_to_end_is_told_to_each_daemon(guard: Guard) -> None:
    one = guard.start()
    one.up()
    os.kill(guard.pid, signal.SIGTERM)
    for _ in range(3):
        said = one.hear()
        assert (said.kind, said.value) == (SIGNAL, signal.SIGTERM)
        one = guard.replaced(one)
        one.up()
    guard.ends(one)


# --- a guard in the place of a guard ---


def replace(puppet: Puppet, words: list[str], count: int | None = None, cut: bytes | None = None) -> None:
    data = b"".join(os.fsencode(word) + b"\0" for word in words) if cut is None else cut
    fd = daemons_side.memory_file("words", data)
    puppet.say(REPLACE, len(words) if count is None else count, fds=(fd,))
    os.close(fd)


def test_another_guard_takes_its_place_with_all_that_it_has(guard: Guard) -> None:
    one = guard.start()
    one.up()
    keep(one, "a", b"1")
    keep(one, "b", b"2")
    one.say(FORGET, name="a")
    keep(one, "c", b"3")
    pids = one.orphans(5)
    one.let_go()
    first = [one.hear().value for _ in range(5)]
    one.say(TAKEN, 2)
    other = f"{guard.folder}/guard"
    os.link(GUARD, other) if os.stat(GUARD).st_dev == os.stat(guard.folder).st_dev else subprocess.run(
        ["cp", GUARD, other], check=True
    )
    before = guard.fds()
    os.kill(guard.pid, signal.SIGSTOP)
    replace(one, guard.words(program=other))
    os.kill(guard.pid, signal.SIGUSR1)
    os.kill(guard.pid, signal.SIGCONT)
    wait_until(lambda: os.path.samefile(f"/proc/{guard.pid}/exe", other), "the other program")
    said = [one.hear()]
    while said[-1].kind != SIGNAL or said[-1].value != signal.SIGUSR1:
        said.append(one.hear())
    assert not [one for one in said if one.kind == EXIT], "what was told is not told again to the same daemon"
    one.say(TAKEN, 1)
    one.hello()
    assert guard.fds() == before
    assert sorted(first) == sorted(pids)
    two = guard.replaced(one)
    told = two.up()
    assert [said.value for said in told.exits] == first[3:]
    assert content(told.kept) == {"b": b"2", "c": b"3"}
    before = guard.fds()
    for _ in range(20):
        replace(two, guard.words())
        assert len(content(two.hello().kept)) == 2
    assert guard.fds() == before
    guard.ends(two, 5)


def test_words_that_are_no_program_leave_it_as_it_is(guard: Guard) -> None:
    one = guard.start()
    one.up()
    keep(one, "a", b"1")
    good = guard.words()
    one.hello()
    before = guard.fds()
    replace(one, ["/nowhere", *good[1:]])
    replace(one, ["/etc/passwd", *good[1:]])
    replace(one, good, count=3)
    replace(one, good, count=len(good) + 1)
    replace(one, good[:3])
    replace(one, good, cut=b"")
    replace(one, good, cut=b"x" * 20_000)
    replace(one, good, cut=b"\0" * 20_000)
    one.say(REPLACE, len(good))
    told = one.hello()
    assert content(told.kept) == {"a": b"1"}
    assert guard.fds() == before
    # The kept fds are not passed on to what it starts.
    two = guard.replaced(one)
    kept = two.up().kept
    assert set(kept) == {"a"}
    os.close(kept["a"])
    wait_until(lambda: len(os.listdir(f"/proc/{two.pid}/fd")) == 4, "no other fd in it")


def test_a_guard_in_the_place_of_another_keeps_the_signals_that_no_daemon_has_heard(guard: Guard) -> None:
    one = guard.start()
    one.say(HELLO)
    one.say(ANSWERS)
    while one.hear().kind != LISTED:
        pass
    os.kill(guard.pid, signal.SIGTERM)
    assert one.hear().value == signal.SIGTERM
    replace(one, guard.words())
    one = guard.replaced(one)
    one.up()
    assert one.hear().value == signal.SIGTERM, "the next daemon is told, too"


# --- what it is ---


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have their own memory")
def test_it_has_less_than_a_megabyte_of_address_space_and_allocates_nothing(guard: Guard) -> None:
    one = guard.start()
    one.up()
    before = guard.status("VmSize")
    assert before < 1024 and guard.status("VmRSS") < 1024
    for number in range(500):
        keep(one, f"n{number}", b"")
    one.orphans(500)
    one.let_go()
    for _ in range(500):
        one.hear()
    content(guard.replaced(one).hello().kept)
    assert guard.status("VmSize") == before


def test_no_fd_of_its_own_comes_to_the_daemon(guard: Guard) -> None:
    reading, told = os.pipe()
    one = guard.start(told)
    os.close(told)
    kept = one.up().kept
    os.write(kept["told"], b"up")
    # Its connection to the test is 4; 3 it closes itself when it has handed it over.
    wait_until(lambda: set(os.listdir(f"/proc/{one.pid}/fd")) == {"0", "1", "2", "4"}, "no other fd in it")
    os.close(kept["told"])
    one.say(FORGET, name="told")
    assert os.read(reading, 10) == b"up" and os.read(reading, 10) == b""
    os.close(reading)
    keep(one, "a", b"1")
    two = guard.replaced(one)
    wait_until(lambda: set(os.listdir(f"/proc/{two.pid}/fd")) == {"0", "1", "2", "4"}, "no other fd in it")


def test_the_daemon_has_the_oom_score_and_the_limits_that_the_guard_was_given(guard: Guard) -> None:
    soft, hard = 500, 900
    score = Path("/proc/self/oom_score_adj")
    own = score.read_text()
    guard.spawn(wrap=("sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; echo 55 > {score}; exec "$@"', "sh"))
    one = guard.next()
    one.up()
    lowered = "-900" if can_lower_its_oom_score() else "55"
    assert Path(f"/proc/{guard.pid}/oom_score_adj").read_text().strip() == lowered
    assert resource.prlimit(guard.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    for again in (False, True):
        daemon = guard.replaced(one) if again else one
        assert Path(f"/proc/{daemon.pid}/oom_score_adj").read_text().strip() == "55"
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (soft, hard)
    assert score.read_text() == own


@pytest.mark.skipif(not can_lower_its_oom_score(), reason="no score may be lowered here")
def test_a_guard_that_a_daemon_becomes_has_the_low_oom_score_too(guard: Guard) -> None:
    state = daemons_side.memory_file("state", daemons_side.state({}, [0, 500, 900], b"55\n"))
    guard.process = subprocess.Popen(
        [GUARD, str(state), *guard.words()[2:]], env=guard.env, pass_fds=[state], stdin=subprocess.DEVNULL
    )
    os.close(state)
    one = guard.next()
    one.up()
    assert Path(f"/proc/{guard.pid}/oom_score_adj").read_text().strip() == "-900"
    assert Path(f"/proc/{one.pid}/oom_score_adj").read_text().strip() == "55"


def test_the_daemon_has_no_signal_blocked_or_ignored_but_what_a_terminal_asks_for(guard: Guard) -> None:
    one = guard.start(wrap=("env", "--ignore-signal"))
    one.up()
    text = Path(f"/proc/{one.pid}/status").read_text()
    masks = {
        line.split()[0]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("SigBlk", "SigIgn"))
    }
    assert masks["SigBlk:"] == 0
    assert masks["SigIgn:"] == 1 << (signal.SIGTTOU - 1)
    assert os.getpgid(one.pid) == one.pid


def test_an_end_on_purpose_is_heard_though_the_daemon_had_not_read_all(guard: Guard) -> None:
    """The kernel tells of that before all that the daemon had said (ECONNRESET)."""
    one = guard.start()
    one.say(HELLO)
    one.say(ANSWERS)
    assert select.select([one.link], [], [], DEADLINE)[0]
    os.kill(guard.pid, signal.SIGSTOP)
    wait_until(lambda: " T " in Path(f"/proc/{guard.pid}/stat").read_text(), "the guard to stop")
    one.say(END, 7)
    one.end(0)
    one.close()
    os.kill(guard.pid, signal.SIGCONT)
    assert guard.process is not None and guard.process.wait(DEADLINE) == 7

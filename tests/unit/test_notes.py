"""What the notes of an earlier daemon are taken for, and what they are not."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.lifecycle.events import State
from oxmgr.model.messages import Observed
from oxmgr.model.spec import Spec
from oxmgr.supervisor import native
from oxmgr.supervisor.cgroup import Cgroups
from oxmgr.supervisor.guard import Guard
from oxmgr.supervisor.instance import App, Instance
from oxmgr.supervisor.journal import Past
from oxmgr.supervisor.notes import ENDS, SIZE, SLOT, STARTS, Notes, complete
from oxmgr.supervisor.process import start_ticks
from tests.conftest import wait_until

NO_CGROUPS = Cgroups("")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "notes")
    native.note_ends(-1, 0, 0, 0)


def instance(name: str = "app", index: int = 0) -> Instance:
    return Instance(App(Spec(name, "true", ["true"], "/"), b""), index)


def noted(path: str, one: Instance, pid: int) -> None:
    """As a daemon leaves it that dies once the kernel has written the pid."""
    own = Notes(path)
    own.begin()
    assert own.start(one) != native.NOWHERE
    write_pid(path, pid)


def write_pid(path: str, pid: int) -> None:
    with open(path, "r+b") as file:
        file.seek(STARTS * SLOT)
        file.write(pid.to_bytes(4, "little"))


def found(path: str, guard: Guard | None = None, past: Past | None = None) -> Past:
    past = past or Past()
    later = Notes(path)
    later.end_unbegun()
    complete(past, later, NO_CGROUPS, guard or Guard(-1))
    return past


@pytest.fixture
def born() -> Iterator[subprocess.Popen[bytes]]:
    """A process with the environment of app:0."""
    env = {"PATH": os.environ["PATH"], "OXMGR_APP": "app", "OXMGR_INSTANCE_ID": "0"}
    one = subprocess.Popen(["sleep", "1000"], env=env)
    wait_until(lambda: b"OXMGR_APP" in Path(f"/proc/{one.pid}/environ").read_bytes(), "its environment")
    yield one
    one.kill()
    one.wait()


def test_the_file_is_ours_alone_and_neither_a_link_nor_anothers(path: str, tmp_path: Path) -> None:
    Notes(path)
    assert os.stat(path).st_mode & 0o777 == 0o600 and os.stat(path).st_size == SIZE
    os.unlink(path)
    (tmp_path / "victim").write_bytes(b"x" * 10)
    os.link(tmp_path / "victim", path)
    Notes(path)
    assert (tmp_path / "victim").read_bytes() == b"x" * 10 and os.stat(path).st_size == SIZE
    os.unlink(path)
    os.symlink(tmp_path / "victim", path)
    own = Notes(path)
    own.begin()
    assert own.start(instance()) == native.NOWHERE and (tmp_path / "victim").read_bytes() == b"x" * 10


def test_where_there_can_be_no_file_starts_go_on_without() -> None:
    own = Notes("/proc/nowhere/notes")
    own.begin()
    assert own.start(instance()) == native.NOWHERE
    own.journaled(instance(), Observed("app", 0, "running", pid=1))
    own.drop(instance())
    assert own.starts == [] and own.end(1, 0) is None


def test_a_start_that_only_the_notes_have_is_known_with_all_of_it(path: str) -> None:
    one = instance()
    noted_at = Notes(path)
    noted_at.begin()
    noted_at.start(one)
    env = {"PATH": os.environ["PATH"], "OXMGR_APP": "app", "OXMGR_INSTANCE_ID": "0"}
    child = subprocess.Popen(["sleep", "1000"], env=env)
    try:
        wait_until(lambda: b"OXMGR_APP" in Path(f"/proc/{child.pid}/environ").read_bytes(), "its environment")
        write_pid(path, child.pid)
        seen = found(path).seen["app", 0]
        assert (seen.pid, seen.ticks, seen.session) == (child.pid, start_ticks(child.pid), child.pid)
        assert abs(seen.started_at - time.time()) < 30
    finally:
        child.kill()
        child.wait()


def test_what_the_journal_has_is_not_touched(path: str, born: subprocess.Popen[bytes]) -> None:
    noted(path, instance(), born.pid)
    known = Observed("app", 0, "running", pid=born.pid, ticks=7, restarts=3)
    assert found(path, past=Past({("app", 0): known})).seen["app", 0] is known


def test_who_began_before_the_note_is_a_stranger(path: str, born: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * 100 > start_ticks(born.pid) + 2, "a tick")
    noted(path, instance(), born.pid)
    seen = found(path).seen["app", 0]
    assert seen.pid == born.pid and seen.ticks != start_ticks(born.pid)


def test_who_was_born_as_another_is_a_stranger(path: str) -> None:
    noted(path, instance(), 0)
    child = subprocess.Popen(["sleep", "1000"], env={"PATH": os.environ["PATH"], "OXMGR_APP": "another"})
    try:
        write_pid(path, child.pid)
        assert found(path).seen["app", 0].ticks != start_ticks(child.pid)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_another_boot_says_nothing(path: str, born: subprocess.Popen[bytes]) -> None:
    noted(path, instance(), born.pid)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data.replace(data[14:50], b"0" * 36, 1))
    assert found(path).seen == {}
    assert Path(path).read_bytes()[STARTS * SLOT :][:SLOT] == bytes(SLOT)


def test_torn_rotten_and_short_files_say_nothing_and_end_nothing(path: str, born: subprocess.Popen[bytes]) -> None:
    noted(path, instance(), born.pid)
    whole = Path(path).read_bytes()
    at = STARTS * SLOT
    for broken in (
        whole[: at + 40],
        whole[:at] + whole[at : at + 30] + b"\xff" * 8 + whole[at + 38 :],
        whole[:at] + (-5).to_bytes(4, "little", signed=True) + whole[at + 4 :],
        whole[:100],
        b"",
        os.urandom(SIZE),
        whole[:SLOT] + os.urandom(SIZE - SLOT),
    ):
        Path(path).write_bytes(broken)
        assert found(path).seen == {}
    assert born.poll() is None


def test_a_start_that_is_journaled_or_failed_leaves_its_place(path: str) -> None:
    own = Notes(path)
    own.begin()
    many = [instance(index=index) for index in range(STARTS + 1)]
    told = [own.start(one) for one in many]
    assert told[-1] == native.NOWHERE and native.NOWHERE not in told[:-1]
    assert own.start(many[0]) != native.NOWHERE, "another try of one that has a place"
    own.drop(many[0])
    assert own.start(many[-1]) != native.NOWHERE
    write_pid(path, 4_000_000)
    own.journaled(many[-1], Observed("app", STARTS, "starting"))
    assert [one.seen.status for one in Notes(path).starts] == ["starting"]
    own.journaled(many[-1], Observed("app", STARTS, "running", pid=4_000_000))
    assert Notes(path).starts == []


def test_a_name_and_a_reason_of_any_length_fit(path: str) -> None:
    one = instance("n" * 64)
    one.state = State(reason="x" * 5000)
    one.cgroup = "/" + "c" * 2000
    own = Notes(path)
    own.begin()
    own.start(one)
    write_pid(path, 4_000_000)
    assert [start.seen.app for start in Notes(path).starts] == ["n" * 64]


def test_notes_that_cannot_be_written_are_given_up_and_say_nothing_later(path: str) -> None:
    own = Notes(path)
    own.begin()
    one = instance()
    own.start(one)
    before, own._fd = own._fd, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.close(before)
    own.journaled(one, Observed("app", 0, "running", pid=1))
    own.drop(one)
    assert own.start(instance(index=1)) == native.NOWHERE and not os.path.exists(path)


def test_the_end_of_one_that_was_reaped_and_not_written_down_is_its_own(path: str) -> None:
    earlier = Notes(path)
    child = subprocess.Popen(["sh", "-c", "exit 42"])
    ticks = start_ticks(child.pid)
    wait_until(lambda: (child.pid, 42, None) in native.reap(), "its end")
    child.returncode = 42
    assert earlier.end(child.pid, ticks) is None, "it is our own, and known"
    later = Notes(path)
    assert later.end(child.pid, ticks) == 42 << 8
    assert later.end(child.pid, ticks + 100_000) is None, "one of the same number that began after it"
    assert later.end(child.pid + 1, ticks) is None


def test_a_start_that_has_ended_is_found_by_its_own_end(path: str) -> None:
    noted(path, instance(), 0)
    child = subprocess.Popen(["sh", "-c", "exit 42"])
    wait_until(lambda: (child.pid, 42, None) in native.reap(), "its end")
    child.returncode = 42
    write_pid(path, child.pid)
    later = Notes(path)
    past = Past()
    complete(past, later, NO_CGROUPS, Guard(-1))
    seen = past.seen["app", 0]
    assert seen.pid == child.pid and later.end(seen.pid, seen.ticks) == 42 << 8


def test_the_guards_word_comes_first(path: str) -> None:
    noted(path, instance(), 4_000_000)
    since = Notes(path).starts[0].since
    guard = Guard(-1)
    guard.exits = [(4_000_000, 3 << 8, since - 1), (4_000_000, 5 << 8, since + 2)]
    assert found(path, guard).seen["app", 0].ticks == since + 2


def test_who_has_not_begun_is_ended_and_is_no_start(path: str) -> None:
    """A copy of us that has not executed, as a child is between its birth and that."""
    noted(path, instance(), 0)
    pid = os.fork()
    if not pid:
        signal.pause()
    write_pid(path, pid)
    assert found(path).seen == {}
    assert Notes(path).starts == [], "nor for who comes next"
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_the_ring_goes_on_behind_the_last_end(path: str) -> None:
    for code in (1, 2, 3):
        own = Notes(path)
        child = subprocess.Popen(["sh", "-c", f"exit {code}"])
        wait_until(lambda child=child, code=code: (child.pid, code, None) in native.reap(), "its end")  # type: ignore[misc]
        child.returncode = code
        own.begin()
    words = memoryview(Path(path).read_bytes())[ENDS:].cast("i")
    assert [status for status in words[1:17:4] if status] == [1 << 8, 2 << 8, 3 << 8]
    assert len(Path(path).read_bytes()) == SIZE

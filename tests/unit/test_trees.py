"""Which processes are an instance's, and what is done when that cannot be looked at."""

import gc
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oxmgr.model.spec import Spec
from oxmgr.supervisor import cgroup, descendants
from oxmgr.supervisor.cgroup import Cgroups
from oxmgr.supervisor.helper import end_helper, start_beside
from oxmgr.supervisor.instance import App, Instance
from oxmgr.supervisor.loop import Loop
from oxmgr.supervisor.orphans import Orphans
from oxmgr.supervisor.process import Process
from oxmgr.supervisor.trees import Trees
from tests.conftest import DEADLINE, children, wait_until
from tests.unit.test_process import take_number


@contextmanager
def fds(number: int) -> Iterator[None]:
    """So many can still be opened, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir("/proc/self/fd")}
    free = [fd for fd in range(len(used) + number + 1) if fd not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[number] if number else 0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def running(*argv: str, **keys: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, start_new_session=True, stdin=subprocess.DEVNULL, **keys)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.kill()
        child.wait(DEADLINE)


class Fleet:
    """Trees on a rung, with one app."""

    def __init__(self, cgroups: Cgroups) -> None:
        self.faults: list[Exception] = []
        self.loop = Loop(self.faults.append)
        self.trees = Trees(cgroups, self.loop)
        self.app = App(Spec("app", "x", ["x"], "/"), b"")
        self.trees.apps["app"] = self.app
        self.told: list[Instance] = []
        self.trees.emptied = self.told.append

    def instance(self, index: int = 0, folder: str = "") -> Instance:
        one = self.app.instances[index] = Instance(self.app, index)
        one.cgroup = folder
        return one


@pytest.fixture
def walk() -> Fleet:
    return Fleet(Cgroups(why="none in this test"))


@pytest.fixture
def on_cgroups() -> Iterator[Fleet]:
    mount, _ = cgroup._own_cgroup()
    base = f"{mount}/oxmgr-trees-{os.getpid()}"
    os.mkdir(base)
    yield Fleet(Cgroups(base, base, mount))
    for path in Cgroups(base).folders():
        Cgroups(base).kill(path)
        wait_until(lambda path=path: cgroup.remove(path), f"{path} to be empty")  # type: ignore[misc]
    os.rmdir(base)


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


# --- whose is what ---


def orphan(tmp_path: Path, env: dict[str, str]) -> int:
    """The pid of a process that has lost its parent and its session, and so is a child of this test run."""
    told = tmp_path / "pid"
    told.unlink(missing_ok=True)
    script = f"setsid sh -c 'echo $$ > {told}; exec sleep 1000' &"
    subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"]} | env, check=True)
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "its pid")
    pid = int(told.read_text())
    wait_until(lambda: pid in children(), "it to come to us")
    return pid


MARKS = {"OXMGR_APP": "app", "OXMGR_INSTANCE_ID": "0"}


def test_an_orphan_is_its_instances_by_what_it_was_born_as(walk: Fleet, tmp_path: Path) -> None:
    mine, other = walk.instance(0), walk.instance(1)
    pid = orphan(tmp_path, MARKS)
    looked = walk.trees.orphans()
    assert mine in looked and other not in looked
    assert not walk.trees.is_empty(mine, looked) and walk.trees.is_empty(other, looked)
    assert walk.trees.pids(mine) == [pid]
    assert walk.trees.kill(mine)
    reap(pid)
    walk.trees.reaped(pid)
    assert walk.trees.is_empty(mine, walk.trees.orphans()) and not walk.trees.kill(mine)


def test_whose_an_orphan_is_is_looked_up_once_until_its_number_is_anothers() -> None:
    asked: list[int] = []

    def owner(pid: int) -> tuple[str, int, int]:
        asked.append(pid)
        return "app", 0, 0

    instance = Instance(App(Spec("app", "x", ["x"], "/"), b""), 0)
    before = dict.fromkeys(children(), instance)
    orphans = Orphans(before, owner)
    with running("sleep", "1000") as child:
        for _ in range(3):
            assert orphans.look() and orphans.of(instance) == [child.pid]
        assert asked == [child.pid]
    orphans.forget(child.pid)
    again = take_number(child.pid)
    try:
        assert orphans.look() and asked == [child.pid] * 2
    finally:
        again.kill()
        again.wait(DEADLINE)
    assert orphans.look() and orphans.of(instance) == []


def test_a_main_process_is_no_orphan_although_it_was_taken_for_one() -> None:
    instance = Instance(App(Spec("app", "x", ["x"], "/"), b""), 0)
    mains = dict.fromkeys(children(), instance)
    orphans = Orphans(mains, lambda pid: ("app", 0, 0))
    with running("sleep", "1000") as child:
        assert orphans.look() and orphans.of(instance) == [child.pid]
        mains[child.pid] = instance
        orphans.forget(child.pid)
        for _ in range(2):
            assert orphans.look() and orphans.of(instance) == []


def test_whoever_is_nobodys_is_asked_about_again() -> None:
    instance = Instance(App(Spec("app", "x", ["x"], "/"), b""), 0)
    owners: list[tuple[str, int, int] | None] = [None, None, ("app", 0, 0)]
    orphans = Orphans(dict.fromkeys(children(), instance), lambda pid: owners.pop(0))
    with running("sleep", "1000") as child:
        assert orphans.look() and orphans.look() and orphans.of(instance) == []
        assert orphans.look() and orphans.look() and orphans.of(instance) == [child.pid]
    assert orphans.look() and orphans.of(instance) == []


def test_on_cgroups_orphans_are_looked_at_only_when_the_cgroup_is_empty(on_cgroups: Fleet, tmp_path: Path) -> None:
    path, _ = on_cgroups.trees.cgroups.make("app:0")
    instance = on_cgroups.instance(0, path)
    pid = orphan(tmp_path, MARKS)
    looked = on_cgroups.trees.orphans()
    Path(f"{path}/cgroup.procs").write_text(str(pid))
    assert not on_cgroups.trees.is_empty(instance, looked)
    assert looked._done is None
    Path(f"{on_cgroups.trees.cgroups.mount}/cgroup.procs").write_text(str(pid))
    # It has left its cgroup, but not its instance.
    assert not on_cgroups.trees.is_empty(instance, looked)
    assert on_cgroups.trees.kill(instance)
    reap(pid)


def test_an_instance_that_ends_does_not_take_the_session_of_another_that_has_its_number(walk: Fleet) -> None:
    first, second = walk.instance(0), walk.instance(1)
    walk.trees.take(first, Process(4_000_000, -1))
    walk.trees.let_go(first)
    walk.trees.take(second, Process(4_000_000, -1))
    walk.trees.forget(first)
    assert walk.trees._sessions == {4_000_000: second}
    walk.trees.forget(second)
    assert walk.trees._sessions == {}


# --- what cannot be looked at ---


def test_without_fds_nothing_is_said_to_be_empty_and_a_kill_is_tried_again(
    walk: Fleet, on_cgroups: Fleet, tmp_path: Path
) -> None:
    path, _ = on_cgroups.trees.cgroups.make("app:0")
    for fleet, folder in ((walk, ""), (on_cgroups, path)):
        instance = fleet.instance(0, folder)
        pid = orphan(tmp_path, MARKS)
        if folder:
            Path(f"{path}/cgroup.procs").write_text(str(pid))
        with fds(0):
            assert not fleet.trees.is_empty(instance, fleet.trees.orphans())
            try:
                assert fleet.trees.kill(instance)
            except OSError:
                assert folder, "cgroup.kill cannot be written"
        assert fleet.trees.kill(instance)
        reap(pid)
        fleet.trees.reaped(pid)
        wait_until(lambda fleet=fleet, instance=instance: not fleet.trees.kill(instance), "nothing to be left")  # type: ignore[misc]


def test_the_session_of_an_earlier_daemon_is_not_said_to_be_empty_without_fds(walk: Fleet) -> None:
    instance = walk.instance()
    instance.foreign = True
    with running("sleep", "1000", env=os.environ | MARKS) as child:
        instance.session = child.pid
        walk.trees.mains.update(dict.fromkeys(children(), walk.instance(1)))
        del walk.trees.mains[child.pid]
        assert not walk.trees.is_empty(instance, {})
        with fds(0):
            assert not walk.trees.is_empty(instance, {})
    assert walk.trees.is_empty(instance, {})


def test_a_watch_without_fds_looks_again_by_itself(on_cgroups: Fleet) -> None:
    path, _ = on_cgroups.trees.cgroups.make("app:0")
    instance = on_cgroups.instance(0, path)
    with fds(0):
        on_cgroups.trees.watch(instance)
    on_cgroups.loop.at(time.monotonic() + 0.3, on_cgroups.loop.stop)
    on_cgroups.loop.run()
    assert on_cgroups.told == [instance] and on_cgroups.faults == []


def test_a_large_tree_is_killed_with_a_handful_of_fds() -> None:
    # What earlier tests left to the collector is not this one's to count.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with running("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait") as child:
        wait_until(lambda: len(descendants.children(child.pid)) == 9, "its children")
        handles = {pid: os.pidfd_open(pid) for pid in descendants.below([child.pid])}

        def left() -> list[int]:
            return [pid for pid, handle in handles.items() if not select.select([handle], [], [], 0)[0]]

        def killed() -> bool:
            with fds(5):
                descendants.kill_trees(left())
            return not left()

        wait_until(killed, "the tree to end")
        for pid, handle in handles.items():
            os.close(handle)
            # Its parent may have reaped it, before that was killed itself.
            if pid in children() and pid != child.pid:
                reap(pid)
    assert len(os.listdir("/proc/self/fd")) == before


# --- the end of a tree ---


def test_what_was_empty_before_it_was_watched_is_told_at_once(on_cgroups: Fleet) -> None:
    path, _ = on_cgroups.trees.cgroups.make("app:0")
    instance = on_cgroups.instance(0, path)
    on_cgroups.trees.watch(instance)
    begun = time.monotonic()

    def emptied(one: Instance) -> None:
        on_cgroups.told.append(one)
        on_cgroups.loop.stop()

    on_cgroups.trees.emptied = emptied
    on_cgroups.loop.at(begun + DEADLINE, on_cgroups.loop.stop)
    on_cgroups.loop.run()
    assert on_cgroups.told == [instance] and time.monotonic() - begun < 0.5


def test_one_that_is_not_watched_any_more_when_its_turn_comes_is_not_told(walk: Fleet) -> None:
    first, second = walk.instance(0), walk.instance(1)
    for one in (first, second):
        walk.trees.watch(one)

    def emptied(one: Instance) -> None:
        walk.told.append(one)
        walk.trees.unwatch(second)

    walk.trees.emptied = emptied
    walk.trees.check(walk.trees.orphans())
    assert walk.told == [first]


def test_a_fault_at_one_end_does_not_keep_the_others_from_being_told(walk: Fleet) -> None:
    some = [walk.instance(index) for index in range(3)]
    for one in some:
        walk.trees.watch(one)

    def emptied(one: Instance) -> None:
        walk.told.append(one)
        raise ZeroDivisionError

    walk.trees.emptied = emptied
    walk.trees.check(walk.trees.orphans())
    assert walk.told == some and len(walk.faults) == 3


# --- strangers ---


def finds(*answers: list[int]) -> Callable[[], list[int]]:
    rest = list(answers)
    return lambda: rest.pop(0) if len(rest) > 1 else rest[0]


def test_what_is_not_of_the_tree_once_it_is_held_is_not_signalled() -> None:
    with running("sleep", "1000") as stranger, running("sleep", "1000") as member:
        descendants.signal_each(finds([stranger.pid, member.pid], [member.pid]), signal.SIGKILL)
        assert member.wait(DEADLINE) == -signal.SIGKILL
        assert stranger.poll() is None
        descendants.kill_trees([stranger.pid], lambda pid: False)
        assert stranger.poll() is None


def test_a_child_of_a_stranger_that_has_a_parents_number_is_no_child() -> None:
    with running("sleep", "1000") as parent:
        handle = os.pidfd_open(parent.pid)
        assert descendants._is_child(parent.pid, os.getpid(), -1)
    stranger = take_number(parent.pid)
    try:
        # It is a child of this process by its number, but what is held as the parent has gone.
        assert not descendants._is_child(stranger.pid, os.getpid(), handle)
    finally:
        stranger.kill()
        stranger.wait(DEADLINE)
        os.close(handle)


def test_who_executes_just_now_is_asked_again_and_hides_nobody_else() -> None:
    first, second = (subprocess.Popen(["sleep", "1000"]) for _ in range(2))
    asked: list[int] = []

    def owner(pid: int) -> tuple[str, int, int]:
        asked.append(pid)
        if pid == first.pid and asked.count(pid) == 1:
            raise BlockingIOError
        return "app", pid, 0

    try:
        orphans = Orphans({}, owner)
        assert not orphans.look() and second.pid in orphans._known
        assert orphans.look() and first.pid in orphans._known
        assert asked.count(second.pid) == 1
    finally:
        for one in (first, second):
            one.kill()
            one.wait()


def test_what_runs_beside_the_apps_is_no_apps_orphan(walk: Fleet) -> None:
    app = walk.instance()
    null = os.open("/dev/null", os.O_RDWR)
    argv, environ = b"\0".join((b"/bin/sleep", b"1000", b"")), b"OXMGR_APP=app\0OXMGR_INSTANCE_ID=0\0"
    pid, pidfd = start_beside(argv, environ, [null] * 3)
    try:
        assert app not in walk.trees.orphans(), "nor while it executes"
        wait_until(lambda: not descendants._is_executing(pid), "that it runs")
        assert descendants.born_as(pid) == app.owner and app not in walk.trees.orphans()
        walk.trees.reaped(pid)
        assert app in walk.trees.orphans(), "whoever has its number later is looked at"
    finally:
        end_helper(pidfd)
        os.close(null)
        os.waitpid(pid, 0)


def test_a_chore_that_was_taken_for_an_orphan_is_none_once_it_is_known(walk: Fleet) -> None:
    app = walk.instance()
    with running("sleep", "1000", env={"OXMGR_APP": "app", "OXMGR_INSTANCE_ID": "0"}) as chore:
        wait_until(lambda: app in walk.trees.orphans(), "it to be looked at too early")
        walk.trees.set_apart(chore.pid)
        assert app not in walk.trees.orphans()
    walk.trees.reaped(chore.pid)

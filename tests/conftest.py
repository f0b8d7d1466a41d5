"""What every test gets: a home of its own, and nothing of it left behind.

The test run is a subreaper, so whatever a daemon or an app leaves becomes its child, and is found, ended by its
handle, and counted as a failure of the test that made it.
"""

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# `make native-test` builds the package a second time, under the sanitizers.
if "BUILT_PACKAGE" in os.environ:
    sys.path.insert(0, os.environ["BUILT_PACKAGE"])

import _prctl
import pytest

from oxmgr.client.connection import Connection, NoDaemon, connect
from oxmgr.client.launch import daemon_argv, guard_argv
from oxmgr.model.messages import (
    Apply,
    Change,
    DaemonView,
    Done,
    GetDaemon,
    GetInstances,
    Instances,
    InstanceView,
    StopDaemon,
)
from oxmgr.model.places import Places, find_places
from oxmgr.model.spec import Spec
from oxmgr.supervisor import cgroup

REPOSITORY = Path(__file__).resolve().parent.parent
# An emulated CPU takes its time, and the more so where the machine has other work.
DEADLINE = 30.0 if "KERNEL_VM" in os.environ else 10.0
STARVED = 6

for name in [name for name in os.environ if name.startswith("OXMGR_")]:
    del os.environ[name]


def pytest_sessionstart() -> None:
    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)


def starved() -> float:
    """Seconds since the boot in which somebody on this machine had to wait for a CPU (Documentation/accounting/psi.rst);
    0 where that is not known."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().split("\n")[0].rpartition("=")[2]) / 1e6
    except OSError:
        return 0


def wait_until(what: Callable[[], object], why: str, seconds: float = DEADLINE) -> None:
    """For what tells nobody when it comes. Fails with `why` at the deadline, which is up to STARVED times as far when
    the machine has no CPU for everybody: what is only slow is not broken."""
    began, starved_before = time.monotonic(), starved()
    while not what():
        took = time.monotonic() - began
        if took > seconds and took > seconds + min(starved() - starved_before, (STARVED - 1) * seconds):
            raise AssertionError(f"not within {took:.1f} s: {why}")
        # Looked at again when 2 ms have passed; the deadline, not this, decides.
        select.select([], [], [], 0.002)


def children() -> list[int]:
    """Of this test run, all threads."""
    while True:
        try:
            return [
                int(pid)
                for thread in os.listdir("/proc/self/task")
                for pid in Path(f"/proc/self/task/{thread}/children").read_text().split()
            ]
        except FileNotFoundError:
            continue  # a thread has ended meanwhile, and its children went to another


def tree(pid: int) -> list[int]:
    """A process and all below it, as far as they are there."""
    found = [pid]
    for one in found:
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def end_tree(pid: int) -> None:
    """Kill a child of ours and all below it, each by its pidfd, and reap what is ours."""
    for one in tree(pid):
        try:
            handle = os.pidfd_open(one)
        except ProcessLookupError:
            continue
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], DEADLINE)
        os.close(handle)


def reap_all(known: set[int]) -> None:
    for pid in children():
        if pid not in known:
            # What has no memory any more is about to have ended: its cgroup is empty before (kernel/exit.c, do_exit).
            ending = not Path(f"/proc/{pid}/cmdline").read_bytes()
            os.waitpid(pid, 0 if ending else os.WNOHANG)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process that a test started, or that those started, outlives it."""
    before = set(children())
    yield
    reap_all(before)
    left = [pid for pid in children() if pid not in before]
    told = []
    while left:
        for pid in left:
            try:
                # Without a word it has no memory any more: it was killed, and is on its way to be reaped.
                if words := Path(f"/proc/{pid}/cmdline").read_bytes():
                    told.append(f"{pid} {words[:200]!r}")
            except OSError:
                pass
            end_tree(pid)
            os.waitpid(pid, 0)
        left = [pid for pid in children() if pid not in before]
    assert not told, f"left behind: {told}"


class Heir:
    """A process that has come to us as the subreaper, with as much of Popen as a Home uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.code = os.waitstatus_to_exitcode(found[1])
        return self.code

    def wait(self, timeout: float = DEADLINE) -> int:
        wait_until(lambda: self.poll() is not None, f"{self.pid} to end", timeout)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Home:
    """A home with a daemon, seen through the control protocol. `daemon` is the guard where it is `guarded`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: Places = find_places({"OXMGR_HOME": str(folder)}, os.getuid())
        self.env = {"PATH": os.environ["PATH"], "OXMGR_HOME": str(folder), "HOME": str(folder)}
        self.daemon: subprocess.Popen[bytes] | Heir | None = None
        self.guarded = False
        self.wrap: list[str] = []
        self.connections: list[Connection] = []

    def start_daemon(self, *, nofile: int | None = None, hold: bool = False) -> int:
        """The pid of a daemon that answers; `wrap` is what it is started by."""
        reading, told = os.pipe()
        words = guard_argv(told, hold=int(hold)) if self.guarded else daemon_argv(told=told, hold=int(hold))
        argv = [*self.wrap, *words]
        if nofile is not None:
            argv = ["sh", "-c", f'ulimit -n {nofile}; exec "$@"', "sh", *argv]
        self.daemon = subprocess.Popen(argv, env=self.env, pass_fds=[told], stdin=subprocess.DEVNULL)
        os.close(told)
        with open(reading, "rb") as file:
            why = file.readline()
        assert why == b"\n", why
        return self.daemon.pid

    def connect(self) -> Connection:
        connection = connect(self.places)
        self.connections.append(connection)
        return connection

    def request(self, request: object) -> Done:
        """The reply to a changing request, on a connection of its own."""
        connection = connect(self.places)
        try:
            reply = connection.request(request)  # type: ignore[arg-type]
        finally:
            connection.close()
        assert isinstance(reply, Done)
        return reply

    def apply(self, *specs: Spec, prune: bool = False) -> Done:
        environ = "".join(f"{key}={value}\0" for key, value in self.env.items()).encode()
        return self.request(Apply(list(specs), environ, prune))

    def views(self) -> dict[str, InstanceView]:
        connection = connect(self.places)
        try:
            reply = connection.request(GetInstances())
        finally:
            connection.close()
        assert isinstance(reply, Instances)
        return {view.name: view for view in reply.instances}

    def pid(self, name: str) -> int:
        pid = self.views()[name].pid
        assert pid is not None, self.views()[name]
        return pid

    def until(self, name: str, what: Callable[[InstanceView], object], why: str = "") -> InstanceView:
        """The view of an instance as soon as that is true of it."""
        last: list[InstanceView] = []

        def look() -> object:
            last[:] = [self.views()[name]]
            return what(last[0])

        try:
            wait_until(look, why)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None
        return last[0]

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        for connection in self.connections:
            connection.close()
        self.connections.clear()
        self.daemon.kill()
        self.daemon.wait()

    def about_daemon(self) -> DaemonView:
        connection = connect(self.places)
        try:
            reply = connection.request(GetDaemon())
        finally:
            connection.close()
        assert isinstance(reply, DaemonView)
        return reply

    def kill_guarded(self) -> int:
        """Kill the daemon that the guard has started; the pid of the next one, which answers."""
        before = self.about_daemon().pid
        os.kill(before, signal.SIGKILL)
        return self.another_than(before).pid

    def another_than(self, pid: int) -> DaemonView:
        """The daemon that answers once that one is gone."""
        while True:
            try:
                view = self.about_daemon()
            except NoDaemon:
                continue  # it was killed while it answered
            if view.pid != pid:
                return view

    def stop_daemon(self) -> int:
        """Its exit code."""
        assert self.daemon is not None
        self.request(StopDaemon())
        return self.daemon.wait(DEADLINE)

    def end(self) -> None:
        for connection in self.connections:
            connection.close()
        if self.daemon is not None and self.daemon.poll() is None:
            try:
                self.apply(prune=True)
                self.request(StopDaemon())
                self.daemon.wait(DEADLINE)
            except (NoDaemon, AssertionError, subprocess.TimeoutExpired):
                end_tree(self.daemon.pid)
                self.daemon.wait()
                raise

    def end_cgroups(self) -> list[str]:
        """Remove those of a daemon that was killed; the names of those that one has left which ended in order."""
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split()[4] for line in file if " - cgroup2 " in line]
        folders = [self.places.state, self.places.run]
        names = [cgroup.base_name(folder) for folder in folders if os.path.isdir(folder)]
        bases = [f"{mount}/{name}" for mount in mounts for name in names]
        left = [base for base in bases if os.path.isdir(base)]
        for base in left:
            for path in cgroup.Cgroups(base).folders():
                cgroup.Cgroups(base).kill(path)
                wait_until(lambda path=path: cgroup.remove(path), f"{path} to be empty")  # type: ignore[misc]
            os.rmdir(base)
        ended_in_order = self.daemon is not None and self.daemon.poll() == 0
        return left if ended_in_order else []

    def sh(self, name: str, script: str, **keys: object) -> Spec:
        """An app that is a shell script."""
        spec = {"working_dir": str(self.folder), **keys}
        return Spec(name, script, ["/bin/sh", "-c", script], **spec)  # type: ignore[arg-type]

    def python(self, name: str, script: str, **keys: object) -> Spec:
        spec = {"working_dir": str(self.folder), **keys}
        return Spec(name, "python", [sys.executable, "-I", "-S", "-u", "-c", script], **spec)  # type: ignore[arg-type]

    def log(self, name: str, stream: str = "out") -> str:
        path = Path(f"{self.places.logs}/{name}.{stream}.log")
        return path.read_text() if path.exists() else ""


@pytest.fixture
def empty_home(nothing_left: None) -> Iterator[Home]:
    """No daemon yet. The folder is short, for sockets have short names."""
    folder = Path(tempfile.mkdtemp(prefix="ox-"))
    home = Home(folder)
    try:
        yield home
    finally:
        try:
            home.end()
        finally:
            left = home.end_cgroups()
            shutil.rmtree(folder)
    assert not left, f"a daemon that ended left its cgroups: {left}"


WITHOUT_CGROUPS = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount | sed -n "s/^.* on \\(.*\\) type cgroup2 .*/\\1/p" | xargs -r umount -l && exec "$@"',
    "sh",
]
"""What starts a daemon on a host that has no cgroup v2 mounted."""


@pytest.fixture(params=["cgroup", "walk"])
def each_home(request: pytest.FixtureRequest, empty_home: "Home") -> "Home":
    """A daemon on the first rung of keeping trees, and on the last."""
    if request.param == "walk":
        empty_home.wrap = WITHOUT_CGROUPS
    empty_home.start_daemon()
    return empty_home


@pytest.fixture
def home(empty_home: Home) -> Home:
    empty_home.start_daemon()
    return empty_home


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, and back: to be looked into by debuggers too, which a change of user takes away."""
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        _prctl.prctl(_prctl.PR_SET_DUMPABLE, 1)


@contextmanager
def no_more_files(home: Home) -> Iterator[None]:
    """The daemon has no file descriptor left."""
    assert home.daemon is not None
    pid = home.daemon.pid
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    free = next(number for number in range(before[0]) if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def actions(done: Done) -> dict[str, str]:
    return {change.app: change.action for change in done.changes}


__all__ = ["Change", "Home", "actions", "as_nobody", "children", "no_more_files", "tree", "wait_until"]

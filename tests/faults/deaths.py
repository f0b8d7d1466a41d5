"""`make death-campaign`: the daemon, its guard, and both at once are killed at random and at every system call that they make,
and every system call that can fail is made to fail, while two dozen witnesses (zoo.py) run.

    python -m tests.faults.deaths [SECONDS [SEED]]
    python -m tests.faults.deaths --every all ...

The second way is tests/faults/every.py: each system call of a path in turn, with few witnesses.

strace does it: its injection (strace(1), "Tampering") kills or fails a system call by its name and number. The next
daemon of a guard is started under it by putting a script in the place of the interpreter.
"""

import collections
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from oxmgr.client.connection import NoDaemon, Refused, connect
from oxmgr.client.launch import guard_argv
from oxmgr.model.messages import Act, Apply, Request
from tests.conftest import Heir, Home, children, end_tree, wait_until
from tests.faults import zoo

ERRORS = ("ENOSPC", "EIO", "EMFILE", "ENOMEM", "EAGAIN")
FAILING = (
    "write,pwrite64,fsync,rename,openat,clone,clone3,fork,vfork,epoll_create1,epoll_ctl,epoll_wait,socket,socketpair,"
    "bind,listen,accept4,connect,sendto,sendmsg,recvfrom,recvmsg,splice,tee,pipe2,mkdir,unlink,link,ftruncate,"
    "memfd_create,eventfd2,signalfd4,pidfd_open,read,fstat,newfstatat,fcntl,dup,close_range,getdents64,flock"
).split(",")
"""The system calls of which each is made to fail in turn. waitid(2) of any child has no error but that there is none."""
PATIENCE = 30.0
FOLLOWED = ("-f", "-b", "execve")
"""All threads and what is forked, until that executes another program: no witness is hit."""


class Campaign:
    def __init__(self, home: Home, seed: int = 1) -> None:
        self.home = home
        self.dice = random.Random(seed)
        self.kinds = zoo.zoo(home)
        self.counts: collections.Counter[str] = collections.Counter()
        self.trace = home.folder / "trace"
        self.pids: dict[str, int] = {}
        self.settled: list[str] = []
        self.most_fds = (0, 0)
        self.unread: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
        """The runs of each instance that were under way while neither daemon nor guard was there."""
        self.tracers: set[int] = set()
        self.over = threading.Event()
        self._interpreter = sys.executable
        self._place = home.folder / "bin" / "python"
        self._place.parent.mkdir()
        self._clean_place()

    # --- a daemon under strace ---

    def _clean_place(self) -> None:
        os.symlink(self._interpreter, f"{self._place}.next")
        os.rename(f"{self._place}.next", self._place)

    def plan(self, *options: str) -> None:
        """The next daemon that is started is traced with these options of strace, the one after it is not."""
        words = " ".join(["strace", "-D", "-o", str(self.trace), *options])
        script = f"""#!/bin/sh
ln -s {self._interpreter} {self._place}.next.$$ && mv -f {self._place}.next.$$ {self._place}
exec {words} -- {self._place} "$@"
"""
        with open(f"{self._place}.next", "w") as file:
            os.fchmod(file.fileno(), 0o755)
            file.write(script)
        os.rename(f"{self._place}.next", self._place)

    def start(self) -> None:
        reading, told = os.pipe()
        argv = guard_argv(told)
        argv[argv.index(self._interpreter)] = str(self._place)
        self.home.daemon = subprocess.Popen(
            [*self.home.wrap, *argv], env=self.home.env, pass_fds=[told], stdin=subprocess.DEVNULL
        )
        os.close(told)
        with open(reading, "rb") as file:
            why = file.read()
        # One that dies as it has said so is followed by another that says so.
        assert why and not why.strip(), why

    @property
    def guard(self) -> int:
        assert self.home.daemon is not None
        return self.home.daemon.pid

    def daemon(self) -> int:
        """The pid of the one that answers."""
        found: list[int] = []

        def answers() -> bool:
            try:
                found[:] = [self.home.about_daemon().pid]
            except NoDaemon:
                return False
            return True

        wait_until(answers, "a daemon that answers", PATIENCE)
        return found[0]

    # --- what is done while faults come ---

    def ask(self, request: Request) -> str:
        """Why it was refused, or "". A daemon that dies before it answers has been asked in vain."""
        said: list[str] = []

        def thread() -> None:
            try:
                connection = connect(self.home.places)
                try:
                    connection.request(request)
                finally:
                    connection.close()
            except (NoDaemon, Refused) as error:
                said.append(str(error))
            else:
                said.append("")

        one = threading.Thread(target=thread, daemon=True)
        one.start()
        one.join(PATIENCE)
        assert not one.is_alive(), f"{request} is not answered, and the daemon lives"
        return said[0]

    def work(self) -> None:
        """What goes through the paths of a start, a stop, a save and a change."""
        self.ask(Act("stop", ["stopped-and-started", "hooked"]))
        self.ask(Act("start", ["stopped-and-started", "hooked"]))
        self.ask(Act("restart", ["restarted", "notifies"]))
        self.ask(Act("reload", ["reloaded"]))
        environ = f"LEDGER={self.home.folder}/ledger\0PATH={self.home.env['PATH']}\0ROUND={self.counts['rounds']}\0"
        self.ask(Apply([self.kinds["job-0"].spec], environ.encode()))

    # --- what must be true after each ---

    def settle(self) -> None:
        """A daemon without faults, and everybody as users want them."""
        self.daemon()
        for _ in range(20):
            if not self.ask(Act("start", list(zoo.HANDLED))):
                break
        for name in zoo.HANDLED:
            self.home.until(name, lambda view: view.status == "running", "to run again")
        # Who dies sooner is started again later and later (csrc/guard.c, LIVED_WELL).
        at = self.home.about_daemon().started_at + 1.05
        wait_until(lambda: time.time() > at, "the daemon to have lived well")

    def check(self) -> None:
        self.counts["rounds"] += 1
        views = self.home.views()
        for name, pid in self.pids.items():
            assert views[name].pid == pid, f"{name} was {pid}: {views[name]}"
        for kind in self.kinds.values():
            for index in range(kind.spec.instances):
                zoo.check_runs(self.home, kind, index)
            if kind.replaced:
                name = kind.spec.name
                wait_until(
                    lambda name=name: zoo.alive(self.home, name) == [self.home.views()[name].pid],  # type: ignore[misc]
                    f"one {name}",
                    PATIENCE,
                )
            if kind.code is not None and kind.spec.name in self.settled:
                view = views[kind.spec.name]
                assert (view.status, view.exit_code, view.signal) == ("exited", kind.code, None), view
        zoo.check_hooks(self.home)
        daemon = self.daemon()
        wait_until(lambda: not zombies(daemon) and not zombies(self.guard), "no zombie", PATIENCE)
        most = self.most_fds
        wait_until(
            lambda: fds(daemon) <= most[0] and fds(self.guard) <= most[1],
            f"{fds(daemon)} and {fds(self.guard)} fds, where {most} are enough",
            PATIENCE,
        )

    def begin(self) -> None:
        self.start()
        environ = f"PATH={self.home.env['PATH']}\0"
        self.home.request(Apply([kind.spec for kind in self.kinds.values()], environ.encode()))
        self.settled = [name for name, kind in self.kinds.items() if kind.code is not None]
        for name in self.settled:
            self.home.until(name, lambda view: view.status == "exited", "its end")
        steady = [kind for kind in self.kinds.values() if not kind.restarts and kind.code is None]
        for kind in steady:
            for index in range(kind.spec.instances):
                name = kind.spec.name if kind.spec.instances == 1 else f"{kind.spec.name}:{index}"
                if kind.spec.name not in zoo.HANDLED:
                    self.pids[name] = self.home.pid(name)
        # Three fds an instance at most, beside the daemon's own; of the guard the pipes.
        before = self.daemon()
        os.kill(before, signal.SIGKILL)
        self.home.another_than(before)
        self.most_fds = fds(self.daemon()) + 24, fds(self.guard) + 4

    def end(self) -> None:
        """Stop everybody, and count what they have said."""
        home = self.home
        refused = self.ask(Act("stop", ["all"]))
        assert not refused, refused
        for kind in self.kinds.values():
            for index in range(kind.spec.instances):
                self.counts["starts"] += zoo.check_runs(home, kind, index)
                if kind.replaced:
                    continue
                lines = zoo.check_lines(home, kind, index, self.unread[kind.spec.name, index])
                self.counts["lines"] += lines.number
                self.counts["starts cut short by the daemon's death"] += zoo.cut_short(home, kind, index)
                if kind.told:
                    self.counts["dropped and said so"] += lines.dropped
        self.ask(Act("delete", ["all"]))
        assert home.views() == {}
        wait_until(lambda: not zoo.clean_up_names(home.folder), f"no such file: {zoo.clean_up_names(home.folder)}")
        known = {self.guard, self.daemon()}
        below = [pid for pid in descendants(self.guard) if pid not in known]
        assert not below, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below]
        home.stop_daemon()

    # --- the faults ---

    def kill_daemon(self) -> None:
        os.kill(self.daemon(), signal.SIGKILL)
        self.counts["daemon killed"] += 1

    def kill_guard(self) -> None:
        """The daemon becomes the guard, and starts another."""
        assert self.home.daemon is not None
        daemon = self.daemon()
        self.home.daemon.kill()
        self.home.daemon.wait()
        self.counts["guard killed"] += 1
        self._start_or_adopt(daemon)

    def kill_both(self) -> None:
        assert self.home.daemon is not None
        os.kill(self.daemon(), signal.SIGKILL)
        self.home.daemon.kill()
        self.home.daemon.wait()
        self.counts["both killed"] += 1
        self._note_unread()
        self._start_or_adopt()

    def _note_unread(self) -> None:
        """What ends while daemon and guard are both dead has nobody who holds its pipes; also what has been started and
        has not written so yet."""
        for kind in self.kinds.values():
            for index in range(kind.spec.instances):
                count = len(zoo.runs(self.home, kind.spec.name, index))
                self.unread[kind.spec.name, index] |= {count, count + 1}

    def traced(self, *options: str) -> list[str]:
        """Have the next daemon traced while it starts and works; the trace."""
        if self.trace.exists():
            # For whoever looks for the cause of what is found rounds later.
            self.trace.rename(f"{self.trace}-{self.counts['rounds']}")
        before = self.daemon()
        self.plan(*FOLLOWED, *options)
        os.kill(before, signal.SIGKILL)
        self.home.another_than(before)
        self.work()
        # The traced one may have been killed by now, or be alive: the one after it is not traced.
        now = self.daemon()
        if Path(f"/proc/{now}/status").read_text().split("TracerPid:")[1].split()[0] != "0":
            os.kill(now, signal.SIGKILL)
            self.home.another_than(now)
        if not self._place.is_symlink():
            self._clean_place()
        if self.home.daemon is not None and self.home.daemon.poll() is not None:
            # A daemon that could not hear its guard any more has ended it, and become one.
            self._start_or_adopt()
        return self.trace.read_text(errors="replace").splitlines() if self.trace.exists() else []

    def calls(self) -> dict[str, int]:
        """The system calls of a daemon's start and work, and how often a thread of it makes each."""
        found: collections.Counter[tuple[str, str]] = collections.Counter()
        for line in self.traced("-e", "trace=all", "-e", "signal=none"):
            made = re.match(r"(\d+) +(?:<... )?(\w+)(\(| resumed)", line)
            if made and made[3] == "(":
                found[made[1], made[2]] += 1
        most: dict[str, int] = {}
        for (_, name), count in found.items():
            most[name] = max(count, most.get(name, 0))
        return most

    def die_at(self, name: str, number: int) -> None:
        lines = self.traced("-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={number}")
        self.counts["daemon killed at a system call"] += any("killed by SIGKILL" in line for line in lines[-5:])

    def fail_at(self, name: str, number: int, error: str) -> None:
        lines = self.traced("-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={number}")
        self.counts["system calls of the daemon failed"] += sum("INJECTED" in line for line in lines)

    def tamper_with_guard(self, name: str, number: int, what: str) -> None:
        """Trace the guard while a daemon dies, the next one comes, and that works."""
        guard, daemon = self.guard, self.daemon()
        self.trace.unlink(missing_ok=True)
        tracer = attach(guard, self.trace, "-e", f"trace={name}", "-e", f"inject={name}:{what}:when={number}")
        self.tracers.add(tracer.pid)
        try:
            os.kill(daemon, signal.SIGKILL)
            if what.startswith("signal"):
                self._note_unread()
            if self._outlive(daemon):
                self.work()
        finally:
            detach(tracer)
            self.tracers.discard(tracer.pid)
        self.counts["system calls of the guard failed"] += "INJECTED" in self.trace.read_text(errors="replace")
        assert self.home.daemon is not None
        if self.home.daemon.poll() is not None:
            self.counts["guard killed at a system call"] += 1
            self._start_or_adopt()

    def _outlive(self, daemon: int) -> bool:
        """Whether another daemon answers, or else the guard has ended."""
        end = time.monotonic() + PATIENCE
        while self.home.daemon is not None and self.home.daemon.poll() is None:
            try:
                if self.home.about_daemon().pid != daemon:
                    return True
            except NoDaemon:
                select.select([], [], [], 0.005)
            assert time.monotonic() < end, "neither guard nor daemon"
        return False

    def _start_or_adopt(self, guard: int = 0) -> None:
        """As a command does that finds no daemon: one that has lost its guard is one that becomes it."""
        while not guard:
            try:
                self.start()
                return
            except AssertionError as error:
                assert "another one runs" in str(error), error
            assert self.home.daemon is not None
            self.home.daemon.wait()
            try:
                guard = self.home.about_daemon().guard or 0
            except NoDaemon:
                select.select([], [], [], 0.005)
        self.home.daemon = Heir(guard)
        wait_until(lambda: self._has_guard(guard), "it to have become the guard", PATIENCE)

    def _has_guard(self, guard: int) -> bool:
        try:
            return self.home.about_daemon().guard == guard
        except NoDaemon:
            return False

    def be_init(self) -> None:
        """Reap what comes to us, as process 1 does."""
        while not self.over.wait(0.02):
            mine = {*self.tracers, self.guard}
            for pid in set(children()) - mine:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue


def attach(pid: int, trace: Path, *options: str) -> subprocess.Popen[bytes]:
    """strace, once it has that process."""
    argv = ["strace", "-p", str(pid), "-o", str(trace), *options]
    tracer = subprocess.Popen(argv, stderr=subprocess.PIPE)
    assert tracer.stderr is not None and b"attached" in tracer.stderr.readline()
    return tracer


def detach(tracer: subprocess.Popen[bytes]) -> None:
    tracer.terminate()
    tracer.wait()
    assert tracer.stderr is not None
    tracer.stderr.close()


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found[1:]


def zombies(pid: int) -> list[int]:
    found = []
    for one in descendants(pid):
        try:
            if Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(one)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


Step = Callable[[Campaign], None]


def steps(campaign: Campaign, calls: dict[str, int], limit: int) -> list[Step]:
    """Every system call of the daemon, each made to be its last; each that may fail, failing in each way."""
    made: list[Step] = []
    for name, count in calls.items():
        if name in ("exit_group", "exit", "restart_syscall", "execve"):
            continue
        numbers = range(1, count + 1) if count <= limit else sorted(campaign.dice.sample(range(1, count + 1), limit))
        made += [lambda one, name=name, number=number: one.die_at(name, number) for number in numbers]  # type: ignore[misc]
        if name in FAILING:
            made += [
                lambda one, name=name, number=number, error=error: one.fail_at(name, number, error)  # type: ignore[misc]
                for number in numbers
                for error in ERRORS
            ]
    return made


GUARD_CALLS = (
    "ppoll,waitid,read,recvmsg,sendmsg,socketpair,clone,close,openat,clock_gettime,fcntl,getpid,pread64,memfd_create"
).split(",")


def guard_steps() -> list[Step]:
    made: list[Step] = []
    for name in GUARD_CALLS:
        for what in ("signal=SIGKILL", *(f"error={error}" for error in ERRORS)):
            if what.startswith("error") and name in ("close", "getpid", "clock_gettime"):
                continue
            made += [
                lambda one, name=name, number=number, what=what: one.tamper_with_guard(name, number, what)  # type: ignore[misc]
                for number in (1, 2, 3, 5, 8)
            ]
    return made


def random_step(campaign: Campaign) -> None:
    """At any moment of what is under way."""
    dice = campaign.dice
    doing = threading.Thread(target=campaign.work, daemon=True)
    doing.start()
    select.select([], [], [], dice.random() * 0.1)
    dice.choice([Campaign.kill_daemon] * 6 + [Campaign.kill_guard, Campaign.kill_both])(campaign)
    doing.join(PATIENCE)
    assert not doing.is_alive(), "a command is not answered"


def run(
    home: Home, seconds: float, seed: int, *, limit: int = 1_000_000, say: Callable[[str], None] = print
) -> Campaign:
    """A part of the time each for random kills, the daemon's system calls, and the guard's."""
    campaign = Campaign(home, seed)
    campaign.begin()
    init = threading.Thread(target=campaign.be_init, daemon=True)
    init.start()
    done: list[str] = []
    try:
        calls = campaign.calls()
        campaign.settle()
        mine, guards = steps(campaign, calls, limit), guard_steps()
        campaign.dice.shuffle(mine)
        campaign.dice.shuffle(guards)
        say(
            f"{len(calls)} system calls of the daemon, {sum(calls.values())} in a life; {len(mine)} faults of it, {len(guards)} of the guard"
        )
        begun = time.monotonic()
        for share, name, todo in ((0.2, "random", None), (0.8, "daemon", mine), (1.0, "guard", guards)):
            while time.monotonic() < begun + seconds * share and (todo is None or todo):
                step = random_step if todo is None else todo.pop()
                told = f"{name}: {step.__defaults__}" if step.__defaults__ else name
                history = [(name, len(zoo.runs(home, name, 0))) for name in zoo.HANDLED]
                done.append(f"{time.time():.3f} {told}, {history}")
                step(campaign)
                campaign.settle()
                campaign.check()
        say(f"left undone: {len(mine)} faults of the daemon, {len(guards)} of the guard")
        campaign.end()
    except BaseException:
        say("\n".join([*done, f"after {dict(campaign.counts)}"]))
        raise
    finally:
        campaign.over.set()
        init.join()
    return campaign


def main(seconds: int = 600, seed: int = 1) -> int:
    import _prctl

    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix="ox-d-"))
    home = Home(folder)
    home.guarded = True
    begun = time.monotonic()
    try:
        campaign = run(home, seconds, seed)
    except BaseException:
        print(f"what is left is in {folder}", file=sys.stderr)
        for pid in children():
            end_tree(pid)
        while descendants(os.getpid()):
            for pid in children():
                end_tree(pid)
                os.waitpid(pid, 0)
        home.daemon = None
        home.end_cgroups()
        raise
    left = home.end_cgroups()
    assert not left, f"cgroups are left: {left}"
    shutil.rmtree(folder)
    for what, count in sorted(campaign.counts.items()):
        print(f"{count:9} {what}")
    print(f"{time.monotonic() - begun:9.0f} seconds; no violation")
    return 0


if __name__ == "__main__":
    if "--every" in sys.argv:
        from tests.faults import every

        sys.exit(every.main(sys.argv[1:]))
    sys.exit(main(*map(int, sys.argv[1:])))

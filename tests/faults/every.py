"""`python -m tests.faults.deaths --every CALLS`: the daemon is killed at every system call of a path in turn.

    python -m tests.faults.deaths --every all --paths spawn,exit [--errors all] [--from N] [--both] [--walk] [--threads]
        [--jobs N]

CALLS are `all` or names with commas between. The calls of a path are counted first; then the daemon (on the path `keep`:
the guard) dies at the first, second, … of each name, until the path has no more of them. After each: nobody was started
twice, no run was cut short, each end is the true one, what runs has the same pid, no zombie, no line lost, no fd more
than without a fault. Those of the main thread are meant; with `--threads`, those of each thread, for names that no child
calls before it executes.

With `--both` the guard dies at the same moment: it is halted before and killed after. Then the code of an end may be
unknown, and the last lines of what has ended meanwhile may be missing. The paths `keep`, `takeover` and `adopt` have a
death of their own before, and are left out.

With `--errors`, `all` or names with commas between, each of those calls that can fail fails with each of these; then the
daemon dies, and the same must be true, but that a command may be refused and a start be said to have failed.

Homes (`--jobs`) are at it at the same time, and share the list. `--from` goes on at that number of it, `--seconds` is
how long.
"""

import argparse
import collections
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from oxmgr.client.connection import NoDaemon
from oxmgr.model.messages import Act, Apply, InstanceView
from oxmgr.model.spec import NEVER, Logs, Sandbox, Spec
from tests.conftest import WITHOUT_CGROUPS, Home, children, end_tree, wait_until
from tests.faults import zoo
from tests.faults.deaths import ERRORS, FAILING, FOLLOWED, PATIENCE, Campaign, attach, descendants, detach, zombies

LIVED_WELL = 1.05
"""Seconds; who dies sooner is started again later and later (csrc/guard.c)."""
IN_A_ROW = 5
QUIET = 0.06
NOBODY = 65534
MORE = 2
"""So many more of each call than a path had when it was counted are tried: its length varies a little."""
DEATH = "signal=SIGKILL"
AS_IT_STARTS = ("takeover", "adopt")
"""The paths on which a daemon is traced from its start on."""
ENDLESS = ("exit", "exit_group", "restart_syscall", "execve")
GO = 'go=; trap go=1 USR1; say; while [ -z "$go" ]; do sleep 0.01; done; say; '
UNTIL_STOPPED = zoo.STOPS + 'say; while [ -z "$stop" ]; do sleep 0.02; done; leave 0'
BURST = "i=0; while [ $i -lt 300 ]; do say; i=$((i+1)); done"

_GONE = re.compile(r"~| \(deleted\)$")
"""Of the name of a log that was rotated or removed."""

Path_ = Iterator[None]
"""What was made ready, what was done, and what must be true after it: between them the daemon is traced."""


class Sweep(Campaign):
    """A home of its own, with a few witnesses."""

    def __init__(self, home: Home, *, threads: bool = False, both: bool = False) -> None:
        super().__init__(home)
        self.followed = FOLLOWED if threads else ()
        self.both = both
        self.died = False
        """Both have."""
        self.enough: dict[str, tuple[int, int]] = {}
        """The fds of daemon and guard, on each path, without a fault."""
        self.tracer: subprocess.Popen[bytes] | None = None
        self.inject = ""
        self.fails = False
        """A call fails, so a start may fail, after which there is another."""
        self.outlived = False
        """The daemon that was traced while it came up has done so."""
        self.steady = 0
        self.deaths = 0
        # The other user has to come to its ledger.
        os.chmod(home.folder, 0o711)
        os.chmod(home.folder / "ledger", 0o1777)
        ledger = {"LEDGER": str(home.folder / "ledger")}
        again = {"restart": "always", "restart_delay_max_ms": 0, "max_restarts": 0}
        small = Logs(max_size_mb=0.002, max_files=100_000)
        scripts: list[tuple[str, str, dict[str, object]]] = [
            ("steady", zoo.LOOP.format(pause=0.5, code=0), {}),
            ("job", "say; leave 5", {"restart": NEVER}),
            ("other", "say; leave 5", {"restart": NEVER, "sandbox": Sandbox(uid=NOBODY, gid=NOBODY)}),
            ("ender", GO + "leave 7", again),
            ("last", GO + "leave 42", {"restart": NEVER}),
            (
                "prints",
                f"trap '{BURST}' USR1; " + UNTIL_STOPPED,
                {"logs": small},
            ),
            ("stops", UNTIL_STOPPED, {}),
        ]
        self.specs = [home.sh(name, zoo.PRELUDE + script, env=ledger, **keys) for name, script, keys in scripts]
        self.kinds = {spec.name: zoo.Kind(spec) for spec in self.specs}

    def begin(self) -> None:
        self.start()
        self.apply()
        for name in ("job", "other"):
            self.home.until(name, lambda view: view.status == "exited", "its end")
        for spec in self.specs:
            self.ready(spec.name, 1)
        self.steady = self.home.pid("steady")

    def apply(self, **keys: object) -> str:
        specs = [Spec(**{**{k: getattr(one, k) for k in one.__struct_fields__}, **keys}) for one in self.specs[:1]]
        environ = f"PATH={self.home.env['PATH']}\0".encode()
        return self.ask(Apply([*specs, *self.specs[1:]], environ))

    def ready(self, name: str, count: int) -> list[zoo.Run]:
        """Its runs, once it has had so many and the last one has said something (so its traps are set)."""
        wait_until(lambda: len(zoo.runs(self.home, name, 0)) >= count, f"run {count} of {name}", PATIENCE)
        wait_until(lambda: f"{count} 0" in self.home.log(name) or name == "prints", f"a line of {name}", PATIENCE)
        return zoo.runs(self.home, name, 0)

    def count(self, name: str) -> int:
        return len(zoo.runs(self.home, name, 0))

    # --- the paths ---

    def spawn(self) -> Path_:
        return self._run("job")

    def apart(self) -> Path_:
        """As another user, which a thread starts."""
        return self._run("other")

    def _run(self, name: str) -> Path_:
        before = self.count(name)
        yield
        refused = self.ask(Act("start", [name]))
        self._meanwhile(
            lambda: (
                refused
                or [run.code for run in zoo.runs(self.home, name, 0)[before:]] == [5]
                or (self.fails and self._errored(name))
            )
        )
        yield
        view = self.home.until(name, lambda view: view.status in ("exited", "errored"), "its end")
        runs = zoo.runs(self.home, name, 0)
        if view.status == "errored":
            assert self.fails and view.reason.startswith("cannot start") and len(runs) == before, view
        else:
            assert len(runs) - before in ((0, 1) if refused else (1,)), (refused, runs[before:], view)
            assert view.exit_code == 5 or self._unknown(view), view
        assert all(run.code == 5 for run in runs), runs[before:]
        self.counts["starts"] += len(runs) - before

    def exit(self) -> Path_:
        """Of one that is started again, and of one that is not."""
        before = {"ender": self.count("ender"), "last": self.count("last")}
        if self.home.views()["last"].status != "running":
            self.home.request(Act("start", ["last"]))
            before["last"] += 1
        pids = [self.ready(name, count)[-1].pid for name, count in before.items()]
        restarts = self.home.views()["ender"].restarts
        yield
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        self._meanwhile(lambda: self.count("ender") > before["ender"])
        yield
        view = self.home.until("last", lambda view: view.status == "exited", "its end")
        assert (view.exit_code, view.signal) == (42, None) or self._unknown(view), view
        assert zoo.runs(self.home, "last", 0)[before["last"] - 1 :] == [zoo.Run(pids[1], 42, 2)]
        view = self.home.until("ender", lambda view: view.pid and view.restarts > restarts, "its restart")
        if not self.fails:
            assert view.restarts == restarts + 1, view
            assert (view.exit_code, view.signal) == (7, None) or self._unknown(view), view
        runs = self.ready("ender", before["ender"] + 1)[before["ender"] - 1 :]
        assert [run.code for run in runs] == [7, None] and runs[1].pid == view.pid, (runs, view)
        self.counts["ends"] += 2
        self.counts["starts"] += 1

    def stop(self) -> Path_:
        before = self.count("stops")
        if self.home.views()["stops"].status != "running":
            self.home.request(Act("start", ["stops"]))
            before += 1
        self.ready("stops", before)
        yield
        refused = self.ask(Act("stop", ["stops"]))
        yield
        view = self.home.until("stops", lambda view: view.status in ("stopped", "running"), "it to be as it was meant")
        assert refused or view.status == "stopped", view
        if view.pid:
            wait_until(lambda: zoo.runs(self.home, "stops", 0)[-1].pid == view.pid, "it to have written so")
        runs = zoo.runs(self.home, "stops", 0)[before - 1 :]
        assert all(run.code == 0 for run in runs[:-1]) and len(runs) <= 2, runs
        assert (runs[-1].code == 0) == (view.status == "stopped"), (runs, view)
        self.counts["ends"] += sum(run.code == 0 for run in runs)

    def rotate(self) -> Path_:
        pid = self.ready("prints", 1)[-1].pid
        yield
        os.kill(pid, signal.SIGUSR1)
        yield
        assert self.home.pid("prints") == pid

    def save(self) -> Path_:
        yield
        self.apply(stop_timeout_ms=5000 + self.counts["faults"])
        yield

    def takeover(self) -> Path_:
        return self._next_one(lambda before: os.kill(before, signal.SIGKILL))

    def adopt(self) -> Path_:
        """With the guard dead too, so that nobody tells the next one anything."""
        return self._next_one(self._kill_both)

    def _kill_both(self, daemon: int) -> None:
        os.kill(self.guard, signal.SIGSTOP)
        os.kill(daemon, signal.SIGKILL)
        self._end_guard(True)
        self._start_or_adopt()

    def _next_one(self, end: Callable[[int], None]) -> Path_:
        """And the first end after it, which shows whether what is taken over is listened to."""
        before = self.daemon()
        pids = {view.name: view.pid for view in self.home.views().values() if view.name != "ender"}
        ender = self.ready("ender", self.count("ender"))
        self.plan(*self.followed, "-e", "trace=all", "-e", self.inject)
        yield
        end(before)
        self.home.another_than(before)
        os.kill(ender[-1].pid, signal.SIGUSR1)
        wait_until(lambda: self.count("ender") > len(ender), "its restart", PATIENCE)
        # The one that was traced has come up, or one after it.
        now = self.daemon()
        if is_traced(now):
            self.outlived = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(now, signal.SIGKILL)
            self.home.another_than(now)
        if not self._place.is_symlink():
            self._clean_place()
        yield
        assert {view.name: view.pid for view in self.home.views().values() if view.name != "ender"} == pids
        runs = self.ready("ender", len(ender) + 1)[len(ender) - 1 :]
        assert [run.code for run in runs] == [7, None] and self.home.pid("ender") == runs[1].pid, runs

    def keep(self) -> Path_:
        """What the guard does: a daemon dies, and another is started and told everything."""
        before = self.daemon()
        pids = {view.name: view.pid for view in self.home.views().values()}
        yield
        os.kill(before, signal.SIGKILL)
        self._outlive(before)
        yield
        assert {view.name: view.pid for view in self.home.views().values()} == pids

    # --- one after the other ---

    def _meanwhile(self, done: Callable[[], object]) -> None:
        """What the apps do, unless the daemon dies over it."""
        tracer = self.tracer
        wait_until(lambda: tracer is None or tracer.poll() is not None or done(), "what the apps do", PATIENCE)

    def _unknown(self, view: InstanceView) -> bool:
        return self.died and (view.exit_code, view.signal) == (None, None)

    def _errored(self, name: str) -> bool:
        try:
            return self.home.views()[name].status == "errored"
        except NoDaemon:
            return False

    def _attach(self, pid: int) -> None:
        self.tracer = attach(pid, self.trace, *self.followed, "-e", "trace=all", "-e", self.inject)
        self.tracers.add(self.tracer.pid)

    def _detach(self) -> None:
        """Once nothing more comes; not by asking the daemon, for that would be calls of it."""
        if self.tracer is None:
            return
        end, size, since = time.monotonic() + PATIENCE, -1, time.monotonic()
        while self.tracer.poll() is None and time.monotonic() < since + QUIET:
            assert time.monotonic() < end, "the daemon does not come to rest"
            select.select([], [], [], 0.005)
            now = self.trace.stat().st_size
            if now != size:
                size, since = now, time.monotonic()
        detach(self.tracer)
        self.tracers.discard(self.tracer.pid)
        self.tracer = None

    def meet(self, path: str, name: str, number: int, fault: str) -> bool:
        """At the n-th call of that name; whether the path had one."""
        self.counts["faults"] += 1
        self.inject = f"inject={name}:{fault}:when={number}"
        self.fails = fault != DEATH
        self.trace.unlink(missing_ok=True)
        self.outlived = self.died = False
        before = self.daemon()
        steps: Path_ = getattr(self, path)()
        next(steps)
        if self.both:
            os.kill(self.guard, signal.SIGSTOP)
        if path not in AS_IT_STARTS:
            self._attach(self.guard if path == "keep" else before)
        next(steps)
        self._detach()
        trace = self.trace.read_text(errors="replace")
        met = "+++ killed by SIGKILL" in trace and not self.outlived if fault == DEATH else "(INJECTED)" in trace
        if self.both:
            self._end_guard(met)
            if met:
                self._note_unread()
        self._after(before)
        next(steps, None)
        if path not in self.enough and not met:
            self.enough[path] = self._fds_at_rest()
        self._check(path)
        if self.fails and path not in AS_IT_STARTS:
            self._follow()
            self._check(path)
        return met

    def _fds(self) -> tuple[int, int]:
        """Logs are opened when there is something to write: of those the ones that are open twice."""
        counts = []
        for pid in (self.daemon(), self.guard):
            names = list(links(pid))
            logs = {name for name in names if name.startswith(self.home.places.logs) and not _GONE.search(name)}
            counts.append(len(names) - len(logs))
        return counts[0], counts[1]

    def _fds_at_rest(self) -> tuple[int, int]:
        """Without whoever has just asked something."""
        found = []
        for _ in range(5):
            found.append(self._fds())
            select.select([], [], [], 0.005)
        return min(one for one, _ in found), min(one for _, one in found)

    def _end_guard(self, met: bool) -> None:
        """As at the same moment as the daemon; or go on, if that lives."""
        assert self.home.daemon is not None
        self.died = met
        if met:
            self.home.daemon.kill()
            self.home.daemon.wait()
        else:
            os.kill(self.guard, signal.SIGCONT)

    def _follow(self) -> None:
        """What is on record after a failure is what the next daemon goes by."""
        before, pids = self.daemon(), {view.name: view.pid for view in self.home.views().values()}
        os.kill(before, signal.SIGKILL)
        self.home.another_than(before)
        assert {view.name: view.pid for view in self.home.views().values()} == pids
        self._after(before)

    def _after(self, before: int) -> None:
        assert self.home.daemon is not None
        if self.home.daemon.poll() is not None:
            self._start_or_adopt()
        self.deaths += self.daemon() != before
        if self.deaths >= IN_A_ROW:
            self.deaths = 0
            at = self.home.about_daemon().started_at + LIVED_WELL
            wait_until(lambda: time.time() > at, "the daemon to have lived well")

    def _check(self, path: str) -> None:
        assert self.home.pid("steady") == self.steady
        for spec in self.specs:
            zoo.runs(self.home, spec.name, 0)
        daemon = self.daemon()
        wait_until(lambda: not zombies(daemon) and not zombies(self.guard), "no zombie", PATIENCE)
        enough = self.enough.get(path, (1000, 1000))
        if path == "stop" and self.home.views()["stops"].pid:
            # The stop was refused: its pidfd and its pipes.
            enough = enough[0] + 3, enough[1] + 2
        wait_until(
            lambda: all(now <= most for now, most in zip(self._fds(), enough, strict=True)),
            f"no more fds than {enough}",
            PATIENCE,
        )

    def end(self) -> None:
        assert not self.ask(Act("stop", ["all"]))
        for name, kind in self.kinds.items():
            self.counts["lines"] += zoo.check_lines(self.home, kind, 0, self.unread[name, 0]).number
        assert not self.ask(Act("delete", ["all"]))
        known = {self.guard, self.daemon()}
        below = [pid for pid in descendants(self.guard) if pid not in known]
        assert not below, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below]
        self.home.stop_daemon()


def is_traced(pid: int) -> bool:
    """False too of one that has just died of what was injected."""
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def links(pid: int) -> Iterator[str]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")


def dry(one: Sweep, path: str) -> collections.Counter[str]:
    """How often each call is made on that path: the most of two times."""
    most: collections.Counter[str] = collections.Counter()
    for _ in range(2):
        assert not one.meet(path, "exit_group", 1, DEATH)
        thread: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for line in one.trace.read_text(errors="replace").splitlines():
            made = re.match(r"(?:(\d+) +)?(\w+)\(", line)
            if made:
                thread[made[1] or ""][made[2]] += 1
        for found in thread.values():
            most |= found
    return most


def faults(errors: str) -> list[str]:
    """As strace's injection has them."""
    if not errors:
        return [DEATH]
    return [f"error={error}" for error in (ERRORS if errors == "all" else errors.split(","))]


def sweep(args: argparse.Namespace, home: Home, share: int) -> dict[str, object]:
    """Each job has the same list of faults, about, and takes its share of it."""
    one = Sweep(home, threads=args.threads, both=args.both)
    one.begin()
    init = threading.Thread(target=one.be_init)
    init.start()
    try:
        return gone_through(one, args, share)
    finally:
        one.over.set()
        init.join()


def gone_through(one: Sweep, args: argparse.Namespace, share: int) -> dict[str, object]:
    met: dict[str, dict[str, int]] = {}
    left: dict[str, int] = {}
    until = time.monotonic() + args.seconds
    for path in args.paths.split(","):
        if args.both and path in ("keep", *AS_IT_STARTS):
            continue
        found = met[path] = collections.Counter()
        most = dry(one, path)
        names = sorted(most) if args.every == "all" else args.every.split(",")
        if args.errors:
            names = [name for name in names if name in FAILING]
        todo = [
            (name, number, fault)
            for name in names
            if name not in ENDLESS
            for number in range(1, most[name] + 1 + MORE)
            for fault in faults(args.errors)
        ]
        for at in range(args.first - 1 + share, len(todo), args.jobs):
            if time.monotonic() > until:
                left[path] = at + 1
                break
            try:
                found[todo[at][0]] += one.meet(path, *todo[at])
            except BaseException:
                print(f"at {path}, {todo[at]}, fault {at + 1} of {len(todo)}, after {dict(one.counts)}", flush=True)
                raise
    one.end()
    return {"met": met, "next": left, "counts": one.counts}


def job(args: argparse.Namespace, share: int) -> int:
    import _prctl

    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix="ox-e-"))
    home = Home(folder)
    home.guarded = True
    home.wrap = WITHOUT_CGROUPS if args.walk else []
    try:
        result = sweep(args, home, share)
    except BaseException:
        print(f"what is left is in {folder}", flush=True)
        while children():
            for pid in children():
                end_tree(pid)
                os.waitpid(pid, 0)
        home.daemon = None
        home.end_cgroups()
        raise
    assert not home.end_cgroups()
    shutil.rmtree(folder)
    print(json.dumps(result), flush=True)
    return 0


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deaths")
    parser.add_argument("--every", default="all")
    parser.add_argument("--paths", default="spawn,apart,exit,stop,rotate,save,keep,takeover,adopt")
    parser.add_argument("--errors", default="")
    parser.add_argument("--from", dest="first", type=int, default=1)
    parser.add_argument("--both", action="store_true", help="daemon and guard at once")
    parser.add_argument("--walk", action="store_true", help="without cgroups")
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--share", type=int, default=-1, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    args = arguments(words)
    if args.share >= 0:
        return job(args, args.share)
    begun = time.monotonic()
    argv = [sys.executable, "-m", "tests.faults.every", *words]
    jobs = [subprocess.Popen([*argv, "--share", str(share)], stdout=subprocess.PIPE) for share in range(args.jobs)]
    said = [one.communicate()[0].decode().splitlines() for one in jobs]
    met: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    counts: collections.Counter[str] = collections.Counter()
    left: dict[str, int] = {}
    for lines in said:
        if not lines or not lines[-1].startswith("{"):
            print("\n".join(lines))
            continue
        result = json.loads(lines[-1])
        counts.update(result["counts"])
        for path, found in result["met"].items():
            met[path].update(found)
        for path, number in result["next"].items():
            left[path] = min(number, left.get(path, number))
    for path, found in met.items():
        shown = ", ".join(f"{name} {count}" for name, count in found.most_common() if count)
        print(f"{path}: {found.total()} faults: {shown}")
    for path, number in left.items():
        print(f"not done: go on with --paths {path} --from {number}")
    for what, count in sorted(counts.items()):
        print(f"{count:9} {what}")
    bad = len([one for one in jobs if one.returncode])
    print(
        f"{time.monotonic() - begun:9.0f} seconds; " + (f"{bad} homes have found something" if bad else "no violation")
    )
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

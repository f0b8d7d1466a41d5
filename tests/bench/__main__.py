"""`make bench`: the figures of docs/benchmarks.md, against a floor in C, in one run. Prints a table, writes JSON."""

import json
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oxmgr.client.connection import Connection, connect
from oxmgr.client.launch import daemon_argv
from oxmgr.model.messages import Act, Apply, GetInstances, Instances, InstanceView, Reply, StopDaemon
from oxmgr.model.places import find_places
from oxmgr.model.spec import Spec
from tests.bench import logs

HERE = Path(__file__).resolve().parent
OXMGR = str(Path(sys.executable).with_name("oxmgr"))
CRASHES = 300
DEADLINE = 60.0
IDLE_SECONDS = 60.0

Row = tuple[str, str, str]


class Bench:
    """A daemon of its own in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "OXMGR_HOME": str(folder / "home"), "HOME": str(folder)}
        self.places = find_places(self.env, os.getuid())
        self.figures: dict[str, object] = {}
        self.rows: list[Row] = []
        for name in ("stamp", "floor"):
            subprocess.run(["cc", "-O2", "-o", str(folder / name), str(HERE / f"{name}.c")], check=True)
        self.start_daemon()

    def start_daemon(self) -> None:
        reading, told = os.pipe()
        self.daemon = subprocess.Popen(daemon_argv(told=told), env=self.env, pass_fds=[told], stdin=subprocess.DEVNULL)
        os.close(told)
        with open(reading) as file:
            assert file.read() == "\n"
        self.connection: Connection = connect(self.places)

    def request(self, request: Apply | Act | GetInstances | StopDaemon) -> Reply:
        return self.connection.request(request)

    def apply(self, *specs: Spec, prune: bool = False) -> None:
        self.request(Apply(list(specs), f"PATH={self.env['PATH']}\0".encode(), prune))

    def views(self) -> list[InstanceView]:
        reply = self.request(GetInstances())
        assert isinstance(reply, Instances)
        return reply.instances

    def memory(self) -> tuple[int, int]:
        """RSS and PSS of the daemon, in KB (proc(5), smaps_rollup)."""
        text = Path(f"/proc/{self.daemon.pid}/smaps_rollup").read_text()
        found = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
        return found["Rss:"], found["Pss:"]

    def sleeper(self, name: str, instances: int = 1) -> Spec:
        return Spec(
            name, "sleep 100000", ["sleep", "100000"], str(self.folder), instances=instances, restart_delay_max_ms=0
        )

    def note(self, what: str, value: str, budget: str, **figures: object) -> None:
        self.rows.append((what, value, budget))
        self.figures[what] = {"shown": value, "budget": budget, **figures}
        print(f"{what:62} {value:38} {budget}", flush=True)

    def command(self, *words: str) -> float:
        """Seconds that the whole command took."""
        begun = time.perf_counter()
        subprocess.run([OXMGR, *words], env=self.env, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begun

    def end(self) -> None:
        self.request(StopDaemon())
        self.daemon.wait(DEADLINE)


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + DEADLINE
    while not what():
        if time.monotonic() > end:
            sys.exit(f"not within {DEADLINE} s: {why}")
        select.select([], [], [], 0.0005)


def last_stamp(path: Path) -> tuple[int, int]:
    """(pid, nanoseconds) of the last whole line; (0, 0) before there is one."""
    lines = path.read_text().split("\n") if path.exists() else []
    if len(lines) < 2:
        return 0, 0
    pid, nanoseconds = lines[-2].split()
    return int(pid), int(nanoseconds)


def crash(path: Path) -> float:
    """Milliseconds from SIGKILL to the next process's own clock reading."""
    until(lambda: last_stamp(path)[0], "a first start")
    pid, _ = last_stamp(path)
    handle = os.pidfd_open(pid)
    begun = time.monotonic_ns()
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    until(lambda: last_stamp(path)[0] != pid, "a restart")
    return (last_stamp(path)[1] - begun) / 1e6


def spread(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "p50": statistics.median(ordered),
        "p90": ordered[int(len(ordered) * 0.9)],
        "p99": ordered[int(len(ordered) * 0.99)],
        "max": ordered[-1],
        "samples": len(ordered),
    }


def crashes(bench: Bench, beside: int) -> None:
    ours, floor = bench.folder / "ours", bench.folder / "floor.stamps"
    for path in (ours, floor):
        path.unlink(missing_ok=True)
    stamp = str(bench.folder / "stamp")
    bench.apply(
        Spec("stamp", "stamp", [stamp, str(ours)], str(bench.folder), restart_delay_max_ms=0),
        *(bench.sleeper(f"other{number}") for number in range(beside)),
    )
    loop = subprocess.Popen([str(bench.folder / "floor"), stamp, str(floor)])
    samples: dict[str, list[float]] = {"floor": [], "oxmgr": []}
    # In turn, so that what else the machine does falls on both.
    for _ in range(CRASHES):
        samples["floor"].append(crash(floor))
        samples["oxmgr"].append(crash(ours))
    loop.kill()
    loop.wait()
    os.kill(last_stamp(floor)[0], signal.SIGKILL)
    bench.apply(prune=True)
    got, least = spread(samples["oxmgr"]), spread(samples["floor"])
    name = f"crash → first instruction, {beside} other apps"
    bench.note(
        name,
        f"p50 {got['p50']:.2f} ms, p99 {got['p99']:.2f} ms",
        f"floor {least['p50']:.2f} / {least['p99']:.2f}; ≤ +0.5 / ≤ 3 ms",
        oxmgr=got,
        floor=least,
    )


def storm(bench: Bench) -> None:
    """Each new process says by its stamp that it runs; the daemon is asked only afterwards, so that it is left alone."""
    stamps = bench.folder / "storm"
    argv = [str(bench.folder / "stamp"), str(stamps)]
    bench.apply(Spec("storm", "stamp", argv, str(bench.folder), instances=1000, restart_delay_max_ms=0))
    took = []
    for number in range(1, 4):
        until(lambda started=number * 1000: count_lines(stamps) == started, "a thousand starts")  # type: ignore[misc]
        handles = [os.pidfd_open(view.pid or 0) for view in bench.views()]
        begun = time.monotonic_ns()
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        again = (number + 1) * 1000
        until(lambda again=again: count_lines(stamps) == again, "a thousand restarts")  # type: ignore[misc]
        took.append((last_stamp(stamps)[1] - begun) / 1e9)
        for handle in handles:
            os.close(handle)
        views = bench.views()
        assert {(view.status, view.restarts) for view in views} == {("running", number)}, views
    bench.note(
        "1,000 instances killed at once → all running", f"{statistics.median(took):.2f} s", "≤ 1 s", seconds=took
    )


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def stops(bench: Bench) -> None:
    """What a stop and a restart take beyond what the process itself takes to die."""
    floor, stop, restart = [], [], []
    for number in range(50):
        process = subprocess.Popen(["sleep", "100000"])
        begun = time.perf_counter()
        process.terminate()
        process.wait()
        floor.append((time.perf_counter() - begun) * 1000)
        bench.apply(bench.sleeper("once"))
        begun = time.perf_counter()
        bench.request(Act("restart", ["once"]))
        restart.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        bench.request(Act("stop", ["once"]))
        stop.append((time.perf_counter() - begun) * 1000)
        assert number >= 0
    bench.apply(prune=True)
    least = statistics.median(floor)
    for name, samples in (("stop", stop), ("restart", restart)):
        over = statistics.median(samples) - least
        bench.note(
            f"{name} of a process that dies at once, beyond its own time",
            f"p50 {over:.2f} ms (own time {least:.2f} ms)",
            "≤ 5 ms",
            samples=spread(samples),
        )


def many(bench: Bench) -> None:
    """A hundred from a file by the command, memory, descriptors, list."""
    empty = bench.memory()
    file = bench.folder / "hundred.toml"
    file.write_text("".join(f'[processes.app{number}]\ncommand = "sleep 100000"\n' for number in range(100)))
    took = []
    for _ in range(5):
        took.append(bench.command("start", str(file)))
        with_hundred = bench.memory()
        fds = len(os.listdir(f"/proc/{bench.daemon.pid}/fd"))
        if len(took) < 5:
            bench.apply(prune=True)
    bench.note(
        "start 100 apps from one file, command included", f"{statistics.median(took):.3f} s", "≤ 0.3 s", seconds=took
    )
    floor, listed = [], []
    for _ in range(40):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        floor.append((time.perf_counter() - begun) * 1000)
        listed.append(bench.command("list") * 1000)
    least = spread(floor)["p50"]
    bench.note(
        "oxmgr list with 100 apps",
        f"p50 {spread(listed)['p50']:.1f} ms, p90 {spread(listed)['p90']:.1f} ms",
        f"python -I -S -c pass: {least:.1f} ms; ≤ 30 ms",
        list=spread(listed),
        python=spread(floor),
    )
    bench.apply(prune=True)
    idle = len(os.listdir(f"/proc/{bench.daemon.pid}/fd"))
    bench.apply(bench.sleeper("many", 1000))
    with_thousand = bench.memory()
    for what, (rss, pss) in (("0", empty), ("100", with_hundred), ("1,000", with_thousand)):
        budget = "≤ 13 MB (RSS)" if what == "100" else ""
        bench.note(
            f"daemon memory with {what} apps",
            f"RSS {rss / 1024:.1f} MB, PSS {pss / 1024:.1f} MB",
            budget,
            rss_kb=rss,
            pss_kb=pss,
        )
    added = (with_thousand[1] - with_hundred[1]) / 900
    bench.note("memory that an app adds", f"{added:.1f} KB", "≤ 4 KB", kb=added)
    bench.note("file descriptors an app", f"{(fds - idle) / 100:.2f}", "≤ 3", fds=fds, idle=idle)
    before, cpu = switches(bench.daemon.pid)
    begun = time.monotonic()
    # Nothing is looked at meanwhile: to look would be to wake it.
    select.select([], [], [], IDLE_SECONDS)
    after, cpu_after = switches(bench.daemon.pid)
    minutes = (time.monotonic() - begun) / 60
    bench.note(
        "idle wake-ups a minute with 1,000 apps",
        f"{(after - before) / minutes:.1f}, CPU {(cpu_after - cpu) * 10} ms",
        "0",
        switches=after - before,
        minutes=minutes,
    )
    bench.apply(prune=True)


def switches(pid: int) -> tuple[int, int]:
    """Voluntary context switches of all threads, and CPU ticks."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "status").read_text()
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("voluntary_ctxt"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return total, int(fields[11]) + int(fields[12])


def machine() -> dict[str, object]:
    model = next(
        (line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    return {
        "kernel": platform.release(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
    }


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="oxbench-"))
    bench = Bench(folder)
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    try:
        crashes(bench, 0)
        crashes(bench, 100)
        stops(bench)
        storm(bench)
        bench.apply(prune=True)
        logs.throughput(bench, until)
        logs.beside_a_flood(bench, crash, spread)
        # Figures of memory are those of a daemon that has not had a thousand instances before.
        bench.end()
        bench.start_daemon()
        many(bench)
    finally:
        bench.end()
        shutil.rmtree(folder)
    out = HERE.parent.parent / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"machine": about, "figures": bench.figures}, indent=2) + "\n")
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()

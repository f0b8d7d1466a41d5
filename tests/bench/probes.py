"""What health checks cost the daemon: its share of a core with 100 apps, by how they are asked, and what one question costs.

python -m tests.bench.probes [SECONDS]
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oxmgr.model.spec import HealthCheck, Spec
from tests.conftest import Home, wait_until

APPS = 100
BUDGET = 1.0
"""Percent of a core at the default interval."""
CASES = [("", 30.0), ("http", 30.0), ("http", 10.0), ("http", 1.0), ("tcp", 10.0), ("tcp", 1.0)]
HERE = Path(__file__).resolve().parent


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def spent(pid: int) -> tuple[float, int]:
    """Seconds of CPU of all its threads (Documentation/scheduler/sched-stats.rst), and how often it has slept (proc(5),
    voluntary_ctxt_switches)."""
    seconds, sleeps = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
        lines = (task / "status").read_text().splitlines()
        sleeps += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return seconds, sleeps


def check(kind: str, port: int, interval: float) -> HealthCheck:
    where = {"endpoint": f"http://127.0.0.1:{port}/"} if kind == "http" else {"tcp": f"127.0.0.1:{port}"}
    return HealthCheck(**where, interval_secs=interval, initial_delay_secs=0) if kind else HealthCheck()  # type: ignore[arg-type]


def measure(home: Home, program: str, ports: list[int], kind: str, interval: float, seconds: float) -> float:
    """Prints a row; CPU seconds that a second took."""
    specs = [
        Spec(f"app{number}", "answers", [program, str(port)], "/", health_check=check(kind, port, interval))
        for number, port in enumerate(ports)
    ]
    assert not home.apply(*specs).failed
    wanted = "healthy" if kind else None
    wait_until(lambda: all(view.health == wanted for view in home.views().values()), "all to be healthy", 60)
    pid = home.about_daemon().pid
    # What the last look has left to do is done by the next turn of the loop.
    time.sleep(1)
    began, before = time.monotonic(), spent(pid)
    time.sleep(seconds)
    took, after = time.monotonic() - began, spent(pid)
    share = (after[0] - before[0]) / took
    asked = APPS / interval if kind else 0.0
    name = f"{kind} every {interval:g} s" if kind else "no health check"
    print(f"{name:18} {share * 100:7.3f} % of a core {(after[1] - before[1]) / took:8.1f} wakeups/s", end="")
    print(f"  {share / asked * 1e6:5.0f} µs a question" if asked else "", flush=True)
    assert all(view.restarts == 0 for view in home.views().values()), "an app was taken for unhealthy"
    home.apply(prune=True)
    return share


def main(seconds: float = 60.0) -> int:
    folder = Path(tempfile.mkdtemp(prefix="ox-"))
    home = Home(folder)
    home.guarded = True
    program = str(folder / "answers")
    subprocess.run(["cc", "-O2", "-o", program, str(HERE / "answers.c")], check=True)
    print(f"{APPS} apps, {seconds:g} s each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    try:
        home.start_daemon()
        ports = free_ports(APPS)
        shares = {case: measure(home, program, ports, *case, seconds) for case in CASES}
    finally:
        home.end()
        home.end_cgroups()
        shutil.rmtree(folder)
    worst = max(share for (kind, interval), share in shares.items() if kind and interval == 30.0) * 100
    print(f"at the default of 30 s: {worst:.3f} % of a core, budget {BUDGET:g} %")
    return int(worst > BUDGET)


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))

"""From the SIGKILL of the daemon to the next one's first answer, with 20 apps that run and print:

python -m tests.bench.takeover [SAMPLES]
"""

import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import Home, wait_until

LIVED_WELL = 1.05
"""Seconds: who dies sooner is started again with a delay from the second time on (csrc/guard.c)."""


def samples(home: Home, count: int) -> list[float]:
    """Milliseconds. A connection that was waiting when the daemon died would be answered as soon; this one is made
    afterwards."""
    home.apply(*(home.sh(f"app{number}", "while :; do echo line; sleep 0.1; done") for number in range(20)))
    found = []
    for _ in range(count):
        view = home.about_daemon()
        wait_until(lambda at=view.started_at: time.time() > at + LIVED_WELL, "it to have lived well")  # type: ignore[misc]
        begun = time.monotonic()
        os.kill(view.pid, signal.SIGKILL)
        home.another_than(view.pid)
        found.append((time.monotonic() - begun) * 1000)
    return found


def spread(found: list[float]) -> str:
    cuts = statistics.quantiles(found, n=100)
    return f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, {len(found)} samples"


def main(count: int = 200) -> int:
    folder = Path(tempfile.mkdtemp(prefix="ox-"))
    home = Home(folder)
    home.guarded = True
    try:
        home.start_daemon()
        print(f"SIGKILL of the daemon → the next one answers, 20 apps: {spread(samples(home, count))}")
    finally:
        home.end()
        home.end_cgroups()
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

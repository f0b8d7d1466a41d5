"""`make reexec-campaign`: the daemon is replaced again and again under load, by itself as after an upgrade. All that runs
keeps its pid, each line is there once and in order, and neither daemon nor guard has grown.

    python -m tests.faults.reexec [TIMES]
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oxmgr.client.connection import connect
from oxmgr.client.launch import daemon_argv
from oxmgr.model.messages import Act, ReplaceDaemon
from tests.conftest import Home, wait_until

COUNTS = 'i=0; while :; do echo "$i"; i=$((i+1)); sleep 0.002; done'
GROWTH = 1024
"""KB that a daemon may have more after many than after one: what its logs and its journal are at that moment."""


def guard_pid(home: Home) -> int:
    guard = home.about_daemon().guard
    assert guard is not None
    return guard


def is_in_order(home: Home, name: str) -> bool:
    """Each line once; the last one may be on its way."""
    lines = home.log(name).split("\n")[:-1]
    return [int(line) for line in lines] == list(range(len(lines))) and bool(lines)


def reexec(home: Home) -> None:
    connection = connect(home.places)
    try:
        connection.request(ReplaceDaemon(daemon_argv()))
        connection.wait_for_end()
    finally:
        connection.close()


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """KB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))


def replace_often(home: Home, times: int, progress: Callable[[int], None] = lambda number: None) -> int:
    """The number of lines that were printed meanwhile."""
    apps = [home.sh(f"app{number}", COUNTS) for number in range(4)]
    home.apply(*apps, home.sh("dies", "sleep 0.05; exit 7", restart="always", restart_delay_ms=20))
    names = [app.name for app in apps]
    pids = {name: home.pid(name) for name in names}
    daemon, guard = home.about_daemon().pid, guard_pid(home)

    def open_files() -> tuple[int, int]:
        """When all that was asked before is done with."""
        home.views()
        return fds(daemon), fds(guard)

    for _ in range(5):
        reexec(home)
    # Of all that "dies" goes through: it has more while it runs than while it waits.
    seen, memory, restarts = [open_files()], resident(daemon), home.views()["dies"].restarts
    home.until("dies", lambda view: (seen.append(open_files()), view.restarts > restarts + 1)[1])  # type: ignore[func-returns-value]
    most = max(mine for mine, _ in seen), max(its for _, its in seen)
    for number in range(1, times + 1):
        reexec(home)
        view = home.about_daemon()
        assert (view.pid, view.guard) == (daemon, guard)
        assert {name: home.pid(name) for name in names} == pids
        progress(number)
    wait_until(
        lambda: all(now <= before for now, before in zip(open_files(), most, strict=True)),
        f"no more than {most}, now {open_files()}",
    )
    assert resident(daemon) < memory + GROWTH, (resident(daemon), memory)
    # How it ended is known each time that it is known that it did.
    assert home.views()["dies"].exit_code == 7 and home.views()["dies"].signal is None
    home.request(Act("stop", ["all"]))
    assert all(is_in_order(home, name) for name in names)
    return sum(len(home.log(name).split()) for name in names)


def main(times: int = 1000) -> int:
    folder = Path(tempfile.mkdtemp(prefix="ox-"))
    home = Home(folder)
    home.guarded = True
    begun = time.monotonic()
    try:
        home.start_daemon()
        lines = replace_often(home, times)
    finally:
        home.end()
        home.end_cgroups()
        shutil.rmtree(folder)
    seconds = time.monotonic() - begun
    print(f"{times} replacements, {lines} lines: same pids, each line once, no fd and no memory more; {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

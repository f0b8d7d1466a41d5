"""`make campaign`: millions of numbered lines, while the daemon is killed again and again, logs are rotated and
compressed, and the disk is full for a while. Each line has to be there once, in order.

    python -m tests.faults.campaign [LINES [KILLS]]
"""

import gzip
import itertools
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from oxmgr.model.spec import NEVER, Logs, Spec
from tests.conftest import Home, wait_until
from tests.unit.logs import rotated_files

HERE = Path(__file__).resolve().parent
FORMS = ("raw", "cri")
PATIENCE = 300.0


def build_printer(folder: Path) -> str:
    path = folder / "printer"
    subprocess.run(["cc", "-O2", "-o", path, HERE / "printer.c"], check=True)
    return str(path)


def printed(log: str, form: str) -> Iterator[int]:
    """The number of each line that a log and its rotated files hold."""
    for path in [*rotated_files(log), log]:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            for line in file:
                text = line if form == "raw" else line.split(b" ", 3)[3]
                assert line.endswith(b"\n") and (form == "raw" or b" F " in line), (path, line)
                yield int(text[:10])


def check(log: str, form: str, lines: int) -> None:
    """Each once, in order."""
    expected = 0
    for number in printed(log, form):
        assert number == expected, f"line {number} where {expected} was to come"
        expected += 1
    assert expected == lines, f"{expected} of {lines} lines"


def campaign(home: Home, form: str, *, lines: int, kills: int, pause: int, size_mb: float, seed: int = 1) -> int:
    """The number of rotations. The log folder is a disk of its own, so that it can be made too small."""
    dice = random.Random(seed)
    logs = Path(home.places.logs)
    logs.mkdir(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=700", "tmpfs", logs], check=True)
    try:
        home.start_daemon()
        argv = [build_printer(home.folder), str(lines), str(pause)]
        settings = Logs(format=form, max_size_mb=size_mb, max_files=100_000)
        home.apply(Spec("app", " ".join(argv), argv, str(home.folder), logs=settings, restart=NEVER))
        log = f"{logs}/app.out.log"
        full_at = kills // 2
        for kill in range(kills):
            # As long as it takes for something to be half-way done, each time another.
            select.select([], [], [], dice.random() * 0.05)
            if kill == full_at:
                be_full_for_a_while(home, logs)
            home.kill_daemon()
            home.start_daemon()
        assert home.views()["app"].status == "running", "all was printed before the last kill: make it print slower"
        wait_until(lambda: home.views()["app"].status == "exited", "its end", PATIENCE)
        assert home.views()["app"].exit_code in (0, None)
        wait_until(lambda: all(one.endswith(".gz") for one in rotated_files(log)), "the compression", PATIENCE)
        assert not [one for one in os.listdir(logs) if one.endswith((".part", "~next"))]
        check(log, form, lines)
        rotations = len(rotated_files(log))
        home.apply(prune=True)
        home.stop_daemon()
    finally:
        subprocess.run(["umount", "--lazy", logs], check=True)
    return rotations


def be_full_for_a_while(home: Home, disk: Path) -> None:
    # What nobody writes to keeps its size until the disk has got its own.
    home.kill_daemon()
    found = os.statvfs(disk)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + 65536}", disk], check=True)
    home.start_daemon()
    wait_until(lambda: "No space left" in "".join(home.views()["app"].warnings), "the disk to be full", PATIENCE)
    home.kill_daemon()
    home.start_daemon()
    wait_until(lambda: "No space left" in "".join(home.views()["app"].warnings), "the next one to find it so")
    subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
    wait_until(lambda: not home.views()["app"].warnings, "all to flow again")


def main(lines: int = 3_000_000, kills: int = 200) -> int:
    for form, seed in zip(FORMS, itertools.count(1), strict=False):
        folder = Path(tempfile.mkdtemp(prefix="ox-"))
        home = Home(folder)
        begun = time.monotonic()
        try:
            rotations = campaign(home, form, lines=lines, kills=kills, pause=1000, size_mb=4, seed=seed)
        finally:
            home.end()
            home.end_cgroups()
            shutil.rmtree(folder)
        seconds = time.monotonic() - begun
        print(
            f"{form}: {lines} lines, {kills} kills, {rotations} rotations, a full disk: each line once, in order; "
            f"{seconds:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

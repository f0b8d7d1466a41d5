"""`make bench-peers`: the same lines through oxmgr, `cat > file` and other loggers, in turn, in one run.

Of each: MiB a second from the first line to the last one in its file, the logger's own CPU seconds a GiB, and how many
lines were missing in the end. s6-log, svlogd and multilog are Debian's packages s6, runit and daemontools; supervisord
and PM2 are installed into build/peers.
"""

import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oxmgr.model.spec import NEVER, Logs, Spec
from tests.bench.__main__ import Bench, machine, until
from tests.bench.logs import TICKS, build_flood

MIB = 200
ROUNDS = 3
CHUNK, LINE = 32_700, 100
TOTAL = -(-MIB * 1024 * 1024 // CHUNK) * CHUNK
BUILD = Path(__file__).resolve().parent.parent.parent / "build" / "peers"
PATIENCE = 180.0
STILL = 5.0
"""Seconds without another byte after which what is missing counts as lost."""

Sample = tuple[float, float, int]
"""(seconds, CPU seconds of the logger, bytes that arrived)."""


def size_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def arrived(size: Callable[[], int]) -> tuple[float, int]:
    """Seconds until all bytes are there or no more come, and how many came."""
    begun = last_time = time.monotonic()
    last = 0
    while time.monotonic() - begun < PATIENCE:
        now = size()
        if now >= TOTAL:
            return time.monotonic() - begun, now
        if now != last:
            last, last_time = now, time.monotonic()
        elif time.monotonic() - last_time > STILL:
            break
        select.select([], [], [], 0.001)
    return last_time - begun, last


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def piped(bench: Bench, argv: list[str], folder: Path, counted: Path) -> Sample:
    """A logger that reads its standard input."""
    begun = time.monotonic()
    with subprocess.Popen([build_flood(bench), str(MIB)], stdout=subprocess.PIPE) as flood:
        logger = subprocess.Popen(argv, stdin=flood.stdout, cwd=folder, stderr=subprocess.DEVNULL)
        assert flood.stdout is not None
        flood.stdout.close()
        _, _, usage = os.wait4(logger.pid, 0)
        logger.returncode = 0
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, size_below(counted)


def cat(bench: Bench, folder: Path) -> Sample:
    return piped(bench, ["sh", "-c", "exec cat > out/all"], folder, folder / "out")


def s6_log(bench: Bench, folder: Path) -> Sample:
    return piped(bench, ["s6-log", "-b", "n1000", "s268435455", str(folder / "out")], folder, folder / "out")


def svlogd(bench: Bench, folder: Path) -> Sample:
    (folder / "out" / "config").write_text("s1000000000\nn0\n")
    seconds, cpu, size = piped(bench, ["svlogd", str(folder / "out")], folder, folder / "out")
    return seconds, cpu, size - (folder / "out" / "config").stat().st_size


def multilog(bench: Bench, folder: Path) -> Sample:
    return piped(bench, ["multilog", "n1000", "s16777215", str(folder / "out")], folder, folder / "out")


def supervisord(bench: Bench, folder: Path) -> Sample:
    conf = folder / "supervisord.conf"
    conf.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={folder}/own.log\npidfile={folder}/own.pid\n"
        f"[program:flood]\ncommand={build_flood(bench)} {MIB}\nautorestart=false\nstartsecs=0\n"
        f"stdout_logfile={folder}/out/all\nstdout_logfile_maxbytes=0\n"
    )
    own = subprocess.Popen(
        [str(BUILD / "venv/bin/supervisord"), "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: size_below(folder / "out"), "supervisord's first line")
    before = cpu_of(own.pid)
    seconds, size = arrived(lambda: size_below(folder / "out"))
    cpu = cpu_of(own.pid) - before
    own.terminate()
    own.wait()
    return seconds, cpu, size


def pm2(bench: Bench, folder: Path) -> Sample:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PM2_HOME": str(folder / "home")}
    command = str(BUILD / "node_modules/.bin/pm2")

    def run(*words: str) -> None:
        subprocess.run([command, *words], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run("ping")
    daemon = int((folder / "home" / "pm2.pid").read_text())
    before, out = cpu_of(daemon), folder / "out" / "all"
    starting = subprocess.Popen(
        [command, "start", build_flood(bench), "--no-autorestart", "-o", str(out), "-e", "/dev/null", "--", str(MIB)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: size_below(folder / "out"), "PM2's first line")
    seconds, size = arrived(lambda: size_below(folder / "out"))
    cpu = cpu_of(daemon) - before
    starting.wait()
    run("kill")
    return seconds, cpu, size


def oxmgr(form: str) -> "Callable[[Bench, Path], Sample]":
    def measure(bench: Bench, folder: Path) -> Sample:
        argv = [build_flood(bench), str(MIB)]
        logs = Logs(format=form, compress=False, max_size_mb=0)
        before, begun = cpu_of(bench.daemon.pid), time.monotonic()
        spec = Spec("flood", "flood", argv, str(folder), restart=NEVER, logs=logs, log_file=str(folder / "out" / "all"))
        bench.apply(spec)
        until(lambda: bench.views()[0].status == "exited", "the end of the flood")
        seconds, cpu = time.monotonic() - begun, cpu_of(bench.daemon.pid) - before
        bench.apply(prune=True)
        lines = (folder / "out" / "all").read_bytes().count(b"\n")
        return seconds, cpu, lines * LINE

    return measure


PEERS: "dict[str, Callable[[Bench, Path], Sample]]" = {
    "cat > file": cat,
    "oxmgr raw": oxmgr("raw"),
    "oxmgr cri": oxmgr("cri"),
    "s6-log -b": s6_log,
    "svlogd": svlogd,
    "multilog": multilog,
    "supervisord": supervisord,
    "PM2": pm2,
}


def install() -> None:
    missing = [name for name in ("s6-log", "svlogd", "multilog") if not shutil.which(name)]
    if missing:
        sys.exit(f"{', '.join(missing)} are not here: apt-get install s6 runit daemontools")
    if not (BUILD / "venv/bin/supervisord").exists():
        subprocess.run([sys.executable, "-m", "venv", str(BUILD / "venv")], check=True)
        subprocess.run([str(BUILD / "venv/bin/pip"), "install", "-q", "supervisor"], check=True)
    if not (BUILD / "node_modules/.bin/pm2").exists():
        words = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(BUILD), "pm2"]
        subprocess.run(words, check=True)


@contextmanager
def fresh_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="oxpeers-"))
    (folder / "out").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> None:
    install()
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    with fresh_folder() as home:
        bench = Bench(home)
        try:
            samples: dict[str, list[Sample]] = {name: [] for name in PEERS}
            # In turn, so that what else the machine does falls on all of them.
            for _ in range(ROUNDS):
                for name, measure in PEERS.items():
                    with fresh_folder() as folder:
                        samples[name].append(measure(bench, folder))
        finally:
            bench.end()
    print(f"{'':14} {'MiB/s':>8} {'CPU s/GiB':>10} {'lines missing':>14}")
    for name, found in samples.items():
        speed = statistics.median(size / 1024 / 1024 / seconds for seconds, _, size in found)
        cpu = statistics.median(spent * 1024 * 1024 * 1024 / max(size, 1) for _, spent, size in found)
        lost = max((TOTAL - size) // LINE for _, _, size in found)
        print(f"{name:14} {speed:8.0f} {cpu:10.2f} {max(0, lost):14}")


if __name__ == "__main__":
    main()

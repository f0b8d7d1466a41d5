"""Figures of logs: how fast lines pass, what a gigabyte costs, and who waits while another floods."""

import os
import statistics
import subprocess
import time
from pathlib import Path

from oxmgr.model.spec import NEVER, Logs, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.__main__ import Bench

HERE = Path(__file__).resolve().parent
MIB = 400
ROUNDS = 5
TICKS = os.sysconf("SC_CLK_TCK")
FORMS = ("raw", "cri", "json")


def throughput(bench: "Bench", until: "Callable[[Callable[[], object], str], None]") -> None:
    """In turn with `cat > file`, so that what else the machine does falls on all of them."""
    flood = build_flood(bench)
    took: dict[str, list[float]] = {name: [] for name in ("cat", *FORMS)}
    cpu: dict[str, float] = dict.fromkeys(took, 0.0)
    target = bench.folder / "flooded"
    for _ in range(ROUNDS):
        begun, before = time.monotonic(), os.times()
        subprocess.run(["sh", "-c", f"{flood} {MIB} | cat > {target}"], check=True)
        took["cat"].append(time.monotonic() - begun)
        cpu["cat"] += sum(os.times()[2:4]) - sum(before[2:4])
        target.unlink()
        for form in FORMS:
            spent, begun = daemon_cpu(bench), time.monotonic()
            logs = Logs(format=form, compress=False, max_size_mb=100, max_files=1)
            argv = [flood, str(MIB)]
            bench.apply(Spec("flood", "flood", argv, str(bench.folder), restart=NEVER, logs=logs))
            until(lambda: bench.views()[0].status == "exited", "the end of the flood")
            took[form].append(time.monotonic() - begun)
            cpu[form] += daemon_cpu(bench) - spent
            bench.apply(prune=True)
            for path in Path(bench.places.logs).glob("flood.*"):
                path.unlink()
    floor = MIB / statistics.median(took["cat"])
    for form in FORMS:
        speed = MIB / statistics.median(took[form])
        a_gigabyte = cpu[form] / ROUNDS / MIB * 1024
        bench.note(
            f"lines of 100 bytes into a {form} log",
            f"{speed:.0f} MiB/s, {a_gigabyte:.2f} s of CPU a GiB",
            f"cat {floor:.0f} MiB/s" + ("; ≥ 0.8 of it" if form == "raw" else ""),
            mib_per_second=speed,
            cat=floor,
            cpu_seconds_a_gib=a_gigabyte,
        )


def beside_a_flood(bench: "Bench", crash: "Callable[[Path], float]", spread: "Callable[..., dict[str, float]]") -> None:
    """Restarts of an app while another prints as fast as it can."""
    stamps = bench.folder / "beside"
    flood = build_flood(bench)
    for form in ("raw", "cri"):
        stamps.unlink(missing_ok=True)
        logs = Logs(format=form, compress=False, max_size_mb=100, max_files=1)
        bench.apply(
            Spec("flood", "flood", [flood, "0"], str(bench.folder), logs=logs),
            Spec(
                "stamp", "stamp", [str(bench.folder / "stamp"), str(stamps)], str(bench.folder), restart_delay_max_ms=0
            ),
        )
        found = spread([crash(stamps) for _ in range(200)])
        bench.apply(prune=True)
        bench.note(
            f"crash → first instruction, beside a flood into a {form} log",
            f"p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f} ms",
            "p99 ≤ 5 ms",
            oxmgr=found,
        )


def build_flood(bench: "Bench") -> str:
    path = bench.folder / "flood"
    if not path.exists():
        subprocess.run(["cc", "-O2", "-o", str(path), str(HERE / "flood.c")], check=True)
    return str(path)


def daemon_cpu(bench: "Bench") -> float:
    """Seconds of the daemon alone."""
    fields = Path(f"/proc/{bench.daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS

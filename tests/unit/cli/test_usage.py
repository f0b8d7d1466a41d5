"""What is read of trees: from folders with the files of a cgroup, and of this very process."""

import os
from pathlib import Path
from typing import Any

import pytest

from oxmgr.cli import details, usage
from oxmgr.cli.cmd_status import _usage_rows
from oxmgr.cli.details import LimitUse, Pressure, Usage, look_closely
from oxmgr.model.messages import InstanceView
from tests.unit.cli.conftest import view

MIB = 1024 * 1024
MEMORY_STAT = f"anon 4096\nfile 8192\ninactive_anon 7\nactive_anon 5\ninactive_file {3 * MIB}\nactive_file 9\n"
CPU_STAT = "usage_usec 5000000\nuser_usec 1\nsystem_usec 2\nnr_periods 40\nnr_throttled 12\nthrottled_usec 1340000\n"
PRESSURE = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10={} avg60=0.00 avg300=0.00 total=1\n"


def cgroup(folder: Path, **files: str) -> str:
    """A folder with these files (`_` for `.`); a process of ours is in it."""
    folder.mkdir(exist_ok=True)
    for name, text in {"cgroup_procs": f"{os.getpid()}\n", **files}.items():
        (folder / name.replace("_", ".")).write_text(text)
    return str(folder)


def ours(path: str | None, **keys: object) -> InstanceView:
    return view(pid=os.getpid(), cgroup=path, **keys)


# --- for a list ---


def test_without_a_cgroup_it_is_what_proc_tells_of_the_tree() -> None:
    own, none = ours(None), view(pid=None)
    usage.add_usage([own, none])
    assert own.memory_bytes is not None and own.memory_bytes > MIB and (own.tasks or 0) >= 1
    assert own.cpu_percent is not None and own.cpu_percent >= 0
    assert (none.memory_bytes, none.tasks, none.cpu_percent) == (None, None, None)


def test_memory_is_without_the_pages_of_files_that_are_not_used(tmp_path: Path) -> None:
    one = ours(cgroup(tmp_path, memory_current=f"{10 * MIB}\n", memory_stat=MEMORY_STAT))
    usage.add_usage([one])
    assert one.memory_bytes == 7 * MIB


def test_memory_without_the_controller_is_the_resident_pages(tmp_path: Path) -> None:
    one, other = ours(cgroup(tmp_path)), ours(None)
    usage.add_usage([one])
    usage.add_usage([other])
    assert one.memory_bytes and other.memory_bytes and abs(one.memory_bytes - other.memory_bytes) < 16 * MIB


def test_cpu_time_of_an_earlier_main_process_does_not_count(tmp_path: Path) -> None:
    # A thousand hours of it, by the cgroup.
    one = ours(cgroup(tmp_path, cpu_stat="usage_usec 3600000000000\n"))
    usage.add_usage([one])
    assert one.cpu_percent is not None and one.cpu_percent < 1000 * (os.cpu_count() or 1)


def test_what_is_in_a_cgroup_below_belongs_to_it(tmp_path: Path) -> None:
    path = cgroup(tmp_path, cgroup_procs="1\n2\n")
    cgroup(tmp_path / "inner", cgroup_procs="3\n")
    cgroup(tmp_path / "inner" / "most", cgroup_procs="")
    assert usage.members_of(path) == [1, 2, 3]
    assert usage.members_of(f"{path}/nosuch") is None


def test_a_cgroup_of_thousands_is_read_whole(tmp_path: Path) -> None:
    pids = list(range(1, 30_000))
    assert usage.members_of(cgroup(tmp_path, cgroup_procs="".join(f"{pid}\n" for pid in pids))) == pids


def test_a_cgroup_that_is_gone_is_no_reason_to_tell_nothing(tmp_path: Path) -> None:
    one = ours(str(tmp_path / "nosuch"))
    usage.add_usage([one])
    assert one.memory_bytes and one.tasks


# --- for a status ---


def nothing_known(**keys: Any) -> Usage:
    empty: dict[str, Any] = dict.fromkeys(Usage.__struct_fields__)
    return Usage(**empty | {"oom_kills": 0, "limits": {}, "warnings": []} | keys)


def test_all_that_a_cgroup_tells_is_told(tmp_path: Path) -> None:
    limits = {"memory_mb": 100.0, "memory_max_mb": 200.0, "tasks_max": 50.0, "open_files": 999.0, "cpus": "0-1"}
    path = cgroup(
        tmp_path,
        memory_current=f"{10 * MIB}\n",
        memory_stat=MEMORY_STAT,
        memory_peak=f"{60 * MIB}\n",
        memory_swap_current=f"{2 * MIB}\n",
        pids_current="7\n",
        cpu_stat=CPU_STAT,
        memory_pressure=PRESSURE.format("1.50", "0.25"),
        io_pressure=PRESSURE.format("0.00", "0.00"),
    )
    one = ours(path, limits=limits, oom_kills=3, warnings=["one"])
    (told,) = look_closely([one])
    assert (told.memory_bytes, told.memory_peak_bytes, told.swap_bytes, told.tasks) == (7 * MIB, 60 * MIB, 2 * MIB, 7)
    assert (told.throttled_periods, told.throttled_usec) == (12, 1340000)
    assert (told.memory_pressure, told.io_pressure) == (Pressure(1.5, 0.25), Pressure(0.0, 0.0))
    assert told.cpu_pressure is None
    # Nothing was used in between, by the file that does not change.
    assert told.cpu_percent_now == 0.0 and told.cpu_percent_since_start == one.cpu_percent
    assert (told.oom_kills, told.warnings) == (3, ["one"])
    files = told.limits.pop("open_files")
    assert files.limit == 999.0 and files.used is not None and files.used >= 3
    assert told.limits == {
        "memory_mb": LimitUse(100.0, 7.0),
        "memory_max_mb": LimitUse(200.0, 10.0),
        "tasks_max": LimitUse(50.0, 7),
        "cpus": LimitUse("0-1", None),
    }


def test_what_is_not_known_is_null_and_nobody_waits_for_what_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details, "BETWEEN", 1e9)
    (told,) = look_closely([view(pid=None, limits={"tasks_max": 5.0})])
    assert told == nothing_known(limits={"tasks_max": LimitUse(5.0, None)})
    # Of one that waits for its restart, what was counted until now is there.
    path = cgroup(tmp_path, memory_peak=f"{60 * MIB}\n", cpu_stat=CPU_STAT)
    (told,) = look_closely([view(pid=None, cgroup=path)])
    assert (told.memory_peak_bytes, told.throttled_periods, told.memory_bytes) == (60 * MIB, 12, None)


def test_people_are_told_what_is_worth_a_line() -> None:
    assert [row for row in _usage_rows(nothing_known()) if row[1] is not None] == []
    full = Usage(
        cpu_percent_now=12.34,
        cpu_percent_since_start=5.0,
        memory_bytes=7 * MIB,
        memory_peak_bytes=60 * MIB,
        swap_bytes=0,
        tasks=7,
        throttled_periods=1,
        throttled_usec=1340000,
        memory_pressure=Pressure(1.5, 0.25),
        cpu_pressure=Pressure(2.0, None),
        io_pressure=Pressure(0.0, 0.0),
        oom_kills=2,
        limits={"memory_max_mb": LimitUse(64.0, 12.5), "cpus": LimitUse("0-1", None)},
        warnings=[],
    )
    assert [row for row in _usage_rows(full) if row[1] is not None] == [
        ("cpu", "12.3% of a core now, 5.0% since its start"),
        ("memory", "7.0 MB"),
        ("peak", "60.0 MB"),
        ("tasks", "7"),
        ("throttled", "1 time, 1.3 s in all"),
        ("pressure", "memory: some 1.50%, full 0.25% of the last 10 s"),
        ("pressure", "cpu: some 2.00% of the last 10 s"),
        ("oom kills", "2"),
        ("limit", "memory_max_mb 64, uses 12.5"),
        ("limit", "cpus 0-1"),
    ]

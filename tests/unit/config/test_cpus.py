"""How many CPUs `"max"` means."""

import os
from pathlib import Path

import pytest

from oxmgr.config.cpus import count_cpus


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process in /a/b of a cgroup tree, on 8 CPUs."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "own").write_text("12:cpu:/else\n0::/a/b\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


def count(folder: Path) -> int:
    return count_cpus(str(folder), str(folder / "own"))


@pytest.mark.parametrize(
    ("own", "above", "cpus"),
    [
        ("max 100000", "max 100000", 8),
        ("250000 100000", "max 100000", 3),
        ("max 100000", "200000 100000", 2),
        ("400000 100000", "200000 100000", 2),
        ("50000 100000", "max 100000", 1),
        ("9999999 100000", "max 100000", 8),
        ("rubbish", "max 100000", 8),
    ],
)
def test_the_smallest_quota_above_counts_rounded_up(cgroups: Path, own: str, above: str, cpus: int) -> None:
    (cgroups / "a" / "b" / "cpu.max").write_text(own)
    (cgroups / "a" / "cpu.max").write_text(above)
    assert count(cgroups) == cpus


def test_without_cgroups_the_affinity_counts(cgroups: Path) -> None:
    assert count(cgroups) == 8
    assert count_cpus(str(cgroups), str(cgroups / "nosuch")) == 8


def test_of_this_machine_it_is_something() -> None:
    assert 1 <= count_cpus() <= len(os.sched_getaffinity(0))

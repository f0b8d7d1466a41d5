"""How many CPUs `"max"` means, and lists of CPUs."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.config.cpus import count_cpus, host_cpus, read_cpus, show_cpus


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


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("0", "0"),
        ("0-3,8", "0-3,8"),
        ("8,0-3", "0-3,8"),
        ("0,1,2", "0-2"),
        ("0-3,2-5", "0-5"),
        ("5-5", "5"),
        (" 0 - 1 , 3 ", "0-1,3"),
    ],
)
def test_a_list_is_taken_in_its_shortest_form(text: str, shortest: str) -> None:
    assert read_cpus(text, set(range(10))) == shortest


@given(st.sets(st.integers(0, 40), min_size=1))
def test_what_is_shown_reads_as_the_same(cpus: set[int]) -> None:
    assert read_cpus(show_cpus(cpus), cpus) == show_cpus(cpus)


@pytest.mark.parametrize("text", ["", ",", "0,", "-1", "1-", "1-2-3", "0x1", "a", "0-3:2/4", "²", "0 1", "9" * 5000])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r'expected CPUs as "0-3,8", got'):
        read_cpus(text, {0, 1, 2, 3})


def test_a_cpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="this host has no CPU 2: it has 0-1,4"):
        read_cpus("0-999999999", {0, 1, 4})
    with pytest.raises(ValueError, match="the range 3-1 goes backwards: write 1-3"):
        read_cpus("3-1", {0})


def test_the_cpus_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "present").write_text("0-2,5\n")
    assert host_cpus(str(tmp_path / "present")) == {0, 1, 2, 5}
    (tmp_path / "present").write_text("rubbish")
    assert host_cpus(str(tmp_path / "present")) == os.sched_getaffinity(0)
    assert host_cpus(str(tmp_path / "nosuch")) == os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) <= host_cpus()

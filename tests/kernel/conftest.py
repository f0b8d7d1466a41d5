"""The suite that runs in the VM, as root, with the whole of cgroup v2 to itself; `make kernel-test` boots it.

Elsewhere its files are not even collected: nothing here may act on the cgroups of a machine that somebody needs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.kernel.systemd import CGROUPS, Systemd

# The release of the kernel that was booted for this; set by what booted it.
KERNEL = os.environ.get("KERNEL_VM")
if KERNEL is None:
    collect_ignore_glob = ["test_*.py"]


def processes() -> dict[int, str]:
    """All but the kernel's own."""
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = int(stat[stat.rindex(")") + 1 :].split()[1])
        if pid != 2 and parent != 2:
            found[pid] = argv or stat
    return found


def cgroups() -> set[str]:
    return {folder for folder, _, _ in os.walk(CGROUPS)}


@pytest.fixture(scope="session", autouse=True)
def nothing_left_in_the_guest() -> Iterator[None]:
    """The suite's last word, pass or fail: no process and no cgroup is there that was not at its start."""
    if os.uname().release != KERNEL:
        pytest.exit("not in the VM: this suite is started by `make kernel-test`", returncode=1)
    known_processes, known_cgroups = processes(), cgroups()
    yield

    def left() -> list[str]:
        new = [f"process {pid}: {argv}" for pid, argv in processes().items() if pid not in known_processes]
        return new + [f"cgroup {folder}" for folder in sorted(cgroups() - known_cgroups)]

    try:
        wait_until(lambda: not left(), "everything has ended")
    except AssertionError:
        raise AssertionError("left behind by the suite:\n" + "\n".join(left())) from None


@pytest.fixture(scope="session")
def booted_systemd(nothing_left_in_the_guest: None) -> Iterator[Systemd]:
    # Services that run as a user have to read what is in it.
    folder = Path("/run/tests/systemd")
    folder.mkdir(0o755)
    systemd = Systemd(folder)
    try:
        systemd.wait_until_up()
        yield systemd
    finally:
        systemd.end()


@pytest.fixture
def systemd(booted_systemd: Systemd) -> Iterator[Systemd]:
    """Runs commands as services; those of a test are stopped at its end. It boots for the first test that asks."""
    yield booted_systemd
    booted_systemd.stop_all()

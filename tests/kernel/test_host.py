"""The guest is what the rest of the suite takes for granted."""

import errno
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

import oxmgr._native
from tests.conftest import wait_until
from tests.kernel.conftest import KERNEL
from tests.kernel.marks import MARKED, REPOSITORY
from tests.kernel.systemd import CGROUPS, CONTROLLERS


def test_the_kernel_is_the_one_that_was_downloaded() -> None:
    assert os.uname().release == KERNEL
    assert (Path("/lib/modules") / os.uname().release / "modules.dep").exists()


def test_cgroup_v2_is_the_only_hierarchy() -> None:
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [(of.split()[0], where.split()[4]) for where, of in mounts if of.startswith("cgroup")]
    assert found == [("cgroup2", str(CGROUPS))]
    assert Path("/proc/self/cgroup").read_text() == "0::/\n"


def test_all_controllers_can_be_had() -> None:
    assert set(CONTROLLERS) <= set((CGROUPS / "cgroup.controllers").read_text().split())


def test_pressure_is_measured() -> None:
    assert Path("/proc/pressure/memory").read_text().startswith("some avg10=")


def test_the_suite_is_root_with_every_capability() -> None:
    assert os.getuid() == 0
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert int(status["CapEff"], 16) == (1 << last + 1) - 1


def test_two_cpus_and_a_gigabyte() -> None:
    assert os.sched_getaffinity(0) == {0, 1}
    assert 900 << 20 < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") <= 1 << 30


def test_the_extension_is_the_one_of_the_repository() -> None:
    assert Path(oxmgr._native.__file__).parent == REPOSITORY / "oxmgr"


def test_the_loopback_is_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        server.accept()[0].close()
        assert client.recv(1) == b""


def test_a_cgroup_takes_a_child_and_kills_it() -> None:
    cgroup = CGROUPS / "test"
    cgroup.mkdir()
    try:
        child = subprocess.Popen(["sleep", "1000"])
        (cgroup / "cgroup.procs").write_text(str(child.pid))
        assert Path(f"/proc/{child.pid}/cgroup").read_text() == "0::/test\n"
        (cgroup / "cgroup.kill").write_text("1")
        assert child.wait(10) == -signal.SIGKILL
        wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), "the cgroup is empty")
    finally:
        cgroup.rmdir()


def test_what_is_written_stays_in_the_guest() -> None:
    """The other half is the host's: when the VM is gone, it looks for these files in the same places."""
    refused = []
    for place in MARKED:
        try:
            (place / os.environ["WRITTEN_IN_THE_GUEST"]).touch()
        except OSError:
            refused.append(place)
    assert Path("/") in refused
    assert Path("/usr") not in refused, "an overlay takes it"


def test_the_host_refuses_writes_even_if_the_guest_mounts_its_files_for_writing() -> None:
    subprocess.run(["mount", "-o", "remount,rw", "/run/root"], check=True)
    try:
        with pytest.raises(OSError) as refused:
            (Path("/run/root/tmp") / os.environ["WRITTEN_IN_THE_GUEST"]).touch()
        assert refused.value.errno == errno.EROFS
    finally:
        subprocess.run(["mount", "-o", "remount,ro", "/run/root"], check=True)

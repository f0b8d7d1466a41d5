"""The extension: a child's user, groups, capabilities, mounts, network and cgroup. Also run under the sanitizers.

Needs root, as the checks' own machine gives it: who is not root cannot give rights away.
"""

import errno
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _prctl
import pytest

from oxmgr.model.capabilities import capability_mask
from oxmgr.supervisor import native
from tests.unit.test_native import output, rung, spawn, wait

__all__ = ["rung"]

NOBODY = 65534
PR_GET_DUMPABLE = 3


def status(**keys: object) -> dict[str, str]:
    """The child's own /proc/self/status."""
    text = output("cat", "/proc/self/status", **keys)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_a_user_and_its_groups_are_all_that_is_left(rung: int) -> None:
    seen = status(uid=NOBODY, gid=NOBODY, groups=[7, 9])
    assert seen["Uid"].split() == seen["Gid"].split() == [str(NOBODY)] * 4
    assert seen["Groups"] == "7 9"
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapAmb", "CapInh")} == {0}


def test_a_group_alone_can_be_changed(rung: int) -> None:
    seen = status(gid=7)
    assert seen["Gid"].split() == ["7"] * 4 and seen["Groups"] == "" and seen["Uid"].split() == ["0"] * 4


def test_a_user_has_the_capabilities_that_were_given_and_can_never_have_others(rung: int) -> None:
    mask = capability_mask(["CAP_NET_BIND_SERVICE", "CAP_CHOWN"])
    seen = status(uid=NOBODY, gid=NOBODY, capabilities=mask)
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapAmb", "CapInh", "CapBnd")} == {mask}


def test_root_can_be_left_with_few_capabilities_or_none(rung: int) -> None:
    mask = capability_mask(["CAP_KILL"])
    assert int(status(capabilities=mask)["CapEff"], 16) == mask
    seen = status(capabilities=0)
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapAmb", "CapBnd")} == {0}


def test_no_new_privileges(rung: int) -> None:
    assert status(no_new_privileges=True)["NoNewPrivs"] == "1"
    assert status()["NoNewPrivs"] == "0"


def test_a_capability_that_the_kernel_has_not_is_an_error_and_no_process(rung: int) -> None:
    with pytest.raises(native.SpawnError) as failed:
        spawn("true", uid=NOBODY, capabilities=1 << 62)
    assert (failed.value.step, failed.value.errno) == ("set its capabilities", errno.EINVAL)


def test_the_parent_stays_what_it_was(rung: int) -> None:
    def me() -> list[str]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(("Uid", "Gid", "Groups", "Cap", "NoNew", "Umask"))]

    before, mounts, owner = me(), Path("/proc/self/mountinfo").read_text(), os.stat("/proc/self/maps").st_uid
    status(uid=NOBODY, gid=NOBODY, groups=[], capabilities=0, no_new_privileges=True, mounts=b"t/mnt\0", umask=0o77)
    assert (me(), Path("/proc/self/mountinfo").read_text()) == (before, mounts)
    assert os.stat("/proc/self/maps").st_uid == owner
    assert _prctl.prctl(PR_GET_DUMPABLE, 0) == 1


def test_the_parent_stays_what_it_was_after_starts_beside_each_other(rung: int) -> None:
    def starts() -> None:
        for _ in range(50):
            _, pidfd = spawn("true", uid=NOBODY, gid=NOBODY)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)

    for _ in range(10):
        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(starts) for _ in range(3)]:
                done.result()
        assert _prctl.prctl(PR_GET_DUMPABLE, 0) == 1


def test_nice_and_oom_score(rung: int) -> None:
    text = output("sh", "-c", "cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat", nice=7, oom_score_adj=250)
    assert text.split() == ["250", "7"]
    assert output("cat", "/proc/self/oom_score_adj", oom_score_adj=1000, nice=-20).strip() == "1000"
    with pytest.raises(native.SpawnError, match="Invalid") as failed:
        spawn("true", oom_score_adj=1001)
    assert failed.value.step == "set its oom_score_adj"


# --- mounts ---


def test_an_own_tmp_is_empty_writable_for_all_and_nobody_else_sees_it(rung: int, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    kept = os.fsencode(tmp_path)
    script = f"ls -A {tmp_path}; touch {tmp_path}/mine; ls -A {tmp_path}; stat -c %a {tmp_path}"
    assert output("sh", "-c", script, mounts=b"t" + kept + b"\0", capabilities=0).split() == ["mine", "1777"]
    assert os.listdir(tmp_path) == ["here"]


def test_a_read_only_path_is_read_only_with_all_below_it(rung: int, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    ro = b"r" + os.fsencode(tmp_path) + b"\0"
    script = f"touch {tmp_path}/sub/x; touch {tmp_path}/x; echo done"
    assert output("sh", "-c", f"({script}) 2>&1 | grep -c 'Read-only file system'", mounts=ro).strip() == "2"
    assert os.listdir(tmp_path) == ["sub"] and os.listdir(tmp_path / "sub") == []


def test_an_own_tmp_below_a_read_only_path_can_be_written(rung: int, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    mounts = b"r%b\0t%b/tmp\0" % (os.fsencode(tmp_path), os.fsencode(tmp_path))
    assert output("sh", "-c", f"touch {tmp_path}/tmp/x && ls {tmp_path}/tmp", mounts=mounts).strip() == "x"


def test_a_hidden_folder_is_empty_and_a_hidden_device_is_null(rung: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("secret")
    mounts = b"h%b\0n/dev/zero\0" % os.fsencode(tmp_path)
    assert output("sh", "-c", f"ls -A {tmp_path}; head -c 5 /dev/zero | wc -c", mounts=mounts).split() == ["0"]


def test_a_mount_that_fails_is_told_by_its_number(rung: int, tmp_path: Path) -> None:
    mounts = b"t%b\0r/nowhere/at/all\0" % os.fsencode(tmp_path)
    with pytest.raises(native.SpawnError) as failed:
        spawn("true", mounts=mounts)
    assert (failed.value.step, failed.value.errno, failed.value.mount) == ("mount", errno.ENOENT, 1)


# --- network ---


def test_an_own_network_has_nothing_but_a_loopback_and_can_be_entered_by_others(rung: int) -> None:
    assert len(output("cat", "/proc/self/net/dev", network=native.OWN_NETWORK).splitlines()) == 3
    pid, pidfd = spawn("sleep", "1000", network=native.OWN_NETWORK)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inside = os.readlink(f"/proc/{pid}/ns/net")
    assert output("readlink", "/proc/self/ns/net", network=namespace).strip() == inside
    os.close(namespace)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait(pid, pidfd)
    assert inside != os.readlink("/proc/self/ns/net")


def test_what_is_no_network_is_refused(rung: int) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(native.SpawnError) as failed:
        spawn("true", network=null)
    os.close(null)
    assert failed.value.step == "enter its network namespace"


# --- cgroups: the core of v2 is enough ---


@pytest.fixture
def cgroup() -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    top = next(Path(words[4]) for words in mounts if "cgroup2" in words[words.index("-") :])
    folder = top / f"oxmgr-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    folder.rmdir()


def test_a_child_is_in_its_cgroup_from_its_first_instruction(rung: int, cgroup: Path) -> None:
    folder = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    text = output("sh", "-c", "cat /proc/self/cgroup", cgroup=folder, uid=NOBODY)
    os.close(folder)
    assert f"0::/{cgroup.name}" in text.splitlines()


def test_a_cgroup_that_is_gone_is_an_error_and_no_process(rung: int, cgroup: Path) -> None:
    gone = cgroup / "gone"
    gone.mkdir()
    folder = os.open(gone, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    gone.rmdir()
    with pytest.raises(native.SpawnError) as failed:
        spawn("true", cgroup=folder)
    assert failed.value.errno in (errno.ENOENT, errno.ENODEV)
    assert failed.value.step in ("make a process", "enter its cgroup")
    os.close(folder)
    assert native.reap() == []

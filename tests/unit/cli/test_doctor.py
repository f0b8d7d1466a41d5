"""What doctor makes of a daemon's word on this host."""

import os

from oxmgr.cli.cmd_doctor import OK, WARN, _rights_of, ladders, not_held, sandboxes
from oxmgr.model.messages import DaemonView
from tests.unit.cli.conftest import view

ALL = (1 << 41) - 1
CAP_SYS_ADMIN = 21


def test_the_step_of_each_ladder_is_told_in_one_order() -> None:
    told = {
        "limits": "memory, pids; not: cpu, cpuset, io",
        "kill": "cgroup.kill",
        "trees": "cgroup v2 at /sys/fs/cgroup/oxmgr",
        "spawn": "clone3 into the cgroup",
        "later": "something",
    }
    daemon = DaemonView(1, "0", 0.0, 0, 0, "", "", "", ladders=told)
    names = ["spawn", "trees", "kill", "limits", "later"]
    assert ladders(daemon) == [(OK, name, told[name]) for name in names]


def test_a_daemon_that_tells_nothing_is_no_fault() -> None:
    assert ladders(DaemonView(1, "0", 0.0, 0, 0, "", "", "")) == []


def test_sandboxes_need_root_and_its_capabilities() -> None:
    assert sandboxes(0, ALL)[0] == OK
    result, _, detail = sandboxes(0, ALL & ~(1 << CAP_SYS_ADMIN))
    assert result == WARN and "CAP_SYS_ADMIN (mounts and networks)" in detail and "CAP_SETUID" not in detail
    result, _, detail = sandboxes(1000, 0)
    assert result == WARN and "no_new_privileges" in detail


def test_what_an_app_does_not_get_is_told_once() -> None:
    views = [view(name=f"app:{number}", warnings=["limits.a is not held", "sandbox.b is not"]) for number in range(3)]
    assert not_held([*views, view(name="other", app="other")]) == [
        (WARN, "limits", "app: limits.a is not held"),
        (WARN, "sandbox", "app: sandbox.b is not"),
    ]


def test_whose_rights_a_process_has() -> None:
    uid, _ = _rights_of(os.getpid())
    assert uid == os.geteuid()
    assert _rights_of(-1) == (-1, 0)

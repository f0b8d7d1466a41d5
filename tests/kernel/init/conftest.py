"""What an app does that runs in a VM whose process 1 is oxmgr; tests/kernel/boots.py boots it."""

import os

import _prctl
import pytest

if "INIT_VM" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def nothing_left_in_the_guest() -> None:
    """The whole machine is ended after it, with all that is in it."""
    if os.readlink("/proc/1/exe").rpartition("/")[2] != "oxmgr-guard":
        pytest.exit("process 1 is not oxmgr's: this is run by `make kernel-test`", returncode=1)
    # Whoever loses its parent below this test is oxmgr's to reap, and not this test's as in others.
    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 0)

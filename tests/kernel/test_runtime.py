"""`oxmgr runtime` as process 1 of a pid namespace, on this kernel and with the whole of cgroup v2; all of its promises are
in tests/integration/test_runtime.py."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Home
from tests.containers import ORPHANS, Container
from tests.integration.test_runtime import LEFT, LOOP, oxfile, python, sh


@pytest.fixture
def container(empty_home: Home) -> Iterator[Container]:
    made = Container(empty_home)
    yield made
    made.end()


def test_orphans_are_reaped(container: Container) -> None:
    container.start(*python(ORPHANS.replace("1000", "200")))
    assert container.code() == 0 and container.printed == b"zombies 0\n"


def test_what_remains_of_the_command_is_asked_to_end_in_its_cgroup(container: Container) -> None:
    container.start(*python(LEFT))
    assert container.code() == 6 and container.printed == b"asked to end\n"


def test_a_killed_daemon_takes_the_cgroup_over(container: Container) -> None:
    container.start(*sh(f"trap 'exit 21' USR2; echo up; {LOOP}")).until("up")
    before = container.wait_until_up().home.views()["sh"]
    assert before.cgroup and Path(before.cgroup).is_dir()
    container.kill_daemon()
    after = container.home.views()["sh"]
    assert (after.pid, after.cgroup) == (before.pid, before.cgroup)
    container.kill(signal.SIGUSR2)
    assert container.code() == 21
    assert not os.path.exists(before.cgroup)


def test_limits_hold_in_a_container(container: Container) -> None:
    text = f'[processes.a]\ncommand = "echo up; {LOOP}"\nlimits = {{ tasks_max = 9 }}\n'
    container.start(oxfile(container, text)).until("a | up")
    cgroup = container.wait_until_up().home.views()["a"].cgroup
    assert cgroup and Path(f"{cgroup}/pids.max").read_text() == "9\n"
    container.kill(signal.SIGTERM)
    assert container.code() == 0

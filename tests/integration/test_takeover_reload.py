"""A daemon that dies in the midst of a reload: the pipes of the one that goes on stay open."""

import os
import signal

from oxmgr.model.messages import Act
from tests.conftest import Home, wait_until
from tests.integration.test_takeover import Interregnum, home

__all__ = ["home"]

SCRIPT = """
echo start $$
while [ -e {folder}/wait ]; do sleep 0.02; done
echo ready
trap 'exit 0' TERM
n=0
while :; do n=$((n+1)); echo $n; sleep 0.02; done
"""


def lines(home: Home) -> list[str]:
    return home.log("app").splitlines()


def test_when_the_new_one_died_with_the_daemon_the_old_one_goes_on_printing_and_can_be_stopped(home: Home) -> None:
    script = SCRIPT.format(folder=home.folder)
    home.apply(home.sh("app", script, ready="log:^ready$", ready_timeout_ms=20000))
    pid = home.pid("app")
    (home.folder / "wait").touch()
    home.connect()._send(Act("reload", ["app"]))
    wait_until(lambda: len([line for line in lines(home) if line.startswith("start")]) == 2, "the new one")
    other = int(next(line for line in reversed(lines(home)) if line.startswith("start")).split()[1])
    assert other != pid
    with Interregnum(home):
        os.kill(other, signal.SIGKILL)
    assert home.pid("app") == pid
    before = len(lines(home))
    wait_until(lambda: len(lines(home)) > before + 5, "what it prints then")
    assert home.request(Act("stop", ["app"])).failed == {}
    numbers = [int(line) for line in lines(home) if line.isdigit()]
    assert numbers == [*range(1, len(numbers) + 1)]

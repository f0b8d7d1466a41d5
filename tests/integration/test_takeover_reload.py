"""A daemon that dies in the midst of a reload: the pipes of the one that goes on stay open."""

import fcntl
import os
import signal
from pathlib import Path

from oxmgr.model.messages import Act
from oxmgr.model.spec import NEVER, Logs
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


REPLACED = """
if [ -e {folder}/second ]; then trap 'echo bye-new; exit 0' TERM; else
    touch {folder}/second
    until_there() {{ while [ ! -e {folder}/$1 ]; do sleep 0.02; done; }}
    trap 'touch {folder}/asked; until_there go; printf bye-; touch {folder}/half; until_there rest; echo old; exit 0' TERM
fi
echo >&5
while :; do sleep 0.02; done
"""


def stop_both(home: Home, logs: Logs) -> int:
    """The old one is told to end once it is replaced, and so is the new one, which does so first; the pid of the old."""
    spec = home.sh(
        "app", REPLACED.format(folder=home.folder), ready="fd:5", restart=NEVER, logs=logs, stop_timeout_ms=20000
    )
    home.apply(spec)
    pid = home.pid("app")
    home.connect()._send(Act("reload", ["app"]))
    home.until("app", lambda view: view.pid not in (None, pid) and view.status == "running", "the swap")
    home.connect()._send(Act("stop", ["app"]))
    home.until("app", lambda view: view.status == "stopped", "its end")
    wait_until(lambda: (home.folder / "asked").exists(), "the old one to be asked")
    return pid


def pipes(home: Home) -> list[str]:
    fds = f"/proc/{home.about_daemon().pid}/fd"
    return [fd for fd in os.listdir(fds) if "app:0." in os.readlink(f"{fds}/{fd}")]


def test_what_the_old_one_printed_waits_for_its_log_when_both_have_ended(home: Home) -> None:
    path = Path(home.places.logs) / "app.out.log"
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pid = stop_both(home, Logs())
        for name in ("go", "rest"):
            (home.folder / name).touch()
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the old one")
    wait_until(lambda: path.read_text() == "bye-new\nbye-old\n", "what both have said")
    wait_until(lambda: not pipes(home), "the pipes to be closed")


def test_a_daemon_that_comes_while_only_the_old_one_runs_leaves_it_its_pipes(home: Home) -> None:
    pid = stop_both(home, Logs(format="cri"))
    (home.folder / "go").touch()
    wait_until(lambda: (home.folder / "half").exists(), "half a line")
    before = home.about_daemon().pid
    os.kill(before, signal.SIGKILL)
    home.another_than(before)
    assert os.path.exists(f"/proc/{pid}")
    (home.folder / "rest").touch()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")
    wait_until(lambda: [line.split(" ", 2)[2] for line in lines(home)] == ["F bye-new", "F bye-old"], "their lines")
    wait_until(lambda: not pipes(home), "the pipes to be closed")

"""Ready by a line that it prints: one helper looks for those of all, whatever becomes of it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.model.codec import replace
from oxmgr.model.messages import Apply
from oxmgr.model.spec import Spec
from oxmgr.supervisor.process import read_stat
from tests.conftest import Home, tree, wait_until

WAITS = "while [ ! -e {0}/go ]; do sleep 0.02; done; echo up; exec sleep 1000"


def helpers(home: Home) -> list[int]:
    assert home.daemon is not None
    found = []
    for pid in tree(home.daemon.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # One that is about to end has no words any more; nor has a child of an app that is.
        stat = read_stat(pid)
        is_child = stat is not None and int(stat[1]) == home.daemon.pid
        if b"match" in words or (words == [b""] and is_child):
            found.append(pid)
    return found


@pytest.fixture(autouse=True)
def helper_ends(home: Home) -> Iterator[None]:
    yield
    wait_until(lambda: not helpers(home), "the end of the helper, as nobody waits")


def begin(home: Home, *specs: Spec) -> None:
    environ = "".join(f"{key}={value}\0" for key, value in home.env.items()).encode()
    home.connect()._send(Apply(list(specs), environ))
    wait_until(lambda: len(home.views()) == len(specs), "the apps")
    wait_until(lambda: all(view.pid for view in home.views().values()), "their processes")
    wait_until(lambda: helpers(home), "the helper")


def reads(pid: int, log: Path) -> bool:
    try:
        return str(log) in [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except FileNotFoundError:
        return False  # it has closed another one meanwhile


def waiting(home: Home, name: str = "app", **keys: object) -> Spec:
    return home.sh(name, WAITS.format(home.folder), ready="log:^up$", **keys)


def all_running(home: Home) -> bool:
    return {view.status for view in home.views().values()} == {"running"}


def test_one_helper_for_all_while_anybody_waits(home: Home) -> None:
    begin(home, *(waiting(home, f"app{number}") for number in range(8)))
    assert len(helpers(home)) == 1
    (home.folder / "go").touch()
    wait_until(lambda: all_running(home), "all to be ready")
    wait_until(lambda: not helpers(home), "the end of the helper")


def test_a_helper_that_dies_is_followed_by_another(home: Home) -> None:
    begin(home, waiting(home))
    first = helpers(home)[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: helpers(home) not in ([], [first]), "another helper")
    (home.folder / "go").touch()
    wait_until(lambda: all_running(home), "it to be ready")
    assert home.views()["app"].restarts == 0


def test_a_line_that_was_printed_while_no_helper_lived_counts(home: Home) -> None:
    begin(home, waiting(home))
    (home.folder / "go").touch()
    for pid in helpers(home):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all_running(home), "it to be ready")


def test_the_next_daemon_goes_on_waiting_and_an_earlier_runs_line_does_not_count(home: Home) -> None:
    script = f"test -e {home.folder}/second || {{ touch {home.folder}/second; echo up; exec sleep 1000; }}; "
    spec = home.sh("app", script + WAITS.format(home.folder), ready="log:^up$", restart="always", restart_delay_ms=0)
    home.apply(spec)
    first = home.pid("app")
    # The times in the index beside a log are of some ms.
    time.sleep(0.05)
    os.kill(first, signal.SIGKILL)
    pid = home.until("app", lambda view: view.status == "starting" and view.pid not in (None, first)).pid
    home.kill_daemon()
    home.start_daemon()
    wait_until(lambda: helpers(home), "the helper")
    view = home.views()["app"]
    assert (view.status, view.pid) == ("starting", pid)
    (home.folder / "go").touch()
    view = home.until("app", lambda view: view.status == "running")
    assert view.pid == pid


def test_a_rotated_log_goes_on(home: Home) -> None:
    begin(home, replace(waiting(home), argv=["/bin/sh", "-c", f"echo begun; {WAITS.format(home.folder)}"]))
    log = Path(f"{home.places.logs}/app.out.log")
    wait_until(lambda: reads(helpers(home)[0], log), "the helper to read its log")
    log.rename(log.with_suffix(".log.1"))
    (home.folder / "go").touch()
    wait_until(lambda: all_running(home), "it to be ready")


def test_who_prints_no_such_line_is_told_so(home: Home) -> None:
    done = home.apply(home.sh("app", "exec sleep 1000", ready="log:^up$", ready_timeout_ms=300, restart="never"))
    assert done.failed["app"].endswith(" s after its start: log:^up$: no such line has come")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read what others cannot")
def test_a_log_that_was_replaced_by_a_link_is_not_read(home: Home) -> None:
    """Whoever may write to the folder could find out what stands in a file of root's."""
    secret = home.folder / "secret"
    secret.write_text("up\n")
    folder = home.folder / "own"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    log = folder / "app.log"
    spec = replace(waiting(home), log_file=str(log), ready_timeout_ms=1500, restart="never")
    begin(home, spec)
    log.unlink()
    log.symlink_to(secret)
    view = home.until("app", lambda view: view.status not in ("starting", "stopping"))
    assert view.status == "errored" and "no such line" in view.reason

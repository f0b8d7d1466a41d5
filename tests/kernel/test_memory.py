"""What happens to an app when its memory runs out: ended as one tree, told apart from other ends, started again."""

import os
import signal
from pathlib import Path

import pytest

from oxmgr.model.messages import Apply
from oxmgr.model.spec import Limits
from tests.conftest import Home, wait_until
from tests.kernel.looks import events, folder, is_alive, read, until_said

# The main process or its child takes 200 MB, at its first start only.
TAKES = {
    "main": "sleep 1000 & echo up $$ $!; [ -e taken ] && exec sleep 1001; touch taken; exec tail /dev/zero",
    "child": "[ -e taken ] || { touch taken; head -c 200m /dev/zero | tail & }; sleep 1000 & echo up $$ $!; wait",
}


@pytest.mark.parametrize("who", TAKES)
def test_who_takes_more_memory_than_its_app_may_ends_with_its_whole_tree_and_it_is_started_again(
    home: Home, who: str
) -> None:
    home.apply(home.sh("app", TAKES[who], limits=Limits(memory_max_mb=50)))
    view = home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    first = [int(word) for word in until_said(home, "app", "up", 2).splitlines()[0].split()[1:]]
    assert not any(map(is_alive, first)), "the main process and its other child went too"
    assert view.oom_kills == 1
    [oom] = events(home, "oom", "app")
    [crash] = events(home, "crashed", "app")
    assert oom.reason == crash.reason and crash.signal == "SIGKILL"
    assert oom.reason.startswith("out of memory, killed by the kernel: memory_max_mb is 50, its peak was ")
    assert 45 < float(oom.reason.rpartition(" ")[2]) <= 50
    assert read(folder(home, "app"), "memory.max") == str(50 << 20), "the limit is on the new one as well"


def test_a_sigkill_by_hand_is_no_end_of_memory_also_after_one(home: Home) -> None:
    home.apply(home.sh("app", TAKES["main"], limits=Limits(memory_max_mb=50), restart_delay_max_ms=0))
    before = home.until("app", lambda view: view.restarts == 1 and view.status == "running").oom_kills
    until_said(home, "app", "up", 2)
    os.kill(home.pid("app"), signal.SIGKILL)
    view = home.until("app", lambda view: view.restarts == 2 and view.status == "running")
    assert view.oom_kills == before and len(events(home, "oom", "app")) == 1
    assert events(home, "crashed", "app")[-1].reason == "killed by SIGKILL"


def test_an_end_of_memory_that_is_not_its_own_limit_is_told_as_such(home: Home) -> None:
    """The machine's memory is all of what the daemon's subtree may use; its limit stands for the machine's end here."""
    home.apply(home.sh("app", "echo up; read line; exec tail /dev/zero", restart="never"))
    until_said(home, "app", "up")
    (folder(home, "app").parent / "memory.max").write_text("60M")
    Path(home.places.stdin("app:0")).write_text("go\n")
    view = home.until("app", lambda view: view.status == "exited")
    assert view.reason.startswith("out of memory, killed by the kernel: the machine, or what it runs in, had no more")
    assert view.oom_kills == 1


def test_what_is_lowered_below_the_use_is_given_back_where_that_is_possible(home: Home) -> None:
    # Pages that are marked MADV_FREE are there until somebody needs them.
    script = (
        "import mmap, time\nm = mmap.mmap(-1, 100 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "for at in range(0, 100 << 20, 4096): m[at] = 1\nm.madvise(mmap.MADV_FREE)\nprint('up')\ntime.sleep(1000)"
    )
    home.apply(home.python("app", script, limits=Limits(memory_max_mb=200)))
    until_said(home, "app", "up")
    pid, path = home.pid("app"), folder(home, "app")
    assert int(read(path, "memory.current")) > 90 << 20
    home.apply(home.python("app", script, limits=Limits(memory_max_mb=40)))
    assert home.pid("app") == pid and is_alive(pid)
    assert read(path, "memory.max") == str(40 << 20) and int(read(path, "memory.current")) <= 40 << 20
    home.apply(home.python("app", script))
    assert home.pid("app") == pid and read(path, "memory.max") == "max"


def test_what_is_lowered_below_the_use_and_cannot_be_given_back_is_out_of_memory_and_others_go_on(home: Home) -> None:
    script = (
        "import os, time\nif not os.path.exists('taken'):\n    open('taken', 'w').close()\n    x = b'x' * (100 << 20)\n"
        "print('up')\ntime.sleep(1000)"
    )
    home.apply(home.python("app", script), home.sh("other", "exec sleep 1000"))
    until_said(home, "app", "up")
    lowering = home.connect()
    lowering._send(Apply([home.python("app", script, limits=Limits(memory_max_mb=40))]))
    wait_until(lambda: home.views()["other"].pid and home.views()["app"].oom_kills, "the kernel's answer")
    view = home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    assert "memory_max_mb is 40" in events(home, "oom", "app")[0].reason
    until_said(home, "app", "up", 2)
    assert read(Path(view.cgroup or ""), "memory.max") == str(40 << 20)
    lowering._receive()

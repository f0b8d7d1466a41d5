"""Limits, sandboxes and what an app uses, as a user writes and sees them."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from oxmgr.cli.details import Usage
from oxmgr.model.messages import InstanceView
from tests.conftest import WITHOUT_CGROUPS, Home, wait_until
from tests.integration.conftest import Ox

NAP = '[processes.app]\ncommand = "sleep 1000"\n'


@pytest.fixture
def each_ox(each_home: Home, empty: Ox) -> Ox:
    """With a daemon that keeps trees in cgroups, and with one that has none."""
    return empty


@pytest.fixture
def bare_ox(empty: Ox) -> Ox:
    """With a daemon on a host that can hold no limit of a cgroup."""
    empty.home.wrap = WITHOUT_CGROUPS
    empty.home.start_daemon()
    return empty


def usage(ox: Ox, name: str) -> dict[str, Any]:
    (view,) = ox.json("status", name)
    return dict(view["usage"])


# --- what is used ---


def test_status_json_is_the_object_of_list_and_the_usage(each_ox: Ox) -> None:
    each_ox.oxfile(NAP + "limits = { open_files = 64, nice = 3 }\n")
    each_ox("start")
    each_ox("start", "sleep 1000", "--name", "off")
    each_ox("stop", "off")
    views = each_ox.json("status")
    assert [list(view) for view in views] == [[*InstanceView.__struct_fields__, "usage"]] * 2
    assert all(list(view["usage"]) == list(Usage.__struct_fields__) for view in views)
    app, off = (view["usage"] for view in views)
    assert app["cpu_percent_now"] is not None and app["memory_bytes"] > 0 and app["tasks"] == 1
    assert app["limits"]["open_files"]["limit"] == 64 and 3 <= app["limits"]["open_files"]["used"] < 64
    assert app["limits"]["nice"] == {"limit": 3, "used": None}
    assert (off["cpu_percent_now"], off["memory_bytes"], off["tasks"], off["limits"]) == (None, None, None, {})
    shown = each_ox("status", "app").stdout
    for text in ("of a core now", "since its start", "limit      open_files 64, uses ", "limit      nice 3\n"):
        assert text in shown


def test_the_whole_tree_counts(each_ox: Ox) -> None:
    script = "import subprocess, sys, time; [subprocess.Popen(['sleep', '1000']) for _ in range(3)]; time.sleep(1000)"
    each_ox.home.apply(each_ox.home.python("app", script))
    wait_until(lambda: each_ox.json("list")[0]["tasks"] == 4, "its children")
    assert usage(each_ox, "app")["tasks"] == 4


def test_what_an_app_has_moved_to_a_cgroup_below_counts(ox: Ox) -> None:
    ox("start", "sleep 1000 & sleep 1000 & wait", "--name", "app")
    view = ox.json("list")[0]
    if view["cgroup"] is None:
        assert os.geteuid(), "root has cgroups"
        return
    wait_until(lambda: ox.json("list")[0]["tasks"] == 3, "its children")
    below = Path(view["cgroup"]) / "below"
    below.mkdir()
    child = Path(f"/proc/{view['pid']}/task/{view['pid']}/children").read_text().split()[0]
    (below / "cgroup.procs").write_text(child)
    assert ox.json("list")[0]["tasks"] == 3


def test_cpu_is_told_of_now_and_of_the_time_since_the_start(each_ox: Ox) -> None:
    script = "import time\nwhile time.process_time() < 0.4: pass\nprint('done'); time.sleep(1000)"
    each_ox.home.apply(each_ox.home.python("was", script), each_ox.home.python("is", "while True: pass"))
    wait_until(lambda: each_ox.home.log("was"), "the end of its work")
    was, busy = (view["usage"] for view in each_ox.json("status"))
    assert was["cpu_percent_now"] < 5 and was["cpu_percent_since_start"] > 5
    # It may have to share the CPUs of this host with whatever else runs.
    assert busy["cpu_percent_now"] > 10 and busy["cpu_percent_since_start"] > 10


def test_the_work_of_an_earlier_main_process_is_not_that_of_this_one(ox: Ox) -> None:
    script = (
        "import os, time\n"
        "if not os.path.exists('worked'):\n"
        "    while time.process_time() < 0.5: pass\n"
        "    open('worked', 'w').close()\n"
        "print('up'); time.sleep(1000)"
    )
    ox.home.apply(ox.home.python("app", script))
    wait_until(lambda: ox.home.log("app") == "up\n", "its work")
    os.kill(ox.home.pid("app"), signal.SIGKILL)
    wait_until(lambda: ox.home.log("app") == "up\nup\n", "the next one")
    view = ox.json("list")[0]
    assert view["restarts"] == 1
    assert view["cpu_percent"] / 100 * view["uptime_ms"] / 1000 < 0.4


def test_several_instances_are_waited_for_together(ox: Ox) -> None:
    ox("start", "sleep 1000", "--name", "app", "-i", "10")
    begun = time.monotonic()
    assert len(ox.json("status", "app")) == 10
    assert time.monotonic() - begun < 1.5


def test_what_runs_without_its_daemon_is_measured_as_well(ox: Ox) -> None:
    ox.oxfile(NAP + "limits = { open_files = 64, required = true, cpu_window_secs = 9 }\n")
    ox("start")
    before = ox.json("list")[0]
    ox.home.kill_daemon()
    after = ox.json("status", "app", code=3)[0]
    for key in ("cgroup", "limits", "oom_kills", "pid", "tasks"):
        assert after[key] == before[key], key
    assert after["usage"]["memory_bytes"] and after["usage"]["limits"]["open_files"]["used"]
    ox.home.start_daemon()


# --- what this host does not hold ---


def test_a_limit_that_cannot_be_held_is_told_at_the_start_and_ever_after(bare_ox: Ox) -> None:
    ox = bare_ox
    ox.oxfile(NAP + "limits = { tasks_max = 5, open_files = 64 }\n")
    told = "limits.tasks_max cannot be enforced here"
    started = ox("start")
    assert f"warning: app: {told}" in started.stderr and "open_files" not in started.stderr
    assert "not all limits hold, see oxmgr status app" in ox("list").stdout
    shown = ox("status", "app").stdout
    assert f"warning    {told}" in shown and "limit      tasks_max 5, uses 1" in shown
    view = ox.json("status", "app")[0]
    assert view["warnings"] == view["usage"]["warnings"] and told in view["warnings"][0]
    assert {"result": "warn", "check": "limits", "detail": f"app: {view['warnings'][0]}"} in ox.json("doctor")
    os.kill(view["pid"], signal.SIGKILL)
    ox.home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    assert f"warning    {told}" in ox("status", "app").stdout


def test_a_limit_that_is_required_and_cannot_be_held_registers_nothing(bare_ox: Ox) -> None:
    bare_ox.oxfile(NAP + "limits = { tasks_max = 5, required = true }\n")
    for command in ("start", "apply"):
        failed = bare_ox(command, code=1)
        assert "limits.tasks_max cannot be enforced here" in failed.stderr and "required" in failed.stderr
    assert bare_ox.json("list") == []


# --- what is changed while it runs ---


def test_limits_alone_restart_nothing(each_ox: Ox) -> None:
    each_ox.oxfile(NAP + "limits = { open_files = 64 }\n")
    each_ox("start")
    pid = each_ox.home.pid("app")
    each_ox.oxfile(NAP + "limits = { open_files = 32, nice = 4 }\n")
    assert json.loads(each_ox("apply", "--dry-run", "--json").stdout) == [
        {"app": "app", "action": "change", "keys": ["limits"]}
    ]
    each_ox("apply")
    assert each_ox.home.pid("app") == pid
    files = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line)
    assert files.split()[3:5] == ["32", "32"] and os.getpriority(os.PRIO_PROCESS, pid) == 4
    assert usage(each_ox, "app")["limits"]["open_files"]["limit"] == 32

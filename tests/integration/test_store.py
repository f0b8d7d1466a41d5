"""A daemon whose state files are damaged, or cannot be written."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.launch import start_detached
from oxmgr.client.saved import read_saved, read_saved_events
from oxmgr.model.messages import Act, GetDaemon, GetInstances, Instances
from oxmgr.model.records import MARK
from tests.conftest import DEADLINE, Home, wait_until
from tests.integration.conftest import Ox

SLEEP = "exec sleep 1000"


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def warnings(home: Home) -> list[str]:
    connection = connect(home.places)
    reply = connection.request(GetInstances())
    connection.close()
    assert isinstance(reply, Instances)
    return reply.warnings


def kept_aside(home: Home, how: str) -> list[str]:
    return [name for name in os.listdir(home.places.state) if how in name]


def rot(path: Path, record: int) -> bytes:
    """Of a file's records (from 0; from the end if negative) one is bad now; what the file is then."""
    data = bytearray(path.read_bytes())
    data[[found.start() for found in re.finditer(re.escape(MARK), data)][record] + 20] ^= 0xFF
    path.write_bytes(data)
    return bytes(data)


# --- files that are not as they should be ---


def test_a_rotten_snapshot_falls_back_to_the_one_before_and_what_it_alone_knew_runs_on(home: Home) -> None:
    home.apply(home.sh("a", SLEEP), home.sh("b", SLEEP))
    home.apply(home.sh("c", f"echo up; {SLEEP}"))
    pids = {name: home.pid(name) for name in "abc"}
    home.kill_daemon()
    path = Path(home.places.desired)
    bad = rot(path, -1)
    # Without a daemon, what the next one will take for desired is shown.
    views, wrong = read_saved(home.places, [])
    assert [view.name for view in views] == ["a", "b"] and "is damaged" in wrong[0]
    home.start_daemon()
    assert {name: view.pid for name, view in home.views().items()} == {name: pids[name] for name in "ab"}
    os.kill(pids["c"], 0)
    (name,) = kept_aside(home, "desired.damaged-")
    assert (Path(home.places.state) / name).read_bytes() == bad
    told = warnings(home)
    assert any(name in text for text in told)
    assert any("desired before the last change" in text for text in told)
    assert any(
        "no state file knows" in text and ("/c:0 " in text or f"process {pids['c']} is of c" in text) for text in told
    )
    # Also by the next one, once what it fell back to is on the disk.
    wait_until(lambda: read_saved(home.places, [])[1] == [], "a whole snapshot")
    home.kill_daemon()
    home.start_daemon()
    os.kill(pids["c"], 0)
    assert any("no state file knows" in text for text in warnings(home))
    # Asked for again it is taken over, and not started beside itself.
    home.apply(home.sh("c", f"echo up; {SLEEP}"))
    assert home.views()["c"].status == "running"
    assert Path(f"/proc/{pids['c']}/stat").read_text().split()[2] == "Z"
    os.waitpid(pids["c"], 0)
    wait_until(lambda: home.log("c") == "up\nup\n", "its start by the spec that is known")
    assert not any("no state file knows" in text for text in warnings(home))
    (Path(home.places.state) / name).unlink()
    assert warnings(home) == []


def test_a_rotten_record_costs_that_one_when_there_is_none_before(home: Home) -> None:
    home.apply(*(home.sh(name, SLEEP) for name in "abc"))
    home.stop_daemon()
    rot(Path(home.places.desired), -2)
    home.start_daemon()
    assert sorted(home.views()) == ["a", "c"]
    (name,) = kept_aside(home, "desired.damaged-")
    for _ in range(2):
        assert any(name in text for text in warnings(home)), "told until it has been looked at"
    home.stop_daemon()
    home.start_daemon()
    assert any(name in text for text in warnings(home))
    (Path(home.places.state) / name).unlink()
    assert warnings(home) == []


@pytest.mark.parametrize("garbage", [b"", b"\0" * 4096, b"hello\n", os.urandom(1000)])
def test_a_file_of_garbage_is_kept_aside(home: Home, garbage: bytes) -> None:
    home.stop_daemon()
    for path in (home.places.desired, home.places.journal, home.places.events):
        Path(path).write_bytes(garbage)
    home.start_daemon()
    assert home.views() == {}
    assert all(kept_aside(home, f"{name}.damaged-") for name in ("desired", "journal", "events"))
    home.apply(home.sh("a", SLEEP))


@pytest.mark.parametrize("name", ["desired", "journal"])
def test_a_file_of_a_later_version_keeps_the_daemon_from_starting_and_nothing_is_touched(home: Home, name: str) -> None:
    home.apply(home.sh("a", SLEEP))
    pid = home.pid("a")
    home.kill_daemon()
    path = Path(home.places.state) / name
    good = path.read_bytes()
    later = good.replace(f"oxmgr {name} 1\n".encode(), f"oxmgr {name} 7\n".encode())
    path.write_bytes(later)
    with pytest.raises(AssertionError, match=rf"{path}: it has format 7, .* start a later version, or move this file"):
        home.start_daemon()
    assert home.daemon is not None and home.daemon.wait(DEADLINE) == 1
    os.kill(pid, 0)
    assert path.read_bytes() == later and not kept_aside(home, ".newer-")
    path.write_bytes(good)
    home.start_daemon()
    assert home.pid("a") == pid


def test_a_torn_end_of_the_journal_is_cut_and_kept_aside(home: Home) -> None:
    home.apply(home.sh("a", SLEEP), home.sh("b", SLEEP))
    pids = home.pid("a"), home.pid("b")
    home.kill_daemon()
    with open(home.places.journal, "ab") as file:
        file.write(MARK + b"\0\0\0\x50torn")
    home.start_daemon()
    assert (home.pid("a"), home.pid("b")) == pids
    (name,) = kept_aside(home, "journal.damaged-")
    assert any(name in text for text in warnings(home))
    os.kill(pids[1], 9)
    fresh = home.until("b", lambda view: view.restarts == 1 and view.pid).pid
    # What was appended behind the torn end is there.
    home.kill_daemon()
    home.start_daemon()
    assert (home.pid("a"), home.pid("b")) == (pids[0], fresh)
    assert kept_aside(home, "journal.damaged-") == [name]


# --- files that cannot be written ---


@pytest.fixture
def disk(empty_home: Home) -> Iterator[Home]:
    """The state folder is a file system of 256 KB. No daemon yet."""
    state = Path(empty_home.places.state)
    state.mkdir(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", state], check=True)
    try:
        yield empty_home
        empty_home.end()
    finally:
        while subprocess.run(["umount", state], capture_output=True, check=False).returncode == 0:
            pass
        assert not state.is_mount()


@pytest.fixture
def small_disk(disk: Home) -> Home:
    disk.start_daemon()
    return disk


def fill(home: Home) -> Path:
    ballast = Path(home.places.state) / "ballast"
    with open(ballast, "wb", 0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def remount(home: Home, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", home.places.state], check=True)


def wants(home: Home) -> dict[str, tuple[str, str]]:
    """By what is on the disk."""
    return {view.name: (view.command, view.desired) for view in read_saved(home.places, [])[0]}


def test_on_a_full_disk_all_that_is_asked_for_is_done_and_written_as_soon_as_there_is_room(small_disk: Home) -> None:
    home, ox = small_disk, Ox(small_disk)
    home.apply(home.sh("old", SLEEP), home.sh("stops", SLEEP), home.sh("goes", SLEEP))
    saved = wants(home)
    pid = home.pid("old")
    ballast = fill(home)
    os.kill(pid, 9)
    home.until("old", lambda view: view.restarts == 1 and view.status == "running")
    for words in ("start --name fresh -- sleep 1000", "stop stops", "delete goes", "restart old"):
        told = ox(*words.split()).stderr
        assert "/desired cannot be written (No space left on device): what was changed is done, but it is lost" in told
    assert {view.name: view.status for view in home.views().values()} == {
        "old": "running",
        "stops": "stopped",
        "fresh": "running",
    }
    for words in ("list", "status fresh", "daemon status"):
        assert "/desired cannot be written (No space left on device)" in ox(*words.split()).stderr
    assert wants(home) == saved, "nothing was truncated"
    ballast.unlink()
    wait_until(lambda: sorted(wants(home)) == ["fresh", "old", "stops"], "what is desired to be on the disk")
    assert wants(home)["stops"][1] == "stopped"
    wait_until(lambda: warnings(home) == [], "the journal and the events to be written as well")
    pids = home.pid("fresh"), home.pid("old")
    home.kill_daemon()
    home.start_daemon()
    assert (home.pid("fresh"), home.pid("old")) == pids and home.views()["stops"].status == "stopped"
    numbers = [event.seq for event in read_saved_events(home.places)]
    assert numbers == list(range(1, len(numbers) + 1)), "no event was lost"


def test_a_daemon_that_ends_tries_once_more(small_disk: Home) -> None:
    home = small_disk
    ballast = fill(home)
    assert any("cannot be written" in text for text in home.apply(home.sh("app", SLEEP)).warnings)
    ballast.unlink()
    home.stop_daemon()
    assert wants(home) == {"app": (SLEEP, "running")}


def test_a_daemon_that_cannot_save_ends_all_the_same(small_disk: Home) -> None:
    home = small_disk
    fill(home)
    home.apply(home.sh("app", SLEEP))
    assert home.stop_daemon() == 0
    assert wants(home) == {}


def test_a_state_folder_that_is_read_only_from_the_start_keeps_nobody_from_running_apps(disk: Home) -> None:
    home = disk
    remount(home, "ro")
    home.start_daemon()
    told = home.apply(home.sh("app", SLEEP)).warnings
    assert any("/desired cannot be written (Read-only file system)" in text for text in told)
    os.kill(home.pid("app"), 9)
    home.until("app", lambda view: view.restarts == 1 and view.status == "running")
    view = home.connect().request(GetDaemon())
    assert any("Read-only file system" in text for text in view.warnings)  # type: ignore[union-attr]
    pid = home.pid("app")
    with pytest.raises(NoDaemon, match=f"another one runs for {home.folder}, pid"):
        start_a_second(home)
    remount(home, "rw")
    wait_until(lambda: "app" in wants(home) and warnings(home) == [], "all of it to be on the disk")
    with pytest.raises(NoDaemon, match="another one runs"):
        start_a_second(home)
    home.kill_daemon()
    home.start_daemon()
    assert home.pid("app") == pid and warnings(home) == []


def test_with_a_read_only_state_folder_too_the_next_daemon_goes_on_where_the_last_one_was(disk: Home) -> None:
    remount(disk, "ro")
    ox = Ox(disk)
    ox("start", "sleep 1000", "--name", "app")
    ox("start", "sleep 1001", "--name", "stops")
    ox("stop", "stops")
    os.kill(disk.pid("app"), 9)
    pid = disk.until("app", lambda view: view.restarts == 1 and view.pid).pid
    told = "/desired cannot be written (Read-only file system): what was changed is done, but it is lost if this daemon and its guard"
    assert any(told in text for text in warnings(disk))
    first = ox.daemon()
    assert first is not None
    os.kill(first, 9)
    wait_until(lambda: ox.daemon() not in (None, first), "the next daemon")
    ox("daemon", "reexec")
    view = disk.views()["app"]
    assert (view.pid, view.restarts, view.status) == (pid, 1, "running")
    assert disk.views()["stops"].status == "stopped"
    assert any("/desired cannot be written (Read-only file system)" in text for text in warnings(disk))
    remount(disk, "rw")
    wait_until(lambda: sorted(wants(disk)) == ["app", "stops"] and warnings(disk) == [], "all of it to be on the disk")
    ox.end()


def test_without_a_guard_a_daemon_is_not_replaced_while_it_alone_knows_what_is_desired(disk: Home) -> None:
    remount(disk, "ro")
    disk.start_daemon()
    disk.apply(disk.sh("app", SLEEP))
    pid = disk.pid("app")
    assert "nothing was changed: what is desired cannot be written" in Ox(disk)("daemon", "reexec", code=1).stderr
    assert disk.pid("app") == pid


def test_a_state_folder_that_becomes_read_only_is_told_of_and_written_when_it_can_be(small_disk: Home) -> None:
    home = small_disk
    home.apply(home.sh("app", SLEEP))
    # As a mount of its own, for what is open to be written to cannot become read-only.
    subprocess.run(["mount", "--bind", home.places.state, home.places.state], check=True)
    remount(home, "bind,ro")
    with pytest.raises(NoDaemon, match="another one runs"):
        start_a_second(home)
    home.request(Act("stop", ["app"]))
    assert home.views()["app"].status == "stopped"
    assert any("/desired cannot be written (Read-only file system)" in text for text in warnings(home))
    remount(home, "bind,rw")
    wait_until(lambda: wants(home) == {"app": (SLEEP, "stopped")}, "the stop to be on the disk")
    assert warnings(home) == []


def start_a_second(home: Home) -> None:
    """A daemon for the same home."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in home.env.items():
            patch.setenv(key, value)
        start_detached()


def test_a_state_folder_that_cannot_be_made_is_made_when_it_can_be(empty_home: Home) -> None:
    home = empty_home
    state = Path(home.places.state)
    state.write_text("in the way")
    home.start_daemon()
    assert any("cannot be written" in text for text in home.apply(home.sh("app", SLEEP)).warnings)
    with pytest.raises(NoDaemon, match="another one runs"):
        start_a_second(home)
    state.unlink()
    wait_until(lambda: wants(home) == {"app": (SLEEP, "running")} and warnings(home) == [], "the folder and its files")
    assert state.stat().st_mode & 0o777 == 0o700

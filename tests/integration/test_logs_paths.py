"""Where what apps print goes, and what becomes of a log that cannot be one: neither app nor daemon stops for it."""

import fcntl
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.client.connection import Refused
from oxmgr.model.messages import Act, FlushLogs, ReopenLogs
from oxmgr.model.spec import NEVER, Logs, Spec
from tests.conftest import Home, wait_until

TICK = "while :; do echo tick; sleep 0.02; done"


def ticker(home: Home, log: Path | str, **keys: object) -> Spec:
    return home.sh("app", TICK, log_file=str(log), **keys)


def default_log(home: Home) -> Path:
    return Path(home.places.logs) / "app.out.log"


def has(path: Path, text: str, times: int = 1) -> bool:
    return path.is_file() and path.read_text().count(text) >= times


def warned(home: Home) -> str:
    return "; ".join(home.views()["app"].warnings)


# --- a path that is no log ---


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "link", "below a file"])
def test_a_path_that_cannot_be_a_log_goes_to_the_default_one_and_status_says_so(home: Home, kind: str) -> None:
    path = home.folder / "wished.log"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "link":
        path.symlink_to(home.folder / "elsewhere")
    else:
        path.write_text("")
        path = path / "app.log"
    home.apply(ticker(home, path))
    wait_until(lambda: has(default_log(home), "tick", 3), "lines in the default log")
    assert warned(home).startswith(f"{path}") or "cannot be its log" in warned(home)
    assert str(default_log(home)) in warned(home)
    assert home.views()["app"].status == "running"
    assert not (home.folder / "elsewhere").exists()


def test_who_asks_is_told_the_file_that_is_in_use_also_after_a_takeover_and_when_it_is_down(home: Home) -> None:
    path = home.folder / "wished.log"
    path.mkdir()
    files = [str(default_log(home)), str(default_log(home)).replace(".out.", ".err.")]

    def told(name: str) -> list[str]:
        view = home.views()[name]
        return [view.log_file, view.error_log_file]

    # Nothing was printed yet by these, and nothing has to be.
    home.apply(home.sh("app", "exec sleep 1000", log_file=str(path), error_log_file=str(home.folder)))
    home.apply(home.sh("both", "exec sleep 1000", log_file=home.places.state))
    both = [f"{home.places.logs}/both.out.log"] * 2
    assert told("app") == files and told("both") == both
    home.kill_daemon()
    home.start_daemon()
    assert told("app") == files and told("both") == both
    home.request(Act("stop", ["app"]))
    assert told("app") == files
    path.rmdir()
    home.request(Act("start", ["app"]))
    assert told("app") == [str(path), files[1]]
    home.request(ReopenLogs(["both"]))
    assert told("both") == both
    assert home.stop_daemon() == 0


def test_a_log_on_a_read_only_disk_goes_to_the_default_one(home: Home) -> None:
    mount = home.folder / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", mount], check=True)
    try:
        home.apply(ticker(home, mount / "app.log"))
        wait_until(lambda: has(default_log(home), "tick", 3), "lines in the default log")
        assert "Read-only file system" in warned(home)
    finally:
        subprocess.run(["umount", mount], check=True)


def test_when_the_path_is_mended_reopen_goes_back_to_it(home: Home) -> None:
    path = home.folder / "wished.log"
    path.mkdir()
    home.apply(ticker(home, path))
    wait_until(lambda: has(default_log(home), "tick"), "lines in the default log")
    path.rmdir()
    home.request(ReopenLogs(["app"]))
    wait_until(lambda: has(path, "tick", 3), "lines where they were wished")
    assert home.views()["app"].log_file == str(path)
    assert warned(home) == ""


def test_when_not_even_the_default_log_can_be_written_to_the_app_goes_on(empty_home: Home) -> None:
    logs = Path(empty_home.places.logs)
    logs.mkdir(0o700)
    (logs / "app.out.log").mkdir()
    empty_home.start_daemon()
    # More than a pipe holds: an app that waits would not come to its end.
    empty_home.apply(
        empty_home.sh("app", f"head -c 1000000 /dev/zero; touch {empty_home.folder}/done; exec sleep 1000")
    )
    wait_until(lambda: (empty_home.folder / "done").exists(), "the app to go on")
    assert "dropped" in warned(empty_home)
    (logs / "app.out.log").rmdir()
    wait_until(lambda: has(logs / "app.out.log", "bytes were dropped here"), "the count in the log")
    wait_until(lambda: warned(empty_home) == "", "the trouble to be over")


@pytest.mark.parametrize("form", ["raw", "cri"])
@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_on_a_read_only_disk_with_no_log_left_it_is_as_on_a_full_one(home: Home, form: str, on_full: str) -> None:
    logs = Path(home.places.logs)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", logs], check=True)
    done = home.folder / "done"
    # The file that it wishes for is on that disk as well.
    keys = {"log_file": str(logs / "own" / "app.log"), "logs": Logs(format=form, on_full=on_full)}
    try:
        home.apply(home.sh("app", COUNTS.format(done=done), **keys))
        says = "kept waiting" if on_full == "block" else "what it prints is dropped"
        wait_until(lambda: "Read-only file system" in warned(home) and says in warned(home), "the trouble")
        if on_full == "drop":
            wait_until(done.exists, "the app, which does not wait")
        assert done.exists() == (on_full == "drop")
        subprocess.run(["mount", "-o", "remount,rw", logs], check=True)
        wait_until(done.exists, "the app to go on")
        path = default_log(home)
        wait_until(lambda: has(path, "line 11999" if on_full == "block" else "bytes were dropped here"), "what is due")
        if on_full == "block":
            assert [int(line.rpartition(" ")[2]) for line in path.read_text().splitlines()] == list(range(12000))
        home.apply(prune=True)
    finally:
        # The daemon has its own log open there.
        subprocess.run(["umount", "--lazy", logs], check=True)


# --- paths that are something else ---


@pytest.mark.parametrize("sink", ["path", "none"])
def test_dev_null_is_given_to_the_app_itself(home: Home, sink: str) -> None:
    keys: dict[str, object] = (
        {"log_file": "/dev/null", "error_log_file": "/dev/null"} if sink == "path" else {"logs": Logs(sink="none")}
    )
    home.apply(home.sh("app", f"echo x; ls -l /proc/$$/fd > {home.folder}/fds; exec sleep 1000", **keys))
    wait_until(lambda: has(home.folder / "fds", "2 -> "), "the list")
    lines = (home.folder / "fds").read_text()
    assert lines.count("-> /dev/null") >= 1 and "2 -> /dev/null" in lines
    assert not list(Path(home.places.run).glob("*.out")) and not default_log(home).exists()


def test_dev_stdout_and_inherit_are_the_daemons_own(empty_home: Home) -> None:
    home = empty_home
    out, err = home.folder / "daemon.out", home.folder / "daemon.err"
    home.wrap = ["sh", "-c", f'exec "$@" >{out} 2>{err}', "sh"]
    home.start_daemon()
    home.apply(
        home.sh("a", "echo from a; exec sleep 1000", log_file="/dev/stdout", error_log_file="/dev/stderr"),
        home.sh("b", "echo from b; echo error of b >&2; exec sleep 1000", logs=Logs(sink="inherit")),
    )
    wait_until(lambda: has(out, "from a") and has(out, "from b") and has(err, "error of b"), "their lines")


def test_one_file_for_both_streams_has_both_in_order(home: Home) -> None:
    path = home.folder / "both.log"
    home.apply(
        home.sh("app", "for i in 1 2 3; do echo out $i; echo err $i >&2; done; exec sleep 1000", log_file=str(path))
    )
    wait_until(lambda: has(path, "err 3"), "the lines")
    assert path.read_text() == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))


def test_instances_number_their_files(home: Home) -> None:
    path = home.folder / "many.log"
    home.apply(home.sh("app", "echo $OXMGR_INSTANCE_ID; exec sleep 1000", log_file=str(path), instances=3))
    files = [path, home.folder / "many:1.log", home.folder / "many:2.log"]
    wait_until(lambda: all(has(file, "\n") for file in files), "a file each")
    assert [file.read_text() for file in files] == ["0\n", "1\n", "2\n"]


def test_two_apps_with_one_file_are_refused_by_name(home: Home) -> None:
    path = str(home.folder / "shared.log")
    (home.folder / "link").symlink_to(".")
    home.apply(home.sh("first", "exec sleep 1000", log_file=path))
    for second in (
        home.sh("second", "exec sleep 1000", log_file=path),
        home.sh("second", "exec sleep 1000", log_file=str(home.folder / "link" / "shared.log")),
        home.sh("second", "exec sleep 1000", log_file=f"{home.folder}/link/../{home.folder.name}/shared.log"),
        home.sh("second", "exec sleep 1000", error_log_file=path),
        home.sh("second", "exec sleep 1000", log_file=f"{home.places.logs}/first.err.log", instances=1),
    ):
        if second.log_file and second.log_file.endswith("first.err.log"):
            home.apply(home.sh("first", "exec sleep 1000"))
        with pytest.raises(Refused, match=r"first and second would both write to .*\.log"):
            home.apply(second)
    assert list(home.views()) == ["first"]
    with pytest.raises(Refused, match=r"the daemon itself and second would both write to .*oxmgr\.log"):
        home.apply(home.sh("second", "exec sleep 1000", log_file=home.places.daemon_log))


def test_two_that_a_later_link_made_one_keep_nobody_from_changing_others(home: Home) -> None:
    home.apply(
        home.sh("first", "exec sleep 1000", log_file=f"{home.folder}/one/x.log"),
        home.sh("second", "exec sleep 1000", log_file=f"{home.folder}/two/x.log"),
    )
    wait_until((home.folder / "two").exists, "its folder")
    for file in (home.folder / "two").iterdir():
        file.unlink()
    (home.folder / "two").rmdir()
    (home.folder / "two").symlink_to("one")
    home.apply(home.sh("third", "exec sleep 1000"))
    with pytest.raises(Refused, match="first and second would both write to"):
        home.apply(home.sh("second", "exec sleep 1000", log_file=f"{home.folder}/two/x.log", max_restarts=1))


# --- what others do to a log ---


def test_a_deleted_file_and_a_deleted_folder_come_back(home: Home) -> None:
    path = home.folder / "here" / "app.log"
    home.apply(ticker(home, path))
    wait_until(lambda: has(path, "tick"), "a first line")
    path.unlink()
    wait_until(lambda: has(path, "tick"), "the file again")
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    wait_until(lambda: has(path, "tick"), "the folder again")
    assert warned(home) == ""


def test_logrotate_works_in_both_its_ways(home: Home) -> None:
    path = default_log(home)
    home.apply(
        home.sh("app", "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; exec sleep 1000")
    )
    wait_until(lambda: has(path, "line 9\n"), "some lines")
    renamed = path.with_name("app.out.log.1")
    path.rename(renamed)
    wait_until(lambda: has(renamed, "line 40\n"), "lines go on in the renamed file")
    home.request(ReopenLogs(["all"]))
    wait_until(lambda: has(path, "line 80\n"), "lines in a fresh file")
    together = renamed.read_text() + path.read_text()
    assert together == "".join(f"line {number}\n" for number in range(together.count("\n")))
    os.truncate(path, 0)
    wait_until(lambda: has(path, "line 199\n"), "the last line")
    text = path.read_text()
    first = int(text.split()[1])
    assert text == "".join(f"line {number}\n" for number in range(first, 200))


def test_flush_empties_the_current_files_of_those_that_run_and_of_those_that_do_not(home: Home) -> None:
    home.apply(home.sh("app", "echo out; echo err >&2; exec sleep 1000"), home.sh("down", "echo out; exec sleep 1000"))
    files = [Path(home.places.logs) / name for name in ("app.out.log", "app.err.log", "down.out.log")]
    wait_until(lambda: all(has(file, "\n") for file in files), "their lines")
    home.request(Act("stop", ["down"]))
    done = home.request(FlushLogs(["app"]))
    assert done.failed == {} and [view.name for view in done.instances] == ["app"]
    assert [file.read_text() for file in files] == ["", "", "out\n"]
    home.request(FlushLogs(["all"]))
    assert files[2].read_text() == ""
    with pytest.raises(Refused, match="no app or instance"):
        home.request(FlushLogs(["nobody"]))


def test_a_change_of_the_log_needs_no_new_process(home: Home) -> None:
    home.apply(ticker(home, home.folder / "one.log"))
    pid = home.pid("app")
    wait_until(lambda: has(home.folder / "one.log", "tick"), "a line")
    home.apply(ticker(home, home.folder / "two.log", logs=Logs(format="cri")))
    wait_until(
        lambda: has(home.folder / "two.log", " stdout F tick\n", 3), "lines in the other file, in the other form"
    )
    home.apply(ticker(home, home.folder / "two.log"))
    wait_until(lambda: has(home.folder / "two.log", "\ntick\ntick\n"), "raw lines")
    assert home.pid("app") == pid
    home.apply(ticker(home, "/dev/null"))
    assert home.pid("app") != pid


# --- a full disk ---


@pytest.fixture
def disk(home: Home) -> Iterator[Path]:
    mount = home.folder / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], check=True)
    yield mount
    home.apply(prune=True)
    subprocess.run(["umount", mount], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with open(ballast, "wb", 0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return ballast


COUNTS = "i=0; while [ $i -lt 12000 ]; do echo line $i; i=$((i+1)); done; touch {done}; exec sleep 1000"


@pytest.mark.parametrize("form", ["raw", "cri", "json"])
def test_on_a_full_disk_the_app_waits_and_nothing_is_lost(home: Home, disk: Path, form: str) -> None:
    ballast = fill(disk)
    path = disk / "app.log"
    path.touch()
    done = home.folder / "done"
    spec = home.sh("app", COUNTS.format(done=done), log_file=str(path), logs=Logs(format=form, max_size_mb=0))
    home.apply(spec)
    wait_until(lambda: "No space left on device" in warned(home) and "kept waiting" in warned(home), "the trouble")
    assert not done.exists()
    home.apply(home.sh("other", "echo fine; exec sleep 1000"))
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    wait_until(done.exists, "the app to go on")
    wait_until(lambda: has(path, "line 11999"), "all lines")
    text = path.read_bytes().lstrip(b"\0").decode()
    numbers = [int(line.rpartition("line ")[2].rstrip('"}')) for line in text.splitlines()]
    assert numbers == list(range(12000))
    wait_until(lambda: warned(home) == "", "the trouble to be over")
    assert ballast.exists()


@pytest.mark.parametrize("form", ["raw", "cri"])
def test_or_what_does_not_fit_is_dropped_and_counted(home: Home, disk: Path, form: str) -> None:
    fill(disk)
    path = disk / "app.log"
    path.touch()
    done = home.folder / "done"
    logs = Logs(format=form, max_size_mb=0, on_full="drop")
    home.apply(home.sh("app", COUNTS.format(done=done), log_file=str(path), logs=logs))
    wait_until(done.exists, "the app, which does not wait")
    assert "what it prints is dropped" in warned(home)
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    wait_until(lambda: has(path, "bytes were dropped here"), "the count")
    wait_until(lambda: warned(home) == "", "the trouble to be over")
    (notice,) = [line for line in path.read_text().splitlines() if "dropped here" in line]
    assert "No space left on device" in notice
    assert not list(Path(home.places.run).glob("*.dropped"))
    assert (" stdout F oxmgr: " in notice) == (form == "cri")


@pytest.mark.parametrize("form", ["raw", "cri"])
@pytest.mark.parametrize("then", ["runs", "has ended"])
def test_the_count_of_what_was_dropped_outlives_the_daemon(home: Home, disk: Path, form: str, then: str) -> None:
    fill(disk)
    path = disk / "app.log"
    path.touch()
    done = home.folder / "done"
    size = 1_000_000
    script = f"[ -e {done} ] || head -c {size} /dev/zero; touch {done}; exec sleep 1000"
    logs = Logs(format=form, max_size_mb=0, on_full="drop")
    home.apply(home.sh("app", script, log_file=str(path), logs=logs))
    wait_until(done.exists, "the app, which does not wait")
    pid = home.pid("app")
    home.kill_daemon()
    if then == "has ended":
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    home.start_daemon()
    wait_until(lambda: has(path, "bytes were dropped here"), "the count")
    (notice,) = [line for line in path.read_text().splitlines() if "dropped here" in line]
    dropped = int(notice.partition("oxmgr: ")[2].split()[0])
    assert "No space left on device" in notice
    assert 0 < dropped <= size
    wait_until(lambda: not list(Path(home.places.run).glob("*.dropped")), "the count to be forgotten")


def test_while_somebody_else_holds_its_file_an_app_waits_and_no_line_is_lost(home: Home) -> None:
    path = Path(home.places.logs) / "app.out.log"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        home.apply(home.sh("app", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"))
        home.until("app", lambda view: any("another process writes to it" in text for text in view.warnings))
    wait_until(lambda: len(path.read_text().splitlines()) == 20_000, "all of its lines")
    assert path.read_text() == "".join(f"line {number}\n" for number in range(20_000))


def test_a_file_that_somebody_has_a_lease_of_is_waited_for(home: Home) -> None:
    """As Samba has; open(2) with O_NONBLOCK fails then (EWOULDBLOCK), and SIGIO asks whoever has it to let go."""
    path = Path(home.places.logs) / "app.out.log"
    path.touch()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with path.open("a") as held:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            home.apply(
                home.sh("app", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000")
            )
            home.until("app", lambda view: any("temporarily unavailable" in text for text in view.warnings))
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        signal.signal(signal.SIGIO, before)
    wait_until(lambda: len(path.read_text().splitlines()) == 20_000, "all of its lines")
    assert path.read_text() == "".join(f"line {number}\n" for number in range(20_000))
    home.until("app", lambda view: not view.warnings)


def test_what_waits_for_one_log_goes_to_the_next(home: Home) -> None:
    path = Path(home.places.logs) / "app.out.log"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        home.apply(home.sh("app", "echo first", restart=NEVER))
        home.until("app", lambda view: view.status == "exited", "its end")
        other = home.folder / "other.log"
        home.apply(home.sh("app", "echo second", restart=NEVER, log_file=str(other)))
        wait_until(lambda: other.exists() and other.read_text() == "first\nsecond\n", "both lines")
    assert path.read_text() == ""

"""Rotated files are compressed aside, and whatever is killed when, no line is lost and nothing half-done stays."""

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oxmgr.folders import open_folder
from oxmgr.helpers.compress import compress
from oxmgr.model.spec import Logs
from oxmgr.supervisor.archive import Archive
from tests.conftest import REPOSITORY, Home, children, tree, wait_until
from tests.unit.logs import rotated_files

COUNT = 60_000
LOGS = Logs(max_size_mb=64 / 1024, max_files=1000)
PRINTS = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"


def content(path: str) -> str:
    if path.endswith(".gz"):
        with gzip.open(path, "rt") as file:
            return file.read()
    return Path(path).read_text()


def history(home: Home) -> str:
    path = f"{home.places.logs}/app.out.log"
    return "".join(content(one) for one in [*rotated_files(path), path])


def is_all_there(home: Home) -> bool:
    return home.log("app").endswith(f"line {COUNT - 1}\n")


def uncompressed(home: Home) -> list[str]:
    return [one for one in rotated_files(f"{home.places.logs}/app.out.log") if not one.endswith(".gz")]


def leftovers(home: Home) -> list[Path]:
    return [path for path in Path(home.places.logs).iterdir() if path.name.endswith((".part", "~next"))]


EXPECTED = "".join(f"line {number}\n" for number in range(COUNT))


def test_rotated_files_are_compressed_with_their_time_owner_and_mode(home: Home) -> None:
    home.apply(home.sh("app", PRINTS, logs=LOGS))
    wait_until(lambda: is_all_there(home) and not uncompressed(home), "all to be compressed", 30)
    assert history(home) == EXPECTED
    files = rotated_files(f"{home.places.logs}/app.out.log")
    assert len(files) >= 2 and not leftovers(home)
    for file in files:
        assert os.stat(file).st_mode & 0o777 == 0o640
        assert Path(f"{file.removesuffix('.gz')}.idx").exists()
    times = [os.stat(file).st_mtime_ns for file in files]
    assert times == sorted(times)


def test_compress_false_leaves_them_as_they_are(home: Home) -> None:
    home.apply(home.sh("app", PRINTS, logs=Logs(max_size_mb=64 / 1024, max_files=1000, compress=False)))
    wait_until(lambda: is_all_there(home), "the last line")
    assert history(home) == EXPECTED
    assert len(uncompressed(home)) >= 2


def helper_of(home: Home) -> int | None:
    assert home.daemon is not None
    for pid in tree(home.daemon.pid):
        try:
            if b"\0compress\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def big_rotated_file(home: Home) -> str:
    """One that takes a while to compress, as an earlier daemon has left it."""
    logs = Path(home.places.logs)
    logs.mkdir(exist_ok=True)
    path = logs / "app.out.log~20260101T000000.000000000Z"
    path.write_bytes(os.urandom(1 << 20) * 30)
    return str(path)


def test_the_helper_is_nice_dies_with_the_daemon_and_the_next_daemon_goes_on(empty_home: Home) -> None:
    home = empty_home
    path = big_rotated_file(home)
    size = os.stat(path).st_size
    home.start_daemon()
    home.apply(home.sh("app", "echo hello; exec sleep 1000", logs=Logs(max_days=0)))
    wait_until(lambda: helper_of(home) and Path(f"{path}.gz.part").exists(), "the helper to be at work")
    helper = helper_of(home)
    assert helper is not None
    assert Path(f"/proc/{helper}/stat").read_text().rpartition(") ")[2].split()[16] == "19"
    home.kill_daemon()
    wait_until(lambda: helper in children(), "the helper to be ours")
    assert os.WTERMSIG(os.waitpid(helper, 0)[1]) == signal.SIGKILL
    assert Path(path).exists() and not Path(f"{path}.gz").exists()
    home.start_daemon()
    home.apply(home.sh("app", "echo hello again; exec sleep 1000", logs=Logs(max_days=0)))
    wait_until(lambda: not Path(path).exists(), "the next one to go on", 60)
    assert not leftovers(home)
    with gzip.open(f"{path}.gz") as file:
        assert sum(len(piece) for piece in iter(lambda: file.read(1 << 20), b"")) == size


@pytest.mark.parametrize("step", range(16))
def test_a_kill_at_any_step_of_the_helper_loses_nothing(tmp_path: Path, step: int) -> None:
    name = tmp_path / "app.log~20260101T000000.000000000Z"
    data = b"".join(b"line %d\n" % number for number in range(50_000))
    name.write_bytes(data)
    os.utime(name, (1_700_000_000, 1_700_000_000))
    script = f"""
import os, signal
left = {step}
def around(call):
    def step(*args, **keys):
        global left
        result = call(*args, **keys)
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return step
from oxmgr.helpers import compress
within = os.open({str(tmp_path)!r}, os.O_PATH)
for call in ("open", "fchown", "fchmod", "utime", "fsync", "rename", "close", "unlink"):
    setattr(os, call, around(getattr(os, call)))
compress.compress(within, {name.name!r})
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False)
    # What the next one finds, it finishes.
    wanted: list[str] = []
    within = open_folder(str(tmp_path))
    Archive(wanted.extend).take_up(within, str(tmp_path / "app.log"), Logs(max_days=0))
    for one in wanted:
        compress(within, Path(one).name)
    os.close(within)
    (left,) = tmp_path.iterdir()
    assert left.name == f"{name.name}.gz" and int(left.stat().st_mtime) == 1_700_000_000
    assert gzip.decompress(left.read_bytes()) == data


def test_a_full_disk_leaves_the_file_as_it_is(empty_home: Home) -> None:
    home = empty_home
    logs = Path(home.places.logs)
    logs.mkdir(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", logs], check=True)
    try:
        rotated = logs / "app.out.log~20260101T000000.000000000Z"
        rotated.write_bytes(os.urandom(700_000))
        home.start_daemon()
        home.apply(home.sh("app", "echo hello; exec sleep 1000", logs=Logs(max_days=0)))
        said = Path(home.places.daemon_log)
        wait_until(lambda: "not compressed" in said.read_text(), "the daemon's log to say so")
        assert "No space left on device" in said.read_text()
        assert rotated.stat().st_size == 700_000 and not leftovers(home)
        home.apply(prune=True)
        home.stop_daemon()
    finally:
        subprocess.run(["umount", logs], check=True)


def test_an_old_rotated_file_goes_when_its_log_is_opened(empty_home: Home) -> None:
    home = empty_home
    logs = Path(home.places.logs)
    logs.mkdir(0o700)
    old = logs / "app.out.log~20250101T000000.000000000Z.gz"
    old.write_bytes(gzip.compress(b"old\n"))
    os.utime(old, (time.time() - 20 * 86400,) * 2)
    home.start_daemon()
    home.apply(home.sh("app", "echo hello; exec sleep 1000"))
    wait_until(lambda: not old.exists(), "the old one to go")

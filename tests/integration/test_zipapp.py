"""oxmgr.pyz: one file, which unpacks itself into the cache of whoever runs it (packaging/zipapp_start.py)."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, REPOSITORY, wait_until
from tests.integration.conftest import Ox
from tests.integration.test_runtime import USER

LOOP = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, or becomes another user")


def build(folder: Path, version: str, fault: str = "") -> str:
    """Of this package, but for its version, and for what its daemon does once it has been asked whether it could go on."""
    package = folder / version / "oxmgr"
    shutil.copytree(REPOSITORY / "oxmgr", package, ignore=shutil.ignore_patterns("__pycache__", "_native.c"))
    (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
    daemon = package / "supervisor/daemon.py"
    daemon.write_text(
        daemon.read_text().replace("    _make_folders(places)\n", f"    _make_folders(places)\n        {fault}\n")
    )
    target = folder / f"{version}.pyz"
    words = [sys.executable, str(REPOSITORY / "packaging/zipapp.py"), "--package", str(package), str(target)]
    subprocess.run(words, check=True, capture_output=True, timeout=10 * DEADLINE)
    return str(target)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of three versions, which any user can read."""
    folder = tmp_path_factory.mktemp("zipapp")
    for one in (folder, *folder.parents[:2]):
        one.chmod(0o755)
    return {version: build(folder, version) for version in ("1.0", "2.0", "3.0")}


@pytest.fixture
def one(empty: Ox, built: dict[str, str]) -> Ox:
    """The first version, in an empty home."""
    empty.command = built["1.0"]
    return empty


def cache(ox: Ox) -> Path:
    return ox.home.folder / "cache"


def folders(ox: Ox) -> list[str]:
    return sorted(os.listdir(cache(ox)))


def begun_in(pid: int) -> str:
    """The folder of the cache that a guard's program, or a daemon's, is in."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return str(re.findall(r"/cache/(\w+)/oxmgr/", " ".join(words))[0])


def test_an_app_lives_on_through_kills_and_versions(one: Ox, built: dict[str, str]) -> None:
    one("start", LOOP, "--name", "app")
    pid = one.home.pid("app")
    assert one.json("list")[0]["status"] == "running"
    assert one("logs", "app", "-n", "1").stdout.strip()
    before = one.home.about_daemon()
    assert before.version == "1.0" and before.guard
    [first] = folders(one)
    one.home.kill_guarded()
    after = one.home.about_daemon()
    assert (after.version, after.guard, one.home.pid("app")) == ("1.0", before.guard, pid)
    assert begun_in(after.pid) == begun_in(before.guard) == first

    one.command = built["2.0"]
    assert ": 2.0, 1.0 before, pid" in one("daemon", "reexec").stdout
    assert one.json("daemon", "status")["version"] == "2.0"
    [second] = set(folders(one)) - {first}
    guard = before.guard
    wait_until(lambda: os.readlink(f"/proc/{guard}/exe").startswith(f"{cache(one)}/{second}/"), "the other guard")
    one.home.kill_guarded()
    after = one.home.about_daemon()
    assert (after.version, one.home.pid("app")) == ("2.0", pid)
    assert begun_in(after.pid) == second
    one("stop", "app")
    lines = one.home.log("app").split("\n")[:-1]
    assert lines == [str(number) for number in range(len(lines))]


def test_a_version_that_does_not_start_is_followed_by_the_one_before(one: Ox, tmp_path: Path) -> None:
    one("start", LOOP, "--name", "app")
    pid = one.home.pid("app")
    one.command = build(tmp_path, "4.0", fault="raise CannotStart('it has a fault')")
    said = one("daemon", "reexec", code=1).stderr
    assert "the daemon of version 4.0 does not start: 1.0 goes on with all that runs" in said
    assert (one.home.about_daemon().version, one.home.pid("app")) == ("1.0", pid)


def test_folders_go_when_no_command_no_guard_and_no_app_needs_them(one: Ox, built: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one.oxfile(f'[processes.web]\ncommand = "exec sleep 1000"\nlisten = ["127.0.0.1:{port}"]\nbind_shim = true\n')
    one("start")
    [first] = folders(one)
    environ = Path(f"/proc/{one.home.pid('web')}/environ").read_bytes()
    assert f"/cache/{first}/".encode() in environ, "the app is to load something of it"
    follower = one.popen("logs", "-f", stdout=subprocess.PIPE)
    assert follower.stdout is not None
    one.command = built["2.0"]
    one("daemon", "reexec")
    [second] = set(folders(one)) - {first}
    one.command = built["3.0"]

    def unpack() -> set[str]:
        """A first start of the third version, once more."""
        for folder in set(folders(one)) - {first, second}:
            shutil.rmtree(cache(one) / folder)
        one("list")
        return set(folders(one)) & {first, second}

    assert unpack() == {first, second}
    one("restart", "web")
    assert unpack() == {first, second}
    follower.send_signal(signal.SIGINT)
    follower.wait(DEADLINE)
    follower.stdout.close()
    assert unpack() == {second}


def test_first_starts_at_once_unpack_one_folder(one: Ox) -> None:
    several = [one.popen("list", stderr=subprocess.PIPE) for _ in range(4)]
    for each in several:
        assert b"no daemon runs" in each.communicate(timeout=3 * DEADLINE)[1]
    assert len(folders(one)) == 1 and not folders(one)[0].startswith(".")
    assert (cache(one).stat().st_mode & 0o777, (cache(one) / folders(one)[0]).stat().st_mode & 0o777) == (0o700, 0o700)


def test_a_first_start_that_is_killed_leaves_nothing_that_counts(one: Ox) -> None:
    killed = one.popen("list", stderr=subprocess.DEVNULL)
    wait_until(lambda: cache(one).exists() and folders(one), "it unpacks")
    killed.kill()
    killed.wait()
    assert one("--version").stdout == "oxmgr 1.0\n"
    assert len(folders(one)) == 1 and not folders(one)[0].startswith(".")


def test_what_another_could_write_to_is_not_run(one: Ox) -> None:
    one("--version")
    [name] = folders(one)
    for path, why in ((cache(one) / name, "alone can write"), (cache(one), "written to by others")):
        path.chmod(0o770)
        assert why in one("--version", code=1).stderr
        path.chmod(0o700)
    one("--version")


@needs_root
@pytest.mark.parametrize(("option", "why"), [("ro", "Read-only file system"), ("noexec", "mounted with noexec")])
def test_where_it_cannot_run_it_says_what_to_do(one: Ox, option: str, why: str) -> None:
    cache(one).mkdir(0o700)
    script = f'mount -t tmpfs -o mode=700,{option} none {cache(one)} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", one.command, "list"],
        env=one.env,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 1 and why in done.stderr and "set OXMGR_HOME to a folder of yours" in done.stderr


@needs_root
def test_the_caches_of_root_and_of_a_user(one: Ox) -> None:
    del one.env["OXMGR_HOME"]
    script = 'mount -t tmpfs none /var/cache && "$@"; ls /var/cache/oxmgr'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", one.command, "--version"]
    printed = subprocess.run(words, env=one.env, capture_output=True, text=True, timeout=3 * DEADLINE).stdout.split()
    assert printed[:2] == ["oxmgr", "1.0"] and len(printed) == 3
    one.home.folder.chmod(0o755)
    theirs = one.home.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    for env, place in ({"HOME": str(theirs)}, ".cache/oxmgr"), ({"XDG_CACHE_HOME": str(theirs)}, "oxmgr"):
        subprocess.run(
            [*USER, one.command, "--version"], env={"PATH": one.env["PATH"], **env}, check=True, timeout=3 * DEADLINE
        )
        assert len(os.listdir(theirs / place)) == 1

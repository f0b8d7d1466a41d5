"""oxmgr as pip installs it, replaced by a later version while apps run."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.model.records import FORMAT
from tests.conftest import DEADLINE, REPOSITORY, wait_until
from tests.faults.reexec import COUNTS, is_in_order
from tests.integration.conftest import Ox

NAMES = ("a", "b", "c")
LATER = "9.1"
LEFT_OUT = {"__pycache__", "_native.c"}
DEPENDENCIES = ("msgspec", "cronsim", "pyroute2", "_cffi_backend*.so", "_prctl*.so")


class Environment:
    """A virtual environment of its own; what oxmgr depends on is linked into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", symlinks=True)
        self.bin = folder / "venv" / "bin"
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        for pattern in DEPENDENCIES:
            for path in Path(sysconfig.get_path("purelib")).glob(pattern):
                (self.site / path.name).symlink_to(path)

    def install(self, version: str) -> None:
        wheel = self.folder / f"oxmgr-{version}-py3-none-any.whl"
        write_wheel(wheel, version)
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "-q", "--no-input"]
        offline = ["--upgrade", "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)]
        done = subprocess.run([*pip, *offline], capture_output=True, text=True, timeout=10 * DEADLINE)
        assert done.returncode == 0, done


def write_wheel(path: Path, version: str) -> None:
    """Of this package as it was built here, but for its version (PyPA, "Binary distribution format")."""
    info = f"oxmgr-{version}.dist-info"
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: oxmgr\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\noxmgr = oxmgr.__main__:main\n",
        "oxmgr/__init__.py": f'__version__ = "{version}"\n',
    }
    package = REPOSITORY / "oxmgr"
    files = [file for file in package.rglob("*") if file.is_file() and not LEFT_OUT & {*file.parts}]
    with zipfile.ZipFile(path, "w") as wheel:
        for file in files:
            if file != package / "__init__.py":
                wheel.write(file, f"oxmgr/{file.relative_to(package)}")
        texts[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*wheel.namelist(), *texts))
        for name, text in texts.items():
            wheel.writestr(name, text)


@pytest.fixture
def installed(empty: Ox, tmp_path: Path) -> Environment:
    """This version, and the command of it."""
    made = Environment(tmp_path)
    made.install("9.0")
    empty.command = str(made.bin / "oxmgr")
    return made


@pytest.fixture
def running(empty: Ox, installed: Environment) -> Iterator[dict[str, int]]:
    """The pids of apps that print, which they have and whose lines are all there when the test is done."""
    empty.oxfile("".join(f"[processes.{name}]\ncommand = {COUNTS!r}\n" for name in NAMES))
    empty("start")
    pids = {name: empty.home.pid(name) for name in NAMES}
    assert empty.home.about_daemon().version == "9.0"
    yield pids
    assert {name: empty.home.pid(name) for name in NAMES} == pids
    empty("stop", "all")
    assert all(is_in_order(empty.home, name) for name in NAMES)


def started_by(guard: int | None) -> list[int]:
    """The daemons, up or not, that are its children at this moment."""
    found = []
    for pid in Path(f"/proc/{guard}/task/{guard}/children").read_text().split():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(pid)] if "supervise" in words else []
    return found


def guard_is_of(ox: Ox, environment: Environment) -> bool:
    """Whether it is the program that is installed, not one that was replaced."""
    guard = ox.home.about_daemon().guard
    return os.readlink(f"/proc/{guard}/exe") == str(environment.site / "oxmgr/oxmgr-guard")


def test_pip_and_one_command_bring_the_later_version(
    empty: Ox, installed: Environment, running: dict[str, int]
) -> None:
    before = empty.home.about_daemon()
    installed.install(LATER)
    assert empty.home.about_daemon().version == "9.0" and not guard_is_of(empty, installed)
    said = empty("daemon", "reexec").stdout
    print(said)
    assert re.fullmatch(rf"the daemon was replaced in \d+ ms: {LATER}, 9\.0 before, pid {before.pid}\n", said)
    after = empty.json("daemon", "status")
    assert (after["version"], after["pid"], after["guard"]) == (LATER, before.pid, before.guard)
    wait_until(lambda: guard_is_of(empty, installed), "its guard")
    empty.home.kill_guarded()
    assert empty.home.about_daemon().version == LATER


def test_a_daemon_that_dies_after_an_upgrade_is_followed_by_the_later_version(
    empty: Ox, installed: Environment, running: dict[str, int]
) -> None:
    installed.install(LATER)
    empty.home.kill_guarded()
    assert empty.home.about_daemon().version == LATER
    wait_until(lambda: guard_is_of(empty, installed), "its guard")


def test_a_daemon_that_dies_within_an_upgrade_is_followed_once_all_is_there(
    empty: Ox, installed: Environment, running: dict[str, int]
) -> None:
    before = empty.home.about_daemon()
    installed.install(LATER)
    aside = installed.site / "aside"
    (installed.site / "oxmgr").rename(aside)
    handle = os.pidfd_open(before.pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    wait_until(lambda: [pid for pid in started_by(before.guard) if pid != before.pid], "the guard tries")
    aside.rename(installed.site / "oxmgr")
    wait_until(lambda: empty.daemon() not in (None, before.pid), "the later version", 3 * DEADLINE)
    assert empty.home.about_daemon().version == LATER


def test_an_earlier_version_that_cannot_read_the_state_is_refused(
    empty: Ox, installed: Environment, running: dict[str, int]
) -> None:
    before = empty.home.about_daemon()
    path = Path(empty.home.places.desired)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(f"oxmgr desired {FORMAT}\n".encode(), f"oxmgr desired {FORMAT + 1}\n".encode()))
    installed.install("8.0")
    said = empty("daemon", "reexec", code=1).stderr
    path.write_bytes(whole)
    assert "nothing was changed" in said and f"{path}: it has format {FORMAT + 1}" in said
    assert "start a later version, or move this file away" in said
    assert empty.home.about_daemon() == before

"""systemd as PID 1 of a container in the guest, for what only a service of systemd's can show: delegation.

It has its own pids, mounts and cgroup root, knows no units but the ones that tests lay in its folder, and runs no
generators. So it is up within a few seconds on an emulated CPU, and gone with one kill.
"""

import os
import select
import shlex
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ["cpuset", "cpu", "io", "memory", "pids"]
BOOT_SECONDS = 60.0

# The container's root is the cgroup that unshare is in when it makes the namespace. It leaves at once: no process that
# systemd cannot move may stay there, or no controller can be enabled below.
ENTER = """
set -e
echo 0 >/sys/fs/cgroup/container/cgroup.procs
exec unshare --cgroup sh -ec 'echo 0 >/sys/fs/cgroup/cgroup.procs; exec "$@"' sh \\
    unshare --pid --fork --kill-child --mount-proc --mount --ipc --uts "$@"
"""
# The fresh /run keeps this systemd apart from the guest, where nobody shall take it for the guest's own.
CONTAINER = """
set -e
echo 0 >/sys/fs/cgroup/container/cgroup.procs
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 run /mnt
mkdir /mnt/tests
mount --bind /run/tests /mnt/tests
mount -n --move /mnt /run
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=tests SYSTEMD_UNIT_PATH="$1" \
    SYSTEMD_GENERATOR_PATH="$1/none" SYSTEMD_ENVIRONMENT_GENERATOR_PATH="$1/none" \
    /lib/systemd/systemd --unit=tests.target --log-target=console --show-status=no
"""
TARGET = "[Unit]\nDefaultDependencies=no\n"
SERVICE = """[Unit]
DefaultDependencies=no

[Service]
ExecStart=sh {script}
StandardOutput=file:{output}
StandardError=inherit
Delegate={delegate}
{settings}
"""


class Ended(NamedTuple):
    """A service that has run to its end."""

    code: int
    output: str
    cgroup: Path


class Service:
    """One that runs. Its cgroup is told as the tests see it, from outside of the container; so are the pids in it."""

    def __init__(self, systemd: "Systemd", name: str) -> None:
        self.systemd = systemd
        self.name = name
        self.cgroup = systemd.cgroup / "system.slice" / name
        self.output_file = systemd.folder / f"{name}.output"

    @property
    def output(self) -> str:
        """Both streams, what there is by now."""
        return self.output_file.read_text()

    def show(self, name: str) -> str:
        """A property, as `systemctl show` has it."""
        return self.systemd.systemctl("show", "--value", "-p", name, self.name)

    def stop(self) -> None:
        """As systemd stops it: SIGTERM, and in the end SIGKILL, to all that is in its cgroup."""
        self.systemd.systemctl("stop", self.name)


class Systemd:
    """Its folder has to be below /run/tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cgroup = CGROUPS / "container"
        self.cgroup.mkdir()
        enabled = (CGROUPS / "cgroup.subtree_control").read_text().split()
        self.enabled_here = [one for one in CONTROLLERS if one not in enabled]
        enable(self.enabled_here, "+")
        self.services: list[Service] = []
        self.started = 0
        (folder / "tests.target").write_text(TARGET)
        with open(folder / "log", "wb") as log:
            self.container = subprocess.Popen(
                ["sh", "-c", ENTER, "sh", "sh", "-c", CONTAINER, "sh", folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid1 = 0

    def wait_until_up(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        while not self.is_up():
            if time.monotonic() > end or self.container.poll() is not None:
                raise AssertionError(f"systemd does not come up: {(self.folder / 'log').read_text()}")
            select.select([], [], [], 0.1)

    def is_up(self) -> bool:
        children = Path(f"/proc/{self.container.pid}/task/{self.container.pid}/children").read_text().split()
        if not children:
            return False
        self.pid1 = int(children[0])
        if not os.readlink(f"/proc/{self.pid1}/exe").endswith("/systemd"):
            return False
        return self.try_systemctl("is-active", "tests.target").returncode == 0

    def run(self, *argv: str, delegate: bool, settings: str = "") -> Ended:
        """A command as a service, until it has ended."""
        service = self.lay(argv, delegate, f"Type=oneshot\nRemainAfterExit=yes\n{settings}")
        self.try_systemctl("start", service.name)
        code = int(service.show("ExecMainStatus"))
        return Ended(code, service.output, service.cgroup)

    def start(self, *argv: str, delegate: bool, settings: str = "Type=exec") -> Service:
        """A command as a service that is left running. `settings` are more lines for the unit's [Service]."""
        service = self.lay(argv, delegate, settings)
        done = self.try_systemctl("start", service.name)
        assert done.returncode == 0, f"{done.stdout}{service.output}"
        return service

    def lay(self, argv: tuple[str, ...], delegate: bool, settings: str) -> Service:
        self.started += 1
        service = Service(self, f"test{self.started}.service")
        self.services.append(service)
        # By way of a script, so that systemd's own quoting does not come into it.
        script = self.folder / f"{service.name}.sh"
        script.write_text(f"exec {shlex.join(argv)}\n")
        service.output_file.touch()
        (self.folder / service.name).write_text(
            SERVICE.format(
                script=script, output=service.output_file, delegate="yes" if delegate else "no", settings=settings
            )
        )
        return service

    def systemctl(self, *words: str) -> str:
        done = self.try_systemctl(*words)
        assert done.returncode == 0, f"systemctl {shlex.join(words)}: {done.stdout}"
        return done.stdout.strip()

    def try_systemctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        enter = ["nsenter", "-t", str(self.pid1), "--pid", "--mount", "--cgroup", "--ipc", "--uts"]
        return subprocess.run(
            [*enter, "systemctl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def stop_all(self) -> None:
        """All services that were started since the last time."""
        names = [service.name for service in self.services]
        self.services.clear()
        if names:
            self.systemctl("stop", *names)

    def end(self) -> None:
        """One kill, and with their PID 1 all that run in the container end. Its cgroups go, the controllers are set back."""
        self.container.kill()
        self.container.wait()
        if self.pid1:
            # It is killed with its parent, becomes a child of the suite, and takes all of its namespace along.
            os.waitpid(self.pid1, 0)
        for folder, _, _ in os.walk(self.cgroup, topdown=False):
            os.rmdir(folder)
        enable(self.enabled_here, "-")


def enable(controllers: list[str], sign: str) -> None:
    if controllers:
        (CGROUPS / "cgroup.subtree_control").write_text(" ".join(sign + one for one in controllers))

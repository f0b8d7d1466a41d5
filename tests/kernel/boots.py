"""Boots the VM with oxmgr as its process 1, for each way that there is for it to end. The host looks at the console."""

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.kernel.image import Kernel
from tests.kernel.marks import REPOSITORY

Virtme = Callable[[Path], list[str]]
End = Callable[[subprocess.Popen[bytes]], None]
# Far more than one takes on a busy machine.
BOOT_SECONDS = 900.0
DEADLINE = 30.0
CONSOLE_LINES = 80
OXMGR = REPOSITORY / ".venv/bin/oxmgr"
IN_ORDER = "trap 'echo begins; sleep 0.3; echo ends; exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done"
APPS = f'''
exit_when = "driver"
[processes.driver]
command = """INIT_VM=1 .venv/bin/python -m pytest -p no:cacheprovider -v -x tests/kernel/init >/run/out/output 2>&1
echo $? >/run/out/exit; trap 'exit 42' TERM; sleep 1000 & kill -TERM 1; wait"""
working_dir = "{REPOSITORY}"
restart = "never"
env = {{ HOME = "/run/tests", TMPDIR = "/run/tests", PYTHONDONTWRITEBYTECODE = "1", PYTEST_DISABLE_PLUGIN_AUTOLOAD = "1" }}
[processes.web]
command = """trap 'echo $OXMGR_INSTANCE_ID >>/run/heard' WINCH; while :; do sleep 1000 & wait $!; done"""
instances = 2
limits = {{ tasks_max = 9, memory_max_mb = 64, cpu_quota_percent = 50, required = true }}
[processes.counts]
command = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"
log_file = "/var/log/counts.log"
[processes.eats]
command = ["python3", "-c", "b'x' * (80 << 20)"]
env = {{ PATH = "{REPOSITORY}/.venv/bin" }}
restart = "never"
limits = {{ memory_max_mb = 40, swap_max_mb = 0, required = true }}
[processes.db]
command = "{IN_ORDER}"
[processes.api]
command = "{IN_ORDER}"
depends_on = ["db"]
'''
OFF = "oxmgr: switching the machine off; exit code {}\n"
PANIC = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x{:08x}"


class Boot:
    """`start` is what process 1 executes, `file` an oxfile that it finds as /run/out/oxfile.toml."""

    def __init__(self, folder: Path, start: str, file: str = "") -> None:
        self.out = folder / "out"
        self.out.mkdir(parents=True)
        (self.out / "start").write_text(f"exec {start}\n")
        (self.out / "oxfile.toml").write_text(file)
        self._console = folder / "console"

    def told(self, wrong: list[str]) -> list[str]:
        """With the console shown, if something is."""
        if wrong:
            print("the VM's console:", *self.console.splitlines()[-CONSOLE_LINES:], sep="\n  ")
        return wrong

    @property
    def console(self) -> str:
        return self._console.read_text(errors="replace").replace("\r\n", "\n")

    def run(self, kernel: Kernel, virtme: list[str], end: End, until: str = "") -> list[str]:
        """What is wrong with how it ended. Ctrl-Alt-Del is pressed when `until` is on the console."""
        words = f"{REPOSITORY}/tests/kernel/init.sh -- {REPOSITORY} {sys.base_prefix} {kernel.release}"
        append = f"console=ttyS0 panic=-1 quiet loglevel=1 cgroup_no_v1=all psi=1 init={words}"
        # Sockets have short names.
        with tempfile.TemporaryDirectory(prefix="ox-") as short, open(self._console, "wb") as console:
            monitor = f"{short}/monitor"
            more = ("-append", append, "-qmp", f"unix:{monitor},server=on,wait=off")
            vm = subprocess.Popen(
                [*virtme, *(f"--qemu-opt={word}" for word in more)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "TMPDIR": str(self.out.parent)},
                start_new_session=True,
            )
            try:
                return self._watch(vm, until, monitor)
            finally:
                end(vm)

    def _watch(self, vm: subprocess.Popen[bytes], until: str, monitor: str) -> list[str]:
        handle = os.pidfd_open(vm.pid)
        try:
            deadline = time.monotonic() + BOOT_SECONDS
            # The console is a file: nobody tells of a line.
            while not select.select([handle], [], [], 0.1)[0]:
                if until and until in self.console:
                    press_ctrl_alt_del(monitor)
                    until = ""
                if time.monotonic() > deadline:
                    return [f"the VM was killed: not done within {BOOT_SECONDS:.0f} s"]
            return []
        finally:
            os.close(handle)

    def lacks(self, *texts: str) -> list[str]:
        """What is not on the console behind what was before it."""
        at, wrong = 0, []
        for text in texts:
            found = self.console.find(text, at)
            at = max(at, found)
            if found < 0:
                wrong.append(f"not on the console, or not in this order: {text.strip()}")
        return wrong


def press_ctrl_alt_del(monitor: str) -> None:
    """By the QEMU Machine Protocol: a line is a message."""
    keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
    requests = ({"execute": "qmp_capabilities"}, {"execute": "send-key", "arguments": {"keys": keys}})
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as talk:
        sock.settimeout(DEADLINE)
        sock.connect(monitor)
        for request in requests:
            talk.write(f"{json.dumps(request)}\n")
            talk.flush()
            while "return" not in json.loads(talk.readline()):
                pass  # its greeting, an event


def apps(kernel: Kernel, folder: Path, virtme: Virtme, end: End) -> list[str]:
    """The tests run in it, as one of the apps; then SIGTERM."""
    boot = Boot(folder, f"{OXMGR} runtime /run/out/oxfile.toml", APPS)
    wrong = boot.run(kernel, virtme(boot.out), end)
    for name in ("output", "exit"):
        (boot.out / name).touch()
    sys.stdout.write((boot.out / "output").read_text())
    if (boot.out / "exit").read_text() != "0\n":
        wrong.append("the tests in it did not end well")
    stop = [f"{name} | {what}\n" for name in ("api", "db") for what in ("begins", "ends")]
    return boot.told(wrong + boot.lacks(*stop, OFF.format(42)))


def ctrl_alt_del(kernel: Kernel, folder: Path, virtme: Virtme, end: End) -> list[str]:
    boot = Boot(folder, f"{OXMGR} runtime /run/out/oxfile.toml", f'[processes.a]\ncommand = "{IN_ORDER}"\n')
    wrong = boot.run(kernel, virtme(boot.out), end, until="a | up\n")
    return boot.told(wrong + boot.lacks("a | up\n", "a | begins\n", "a | ends\n", OFF.format(0)))


def no_right_to_switch_off(kernel: Kernel, folder: Path, virtme: Virtme, end: End) -> list[str]:
    """The kernel says how its process 1 has ended, in the form of waitpid(2), in the midst of what that says itself."""
    boot = Boot(folder, f"setpriv --bounding-set -sys_boot {OXMGR} runtime -- sh -c 'echo up; exit 7'")
    wrong = boot.run(kernel, virtme(boot.out), end)
    return boot.told(wrong + boot.lacks("up\n") + boot.lacks(PANIC.format(7 << 8)))


BOOTS = (apps, ctrl_alt_del, no_right_to_switch_off)


def boot_all(kernel: Kernel, folder: Path, virtme: Virtme, end: End) -> list[str]:
    """`virtme` has the words that boot a VM which shares this folder for writing, `end` ends one."""
    wrong = []
    for boot in BOOTS:
        begun = time.monotonic()
        found = boot(kernel, folder / boot.__name__, virtme, end)
        print(f"oxmgr as init, {boot.__name__}: {'failed' if found else 'well'}, {time.monotonic() - begun:.0f} s")
        wrong += [f"{boot.__name__}: {text}" for text in found]
    return wrong

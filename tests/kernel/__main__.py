"""`make kernel-test`: boots a small VM, runs this folder's tests in it, shows what they print, ends as they did. Then
it boots it again with oxmgr as its process 1 (boots.py); with `init` as its argument, only that.

The VM is emulated in software, so it needs no right that a container or a build machine may lack. Its root is the
host's, which qemu exports read-only; the one folder that it shares for writing is made for the run and removed after it.
"""

import compileall
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import BinaryIO, NoReturn

import _prctl

from tests.kernel.boots import CONSOLE_LINES, boot_all
from tests.kernel.image import CannotGetKernel, Kernel, get_kernel
from tests.kernel.marks import MARKED, REPOSITORY

# The second half is for any host. The kernel of this one is not that of the VM, nor has it all of cgroup v2.
SUITE = ["tests/kernel", "tests/unit/test_cgroup.py", "tests/unit/test_native_rights.py"]
BUILD = REPOSITORY / "build" / "kernel"
VIRTME_RUN = Path(sys.executable).with_name("virtme-run")
# Far more than the suite takes on a busy machine, so that only what hangs is killed.
SUITE_SECONDS = 1500
BOOT_SECONDS = 60
SUMMARY = re.compile(rb"\b\d+ passed\b.* in \d+\.\d+s")


def main() -> int:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, leave)
    # virtme-run starts qemu; when it is killed, qemu becomes a child of ours, and is waited for.
    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
    try:
        kernel = get_kernel(BUILD)
    except CannotGetKernel as error:
        print(error, file=sys.stderr)
        return 1
    if sys.argv[1:] == ["init"]:
        return boot_with_oxmgr(kernel)
    named = any(word.startswith("tests/") for word in sys.argv[1:])
    arguments = sys.argv[1:] if named else [*SUITE, *sys.argv[1:]]
    code = prepare(kernel, arguments)
    if code != 0:
        return code
    with tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as folder:
        code = run(kernel, arguments, Path(folder))
    return code if len(sys.argv) > 1 else max(code, boot_with_oxmgr(kernel))


def boot_with_oxmgr(kernel: Kernel) -> int:
    with tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as folder:
        wrong = boot_all(kernel, Path(folder), lambda out: command(kernel, out, "true"), end)
    print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
    return 1 if wrong else 0


def leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def prepare(kernel: Kernel, arguments: list[str]) -> int:
    """Compile here what the guest would compile slowly and could not keep; find here what cannot even be collected."""
    compileall.compile_dir(REPOSITORY / "oxmgr", quiet=1)
    env = {**os.environ, "KERNEL_VM": kernel.release, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    collect = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *arguments]
    done = subprocess.run(collect, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stdout.buffer.write(done.stdout)
    return done.returncode


def run(kernel: Kernel, arguments: list[str], folder: Path) -> int:
    """One boot. The exit code is pytest's, or 1 when pytest did not come to its end or anything was written here."""
    out = folder / "out"
    out.mkdir()
    (folder / "tmp").mkdir()
    (out / "output").touch()
    mark = f"written-in-the-guest-{uuid.uuid4().hex}"
    guest = [
        *("sh", str(REPOSITORY / "tests/kernel/guest.sh"), str(REPOSITORY), sys.base_prefix),
        *(kernel.release, str(kernel.modules), mark),
    ]
    started = time.monotonic()
    with open(folder / "console", "wb") as console, open(out / "output", "rb") as output:
        vm = subprocess.Popen(
            command(kernel, out, shlex.join([*guest, str(SUITE_SECONDS), *arguments])),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            start_new_session=True,
        )
        try:
            ended, said = show(vm, output, started + BOOT_SECONDS + SUITE_SECONDS)
        finally:
            end(vm)
    code = (out / "exit").read_text().strip() if (out / "exit").exists() else ""
    wrong = []
    if not ended:
        wrong.append(f"the VM was killed: not done within {BOOT_SECONDS + SUITE_SECONDS} s")
    elif code == "":
        wrong.append("the VM ended before the tests did")
    elif code == "0" and not SUMMARY.search(said):
        wrong.append("the tests ended well, but without pytest's summary")
    elif code in ("124", "137"):
        wrong.append(f"the tests were killed: not done within {SUITE_SECONDS} s")
    if wrong:
        console_text = (folder / "console").read_text(errors="replace")
        print("the VM's console, its last lines:", *console_text.splitlines()[-CONSOLE_LINES:], sep="\n  ")
    written = [place / mark for place in MARKED if os.path.exists(place / mark)]
    for path in written:
        path.unlink()
    wrong += [f"a test in the VM wrote through to the host: {path.parent}" for path in written]
    print(*wrong, f"kernel {kernel.release}: {time.monotonic() - started:.0f} s with the boot", sep="\n", flush=True)
    return 1 if wrong else int(code)


def command(kernel: Kernel, out: Path, script: str) -> list[str]:
    # /run/out has to be the first share and /run/root the second: the guest mounts them by number.
    return [
        *(str(VIRTME_RUN), "--kimg", str(kernel.image), "--mods", "auto", "--disable-kvm", "--force-9p"),
        *("--cpus", "2", "--memory", "1G", "-a", "cgroup_no_v1=all", "-a", "psi=1"),
        *("--overlay-rwdir", "/etc", "--overlay-rwdir", "/var", "--overlay-rwdir", "/tmp"),
        *("--rwdir", f"run/out={out}", "--rodir", "run/root=/"),
        *("--show-boot-console", "--script-sh", script),
    ]


def show(vm: subprocess.Popen[bytes], output: BinaryIO, deadline: float) -> tuple[bool, bytes]:
    """Pass on what the tests print, as they print it: (the VM has ended by itself, the last of it)."""
    said = b""
    handle = os.pidfd_open(vm.pid)
    try:
        while True:
            # The file grows on the other side of a 9p share: nobody tells of it.
            ended = bool(select.select([handle], [], [], 0.1)[0])
            more = output.read()
            sys.stdout.buffer.write(more)
            sys.stdout.buffer.flush()
            said = (said + more)[-1000:]
            if ended or time.monotonic() > deadline:
                return ended, said
    finally:
        os.close(handle)


def end(vm: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the VM and reap it all. Its first process is not reaped before, so the group is still its own."""
    os.killpg(vm.pid, signal.SIGKILL)
    vm.wait()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main())

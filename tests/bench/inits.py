"""`python -m tests.bench.inits`: the same scenarios as process 1 of a pid namespace, for oxmgr, tini and dumb-init, as a
table in Markdown. As root; tini and dumb-init are Debian's packages. What is not there is left out.

Each cell is what was seen, in a container of its own: nothing is taken from anybody's documentation.
"""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Home, wait_until
from tests.containers import COMMAND, ORPHANS, Container

INITS = {
    "oxmgr": [COMMAND, "runtime", "--grace", "2"],
    "tini": ["tini"],
    "tini -g": ["tini", "-g"],
    "dumb-init": ["dumb-init"],
}
REWRITES = {"oxmgr": ["--rewrite", "TERM:QUIT"], "dumb-init": ["--rewrite", "15:3"]}
LOOP = "while :; do sleep 0.02; done"
PASSED_ON = ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "RTMIN")
PATIENCE = 6.0
STARTS = 7
LISTEN = """
import signal, sys
got = []
def on(number, frame): print(signal.Signals(number).name, flush=True)
for number in signal.valid_signals() - {9, 19, 17}: signal.signal(number, on)
print('up', flush=True)
while True: signal.pause()
"""
LEFT = """
import os, signal, time
reading, writing = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        if APART: os.setsid()
        def on(number, frame):
            os.write(2, b'asked'); time.sleep(0.2); os.write(2, b' and done'); os._exit(0)
        signal.signal(15, on)
        os.write(writing, b'x')
        if STOPPED: os.kill(os.getpid(), 19)
        while True: signal.pause()
    os._exit(0)
os.read(reading, 1)
time.sleep(0.1 if STOPPED else 0)
os._exit(5)
"""
GROUP = f"""trap 'wait; exit 0' TERM; (trap 'echo child; exit 0' TERM; echo up; {LOOP}) & {LOOP}"""


class Try:
    """One container with one init."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = Home(Path(tempfile.mkdtemp(prefix="ox-")))
        self.container = Container(self.home)
        self.container.program = [*INITS[name]]

    def start(self, *words: str, options: list[str] | None = None, terminal: int | None = None) -> Container:
        return self.container.start(*(options or []), "--", *words, terminal=terminal)

    def sh(self, script: str, options: list[str] | None = None) -> Container:
        return self.start("/bin/sh", "-c", script, options=options)

    def python(self, script: str) -> Container:
        return self.start(sys.executable, "-I", "-u", "-c", script)

    def end(self) -> None:
        self.container.end()
        self.home.end_cgroups()
        shutil.rmtree(self.home.folder)


def exit_codes(one: Try) -> str:
    """exit codes: `exit 7`, `kill -9 $$`, no such program, a file that is not executable"""
    codes = []
    for words in (["sh", "-c", "exit 7"], ["sh", "-c", "kill -9 $$; sleep 9"], ["no-such-program"], ["/etc/passwd"]):
        again = Try(one.name)
        try:
            codes.append(
                str(again.start(*words).code()) if (one.name, words[-1][:4]) != ("none", "kill") else "ignored"
            )
        finally:
            again.end()
    return ", ".join(codes)


def orphans(one: Try) -> str:
    """1,000 orphans: zombies left when 10 s have passed"""
    container = one.python(ORPHANS)
    container.code()
    return container.text.split()[-1]


def orphans_from_outside(one: Try) -> str:
    """the same of what `docker exec` runs"""
    container = one.sh(f"echo up; {LOOP}")
    container.until("up")
    assert container.init >= 0
    return container.run(sys.executable, "-I", "-c", ORPHANS).split()[-1]


def passed_on(one: Try) -> str:
    """HUP, INT, QUIT, USR1, USR2, WINCH, RTMIN come to the command"""
    container = one.python(LISTEN)
    container.until("up")
    missing = []
    for name in PASSED_ON:
        container.kill(getattr(signal, f"SIG{name}"))
        if not _comes(container, f"SIG{name}"):
            missing.append(name)
    return "all" if not missing else f"all but {', '.join(missing)}" if len(missing) < len(PASSED_ON) else "none"


def rewritten(one: Try) -> str:
    """TERM is passed on as QUIT"""
    if one.name not in REWRITES:
        return "cannot"
    container = one.sh(f"trap 'echo quit; exit 0' QUIT; echo up; {LOOP}", options=REWRITES[one.name])
    container.until("up")
    container.kill(signal.SIGTERM)
    return "yes" if _comes(container, "quit") else "no"


def to_the_group(one: Try) -> str:
    """TERM also comes to the command's children"""
    container = one.sh(GROUP)
    container.until("up")
    container.kill(signal.SIGTERM)
    return "yes" if _comes(container, "child") else "no"


def _comes(container: Container, text: str, seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while text not in container.text and select.select([container._reading], [], [], max(0, end - time.monotonic()))[0]:
        data = os.read(container._reading, 4096)
        container.printed += data
        if not data:
            break
    return text in container.text


def left_over(one: Try) -> str:
    """what the command leaves behind in its process group: asked by TERM, and waited for"""
    return _left(one, apart=False, stopped=False)


def left_over_apart(one: Try) -> str:
    """the same in a session of its own"""
    return _left(one, apart=True, stopped=False)


def left_over_stopped(one: Try) -> str:
    """the same when it is stopped (SIGSTOP)"""
    return _left(one, apart=True, stopped=True)


def _left(one: Try, *, apart: bool, stopped: bool) -> str:
    container = one.python(LEFT.replace("STOPPED", str(stopped)).replace("APART", str(apart)))
    code = container.code()
    assert code == 5, code
    said = container.text
    return {"": "killed at once", "asked": "asked, not waited for", "asked and done": "yes"}.get(said, said)


def stubborn(one: Try) -> str:
    """a command that ignores TERM is killed by the init itself"""
    container = one.sh(f"trap '' TERM; echo up; {LOOP}")
    container.until("up")
    container.kill(signal.SIGTERM)
    assert container.unshare is not None
    handle = os.pidfd_open(container.unshare.pid)
    try:
        return "after its grace" if select.select([handle], [], [], PATIENCE)[0] else "never"
    finally:
        os.close(handle)


def job_control(one: Try) -> str:
    """on a terminal: `bash -i` has job control"""
    ours, its = pty.openpty()
    container = one.container
    container._reading = ours
    one.start("bash", "--norc", "--noprofile", "-i", terminal=its)
    container.until("# ")
    shell = os.tcgetpgrp(ours)
    if "no job control" in container.text:
        return "no"
    os.write(ours, b"cat\n")
    wait_until(lambda: os.tcgetpgrp(ours) not in (0, shell), "cat is in the foreground")
    os.write(ours, b"both\n")
    if not _comes(container, "both\nboth\n", PATIENCE):
        return "no"
    os.write(ours, b"\x1a")
    stopped = _comes(container, "Stopped", PATIENCE)
    return "yes" if stopped else "no"


def what_it_gets(one: Try) -> str:
    """signals that whoever started the init ignores or blocks are not so for the command"""
    one.container.wrap = ["sh", "-c", "trap '' USR1 HUP; exec \"$@\"", "sh"]
    container = one.sh("grep ^SigIgn /proc/$$/status")
    container.code()
    ignored = int(container.text.split()[1], 16)
    return "yes" if not ignored & (1 << signal.SIGUSR1 - 1) else "no: ignored still"


def parent_killed(one: Try) -> str:
    """the process that reaps and supervises is killed: the command goes on, with the same pid"""
    if one.name != "oxmgr":
        return "process 1 cannot be killed"
    container = one.sh(f"echo up; {LOOP}")
    container.until("up")
    before = container.wait_until_up().home.pid("sh")
    container.kill_daemon()
    return "yes" if container.home.pid("sh") == before else "no"


def memory(one: Try) -> str:
    """memory of the init with all its processes, idle: RSS"""
    container = one.sh(f"echo up; {LOOP}")
    container.until("up")
    assert container.init >= 0
    total = 0
    for pid in [container.pid] + ([container.daemon()] if one.name == "oxmgr" else []):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return f"{total / 1024:.1f} MB"


def start(one: Try) -> str:
    """from the container's start to the command's end, for `true` (median)"""
    took = []
    for _ in range(STARTS):
        again = Try(one.name)
        try:
            begun = time.monotonic()
            again.start("true").code()
            took.append((time.monotonic() - begun) * 1000)
        finally:
            again.end()
    return f"{sorted(took)[STARTS // 2]:.0f} ms"


SCENARIOS: list[Callable[[Try], str]] = [
    *(
        exit_codes,
        orphans,
        orphans_from_outside,
        passed_on,
        rewritten,
        to_the_group,
        left_over,
        left_over_apart,
        left_over_stopped,
    ),
    *(stubborn, job_control, what_it_gets, parent_killed, memory, start),
]


def main() -> int:
    if os.geteuid():
        print("as root: this makes namespaces", file=sys.stderr)
        return 1
    names = [name for name, program in INITS.items() if shutil.which(program[0])]
    print(f"| | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for scenario in SCENARIOS:
        cells = []
        for name in names:
            one = Try(name)
            try:
                cells.append(scenario(one))
            except (AssertionError, subprocess.SubprocessError) as error:
                cells.append(f"failed: {str(error)[:60]}")
            finally:
                one.end()
        print(f"| {scenario.__doc__} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

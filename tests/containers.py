"""A container as unshare(1) makes one, with an init as its process 1."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oxmgr.client.connection import NoDaemon
from tests.conftest import DEADLINE, Home, end_tree, tree, wait_until

COMMAND = f"{os.path.dirname(sys.executable)}/oxmgr"

ORPHANS = """
import os, time
def stray(): # a child of a child that is gone
    if os.fork() == 0:
        if os.fork() == 0: pass
        os._exit(0)
for _ in range(1000): stray()
while True:
    try: os.wait()
    except ChildProcessError: break
def zombies():
    found = 0
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try: found += open(f'/proc/{pid}/stat').read().rpartition(') ')[2][0] == 'Z'
        except OSError: pass
    return found
end = time.monotonic() + 10
while zombies() and time.monotonic() < end: pass
print('zombies', zombies())
"""
"""A thousand processes whose parents are gone; how many zombies there are at last."""


class Container:
    """A pid and mount namespace, what its process 1 is (`program`; `wrap` is what executes it there), and what that
    prints. All in it ends with process 1."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.env = dict(home.env)
        self.namespaces = ["--pid", "--mount", "--mount-proc"]
        self.program = [COMMAND, "runtime"]
        self.wrap: list[str] = []
        self.printed = b""
        self.unshare: subprocess.Popen[bytes] | None = None
        self._reading = -1
        self._init = -1

    def start(self, *words: str, stdin: int = subprocess.DEVNULL, terminal: int | None = None) -> "Container":
        """`terminal`: the end of one that it is to have, as its controlling one."""
        leader = ["setsid", "-c"] if terminal is not None else []
        argv = ["unshare", "--fork", "--kill-child", *self.namespaces, *leader, *self.wrap, *self.program, *words]
        if terminal is None:
            self._reading, writing = os.pipe()
        else:
            stdin = writing = terminal
        self.unshare = subprocess.Popen(argv, env=self.env, stdin=stdin, stdout=writing, stderr=writing)
        os.close(writing)
        return self

    @property
    def init(self) -> int:
        """A pidfd of process 1, whose number out here is `pid` from then on."""
        if self._init < 0:
            wait_until(self._find_init, "there is a process 1")
        return self._init

    def _find_init(self) -> bool:
        assert self.unshare is not None
        for pid in tree(self.unshare.pid):
            status = Path(f"/proc/{pid}/status").read_text()
            if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE):
                self.pid, self._init = pid, os.pidfd_open(pid)
                return True
        return False

    def kill(self, number: int) -> None:
        signal.pidfd_send_signal(self.init, number)

    def until(self, text: str) -> str:
        """All that was printed, as soon as that is in it."""
        self._read(lambda: text in self.text, text)
        assert text in self.text, self.text
        return self.text

    @property
    def text(self) -> str:
        """What was printed, as its lines."""
        return self.printed.decode(errors="replace").replace("\r\n", "\n")

    def code(self) -> int:
        """Its exit code, and all is printed."""
        assert self.unshare is not None
        self._read(lambda: False, "its end")
        return self.unshare.wait(DEADLINE)

    def _read(self, done: Callable[[], bool], what: str) -> None:
        while not done():
            if not select.select([self._reading], [], [], 3 * DEADLINE)[0]:
                raise AssertionError(f"{what!r} does not come: {self.printed.decode(errors='replace')}")
            try:
                data = os.read(self._reading, 65536)
            except OSError:  # a terminal that nobody has any more
                data = b""
            self.printed += data
            if not data:
                return

    def run(self, *words: str, env: dict[str, str] | None = None) -> str:
        """What a command in it prints, as `docker exec` runs one."""
        argv = ["nsenter", "--target", str(self.pid), "--pid", "--mount", "--net", *words]
        return subprocess.run(
            argv, env=self.env if env is None else env, capture_output=True, text=True, check=True, timeout=DEADLINE
        ).stdout

    def list(self) -> dict[str, Any]:
        assert self.init >= 0
        return {one["name"]: one for one in json.loads(self.run(COMMAND, "list", "--json"))}

    def daemon(self) -> int:
        """Its pid out here, 0 when there is none that has come so far as to have its name."""
        assert self.init >= 0
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text() == "oxmgr\n":
                return int(pid)
        return 0

    def kill_daemon(self) -> None:
        """And wait until the next one answers."""
        before = self.daemon()
        handle = os.pidfd_open(before)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        wait_until(lambda: self.answers() and self.daemon() not in (0, before), "the next daemon answers")

    def answers(self) -> bool:
        try:
            self.home.views()
        except NoDaemon:
            return False
        return True

    def wait_until_up(self) -> "Container":
        assert self.init >= 0
        wait_until(self.answers, "the daemon answers")
        return self

    def end(self) -> None:
        if self.unshare is not None and self.unshare.poll() is None:
            end_tree(self.unshare.pid)
            self.unshare.wait()
        for fd in (self._reading, self._init):
            if fd >= 0:
                os.close(fd)

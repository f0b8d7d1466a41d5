"""The command `oxmgr`, as a user types it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oxmgr.client.connection import NoDaemon, connect
from oxmgr.model.messages import Apply, StopDaemon
from tests.conftest import DEADLINE, WITHOUT_CGROUPS, Home, children
from tests.containers import Container

COMMAND = f"{os.path.dirname(sys.executable)}/oxmgr"
Result = subprocess.CompletedProcess[str]


def hear_ctrl_c() -> None:
    """Also where these tests are run by a shell in the background, which has everything below it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Ox:
    """Runs commands in a project's folder, in a home of their own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.folder / "project"
        self.folder.mkdir()
        self.env = dict(home.env)
        self.command = COMMAND
        self._known = set(children())

    def __call__(self, *words: str, code: int | None = 0, cwd: Path | None = None, **options: Any) -> Result:
        """The result of a command that must end with that code (None: any)."""
        done = subprocess.run(
            [self.command, *words],
            cwd=cwd or self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
            check=False,
            **{"stdin": subprocess.DEVNULL} | options if "input" not in options else options,
        )
        assert code is None or done.returncode == code, (words, done)
        assert "Traceback (most" not in done.stderr or "oxmgr/cli" not in done.stderr, done
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.command, *words], cwd=self.folder, env=self.env, preexec_fn=hear_ctrl_c, **options
        )

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def app(self, name: str, text: str) -> Path:
        """An executable script."""
        return self.file(name, f"#!/bin/sh\n{text}\n", 0o755)

    def oxfile(self, text: str) -> Path:
        return self.file("oxfile.toml", text)

    def daemon(self) -> int | None:
        """The pid of the daemon that answers, if one does."""
        try:
            connection = connect(self.home.places)
        except NoDaemon:
            return None
        connection.close()
        return connection.daemon.pid

    def end(self) -> None:
        """Of the daemon that a command has started; the fixture of the home ends the other kind."""
        pid = self.daemon()
        if self.home.daemon is not None and pid in (None, self.home.daemon.pid):
            if pid is None:
                self.home.daemon.wait(DEADLINE)
            return
        if pid is not None:
            self.home.request(Apply([], prune=True))
            self.home.request(StopDaemon())
        # It tells before its last instruction that it ends, and so does one that could not start.
        end = time.monotonic() + DEADLINE
        while left := [child for child in children() if child not in self._known]:
            for child in left:
                handle = os.pidfd_open(child)
                ready = select.select([handle], [], [], max(0, end - time.monotonic()))[0]
                os.close(handle)
                if not ready:
                    return  # the fixture that all tests have says so
                os.waitpid(child, 0)


@pytest.fixture
def empty(empty_home: Home) -> Iterator[Ox]:
    """No daemon runs; whatever a command starts is ended."""
    ox = Ox(empty_home)
    yield ox
    ox.end()


@pytest.fixture
def ox(empty: Ox) -> Ox:
    """With a daemon."""
    empty.home.start_daemon()
    return empty


@pytest.fixture
def raw(home: Home) -> Iterator[socket.socket]:
    """A socket that is connected and has said nothing."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(home.places.socket)
        yield sock


@pytest.fixture
def container(empty_home: Home) -> Iterator[Container]:
    made = Container(empty_home)
    yield made
    made.end()


@pytest.fixture(params=["cgroup", "walk"])
def each(request: pytest.FixtureRequest, container: Container) -> Container:
    if request.param == "walk":
        container.wrap = WITHOUT_CGROUPS
    return container

"""A state folder without a daemon, and system calls that fail or are never come back from."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oxmgr.model.spec import Spec
from oxmgr.supervisor.desired import Desired, Draft
from oxmgr.supervisor.eventfile import EventFile
from oxmgr.supervisor.health import Health
from oxmgr.supervisor.journal import Journal
from oxmgr.supervisor.logfile import Log
from oxmgr.supervisor.spare import Spare

CALLS = ("makedirs", "open", "write", "fsync", "link", "unlink", "rename")
"""By which the store writes, each as a name of `os`."""


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def nothing_open(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process that is killed, or of which nothing is wanted any more, closes its files."""
    yield
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{tmp_path_factory.getbasetemp()}/"):
                os.close(fd)
        except OSError:
            continue  # the listing's own


@contextmanager
def told_of_calls(folder: Path, on_call: Callable[[str, Any], None]) -> Iterator[None]:
    """Call it before each of CALLS that is made for this folder, with its name and the arguments."""

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            where = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else args[0]
            reads = name == "open" and args[1] == os.O_RDONLY | os.O_CLOEXEC
            if where.startswith(str(folder)) and not reads:
                on_call(name, args)
            return real(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrapped(name))
        yield


class Times:
    """In place of a loop: what is set for later is called when a test says that it is later."""

    def __init__(self) -> None:
        self._due: list[Callable[[], object]] = []

    def at(self, when: float, callback: Callable[[], object]) -> "Times":
        self._due.append(callback)
        return self

    def cancel(self) -> None:
        self._due.clear()

    def pass_by(self) -> None:
        due, self._due = self._due, []
        for callback in due:
            callback()


class AtOnce:
    """In place of threads."""

    def run(self, work: Callable[[], object], done: Callable[[OSError | None], None]) -> None:
        error = None
        try:
            work()
        except OSError as failed:
            error = failed
        done(error)

    def later(self, what: Callable[[], object]) -> None:
        what()


class KeepsFds:
    """In place of a guard; -1 as its `fd` is none."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        self.kept: dict[str, int] = {}

    def keep(self, name: str, fd: int) -> None:
        self.forget(name)
        self.kept[name] = os.dup(fd)

    def claim(self, name: str) -> int:
        return os.dup(self.kept[name]) if name in self.kept else -1

    def forget(self, name: str) -> None:
        if name in self.kept:
            os.close(self.kept.pop(name))


class Store:
    """What a daemon has of a state folder."""

    def __init__(self, folder: Path, guard: KeepsFds | None = None) -> None:
        self.folder = folder
        self.times = Times()
        self.health = Health(str(folder), Log("/dev/null/none"))
        spares = [Spare(kind, guard or KeepsFds()) for kind in ("desired", "journal")]  # type: ignore[arg-type]
        self.desired = Desired(f"{folder}/desired", self.times, AtOnce(), self.health, spares[0])  # type: ignore[arg-type]
        self.journal = Journal(f"{folder}/journal", self.times, self.health, spares[1])  # type: ignore[arg-type]
        self.events = EventFile(f"{folder}/events", self.times, self.health)  # type: ignore[arg-type]

    def put(self, *names: str) -> OSError | None:
        """Desire these apps, and no others; what was told."""
        told: list[OSError | None] = []

        def change(draft: Draft) -> None:
            for name in list(draft.apps):
                draft.drop(name)
            for name in names:
                draft.put(Spec(name, "true", ["true"], "/"), f"NAME={name}\0".encode())

        self.desired.commit(change, told.append)
        return told[0]

    def names(self) -> str:
        return "".join(sorted(self.desired.apps))

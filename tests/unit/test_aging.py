"""Logs that nobody writes to: they too are kept for max_days and no longer."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxmgr.model.logindex import pack_entry, pack_head
from oxmgr.model.places import Places, find_places
from oxmgr.model.spec import Logs, Spec
from oxmgr.supervisor.aging import EVERY, FIRST, Aging
from oxmgr.supervisor.guard import Guard
from oxmgr.supervisor.instance import App, Instance
from oxmgr.supervisor.loop import Loop, Timer
from oxmgr.supervisor.outputs import Outputs

DAY = 24 * 3600
LOGS = Logs(max_days=10, compress=False)


class Clock(Loop):
    """Its timers are called when the test says so."""

    def __init__(self) -> None:
        super().__init__(lambda error: pytest.fail(repr(error)))
        self.set: list[tuple[float, Callable[[], object]]] = []

    def at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.set.append((when - time.monotonic(), callback))
        return Timer(callback, self)

    def pass_on(self) -> None:
        """The first timer, and all that it sets for at once."""
        self.set.pop(0)[1]()
        while now := [entry for entry in self.set if entry[0] <= 0]:
            self.set.remove(now[0])
            now[0][1]()


class AtOnce:
    def run(self, work: Callable[[], object], done: Callable[[OSError | None], None]) -> None:
        work()
        done(None)


class World:
    def __init__(self, folder: Path) -> None:
        self.places: Places = find_places({"OXMGR_HOME": str(folder)}, os.getuid())
        for path in (self.places.logs, self.places.run):
            os.makedirs(path)
        self.logs = Path(self.places.logs)
        self.clock = Clock()
        self.outputs = Outputs(self.clock, self.places, AtOnce(), lambda text: None, Guard(-1))  # type: ignore[arg-type]
        self.instances: list[Instance] = []
        self.aging = Aging(self.clock, AtOnce(), self.outputs, self.instances)  # type: ignore[arg-type]

    def app(self, name: str, logs: Logs = LOGS) -> Instance:
        app = App(Spec(name, "x", ["x"], "/", logs=logs), b"")
        app.instances[0] = Instance(app, 0)
        self.instances.append(app.instances[0])
        return app.instances[0]

    def file(self, name: str, *, first: float, last: float, indexed: bool = True) -> Path:
        """A file whose first and last line came so many days ago."""
        path = self.logs / name
        path.write_text(f"{name}\n")
        now = time.time()
        if indexed:
            entry = pack_entry(0, int((now - first * DAY) * 1e9))
            Path(f"{path}.idx").write_bytes(pack_head(path.stat().st_ino) + entry)
        os.utime(path, (now - last * DAY,) * 2)
        return path

    def names(self) -> list[str]:
        """All that is there, without indexes, and with the times in names left out."""
        found = (path.name for path in self.logs.iterdir() if not path.name.endswith(".idx"))
        return sorted(name.partition("~")[0] + ("~" if "~" in name else "") for name in found)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for instance in made.instances:
        for output in instance.outputs:
            output.close()


def test_rotated_files_of_idle_apps_go_when_they_are_too_old(world: World) -> None:
    world.app("idle")
    world.app("kept", Logs(max_days=0))
    for app in ("idle", "kept", "nobody's"):
        world.file(f"{app}.out.log~20260101T000000.000000000Z", first=30, last=11)
        world.file(f"{app}.out.log~20260102T000000.000000000Z", first=11, last=9)
    world.clock.pass_on()
    assert world.names() == [*["idle.out.log~"], *["kept.out.log~"] * 2, *["nobody's.out.log~"] * 2]
    assert len(list(world.logs.glob("idle*.idx"))) == 1


@pytest.mark.parametrize("runs", [False, True])
def test_the_current_file_is_rotated_when_its_first_line_is_too_old(world: World, runs: bool) -> None:
    world.file("old.out.log", first=11, last=1)
    world.file("young.out.log", first=9, last=1)
    world.file("for-ever.out.log", first=100, last=1)
    world.file("without-index.out.log", first=11, last=1, indexed=False)
    world.file("gone.out.log", first=100, last=100)
    apps = [world.app(name) for name in ("old", "young", "without-index", "gone")]
    for instance in [*apps, world.app("for-ever", Logs(max_days=0))]:
        if runs:
            instance.outputs = world.outputs.make(instance)
    world.clock.pass_on()
    assert world.names() == [
        *("for-ever.out.log", "gone.out.log", "old.out.log", "old.out.log~", "without-index.out.log", "young.out.log")
    ]
    (rotated,) = world.logs.glob("old.out.log~*Z")
    assert rotated.read_text() == "old.out.log\n" and (world.logs / "old.out.log").read_text() == ""
    assert (world.logs / "gone.out.log").read_text() == ""


def test_one_timer_looks_once_a_day_for_all_of_them(world: World) -> None:
    for number in range(50):
        world.app(f"app{number}")
    assert [round(when) for when, _ in world.clock.set] == [FIRST]
    for _ in range(3):
        world.clock.pass_on()
        assert [round(when) for when, _ in world.clock.set] == [EVERY] == [DAY]
    assert world.names() == []


def test_a_log_that_cannot_be_rotated_keeps_no_other_from_it(world: World) -> None:
    for name in ("a", "b", "c"):
        world.file(f"{name}.out.log", first=11, last=1)
        world.app(name)
    (world.logs / "b.out.log").rename(world.logs / "x")
    (world.logs / "b.out.log").mkdir()
    os.utime(world.logs / "b.out.log", (0, 0))
    world.clock.pass_on()
    assert [name for name in world.names() if "~" in name] == ["a.out.log~", "c.out.log~"]

"""When apps are due although the helper that knows it cannot be started, or hangs."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.model.spec import Spec
from oxmgr.supervisor import schedules
from oxmgr.supervisor.instance import App, Instance
from oxmgr.supervisor.loop import Loop
from oxmgr.supervisor.schedules import Schedules
from tests.conftest import DEADLINE, children


@pytest.fixture
def faults() -> list[Exception]:
    return []


@pytest.fixture
def loop(faults: list[Exception]) -> Loop:
    return Loop(faults.append)


@pytest.fixture
def watching(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Schedules]:
    monkeypatch.setattr(schedules, "AGAIN", 0.05)
    before = set(children())
    watching = Schedules(
        loop,
        lambda instance, event: None,
        lambda *told: None,
        lambda app: None,
        lambda app, instances, *told: instances,
    )
    yield watching
    watching.end()
    for pid in set(children()) - before:
        os.waitpid(pid, 0)


def job() -> App:
    app = App(Spec("job", "x", ["x"], "/", schedule="* * * * *"), b"")
    instance = app.instances[0] = Instance(app, 0)
    instance.state = replace(instance.state, status=is_.WAITING, desired=True)
    return app


def run_until(loop: Loop, what: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE

    def look() -> None:
        if what() or time.monotonic() > end:
            loop.stop()
        else:
            loop.at(time.monotonic() + 0.005, look)

    loop._going = True
    loop.at(0.0, look)
    loop.run()
    assert what()


@pytest.mark.parametrize("left", [0, 1, 2])
def test_without_file_descriptors_it_is_tried_again(
    loop: Loop, watching: Schedules, faults: list[Exception], left: int
) -> None:
    app = job()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(before[0]) if number not in taken][left]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        watching.update(app)
        run_until(loop, lambda: app.troubles)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "Too many open files" in app.troubles["schedule"]
    run_until(loop, lambda: app.next_run is not None and not app.troubles)
    assert not faults


def test_a_helper_that_hangs_is_given_up_and_tried_again(
    loop: Loop, watching: Schedules, faults: list[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 1000\n")
    hangs.chmod(0o755)
    app = job()
    with monkeypatch.context() as context:
        context.setattr(sys, "executable", str(hangs))
        context.setattr(schedules, "PATIENCE", 0.05)
        watching.update(app)
        run_until(loop, lambda: "its helper does not end" in app.troubles.get("schedule", ""))
    run_until(loop, lambda: app.next_run is not None and not app.troubles)
    assert not faults

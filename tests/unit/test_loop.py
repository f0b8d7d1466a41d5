"""The loop: fds, times, and callbacks that fail."""

import math
import os
import resource
import time

import pytest

from oxmgr.supervisor.loop import READ, Loop


def test_a_callback_that_raises_ends_nothing_and_is_told() -> None:
    faults: list[Exception] = []
    loop = Loop(faults.append)
    reading, writing = os.pipe()

    def heard(_: int) -> None:
        data = os.read(reading, 1)
        if data == b"x":
            raise RuntimeError("a fault")
        loop.stop()

    loop.add(reading, READ, heard)
    os.write(writing, b"xx.")
    loop.run()
    assert [str(fault) for fault in faults] == ["a fault", "a fault"]
    loop.remove(reading)
    os.close(reading)
    os.close(writing)


def test_timers_come_in_their_order_and_not_before_their_time() -> None:
    loop = Loop(lambda fault: None)
    begun = time.monotonic()
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, time.monotonic() - begun))

    loop.at(begun + 0.06, lambda: note("third"))
    loop.at(begun + 0.03, lambda: note("first"))
    loop.at(begun + 0.03, lambda: note("second"))
    loop.at(0.0, lambda: note("past"))
    loop.at(begun + 0.07, loop.stop)
    loop.run()
    assert [name for name, _ in seen] == ["past", "first", "second", "third"]
    assert all(late >= due for (_, late), due in zip(seen, [0, 0.03, 0.03, 0.06], strict=True))


def test_a_cancelled_timer_does_not_wake_the_loop() -> None:
    loop = Loop(lambda fault: None)
    begun = time.monotonic()
    seen: list[str] = []
    early, same = (loop.at(begun + 0.01, lambda: seen.append("cancelled")) for _ in range(2))
    loop.at(begun + 0.01, same.cancel)
    early.cancel()
    loop.at(begun + 0.05, loop.stop)
    before = voluntary_switches()
    loop.run()
    assert seen == ["cancelled"], "the second was called before the third could cancel it"
    assert voluntary_switches() - before <= 2

    loop = Loop(lambda fault: None)
    for number in range(100):
        loop.at(begun + 0.06 + number / 10_000, lambda: seen.append("never")).cancel()
    loop.at(time.monotonic() + 0.1, loop.stop)
    before = voluntary_switches()
    loop.run()
    assert seen == ["cancelled"]
    assert voluntary_switches() - before <= 1


@pytest.mark.parametrize("when", [10.0**18, math.inf, math.nan, 2**80, -math.inf, -1.0])
def test_no_time_that_is_asked_for_ends_the_loop(when: float) -> None:
    faults: list[Exception] = []
    loop = Loop(faults.append)
    seen: list[str] = []
    loop.at(when, lambda: seen.append("odd"))
    loop.at(time.monotonic() + 0.01, lambda: seen.append("due"))
    loop.at(time.monotonic() + 0.01, loop.stop)
    loop.run()
    assert seen == (["odd", "due"] if when < 0 else ["due"]) and faults == []


def test_cancelled_timers_of_a_far_future_are_not_kept_until_then() -> None:
    loop = Loop(lambda fault: None)
    seen: list[int] = []
    begun = time.monotonic()
    kept = [loop.at(begun + 0.01 + number / 1e5, lambda number=number: seen.append(number)) for number in range(100)]  # type: ignore[misc]
    for _ in range(10_000):
        loop.at(begun + 3600, lambda: None).cancel()
    assert len(loop._timers) < 1000
    kept[50].cancel()
    kept[50].cancel()
    loop.at(begun + 0.05, loop.stop)
    loop.run()
    assert seen == [number for number in range(100) if number != 50]


def voluntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def test_a_chain_of_timers_lets_fds_have_their_turn() -> None:
    faults: list[Exception] = []
    loop = Loop(faults.append)
    fd = os.eventfd(1)
    turns: list[str] = []

    def again() -> None:
        turns.append("timer")
        loop.at(0.0, again if len(turns) < 1000 else loop.stop)

    def heard(_: int) -> None:
        os.eventfd_read(fd)
        turns.append("fd")

    loop.add(fd, READ, heard)
    loop.at(0.0, again)
    loop.run()
    loop.remove(fd)
    os.close(fd)
    assert not faults and "fd" in turns[:3]


def test_a_timer_may_set_another_and_an_fd_may_be_removed_by_another() -> None:
    loop = Loop(lambda fault: None)
    pipes = [os.pipe() for _ in range(2)]
    seen: list[int] = []

    def heard(number: int) -> None:
        seen.append(number)
        loop.remove(pipes[1 - number][0])
        loop.at(time.monotonic(), lambda: loop.at(time.monotonic(), loop.stop))

    for number, (reading, writing) in enumerate(pipes):
        loop.add(reading, READ, lambda _, number=number: heard(number))  # type: ignore[misc]
        os.write(writing, b"x")
    loop.run()
    assert set(seen) == {seen[0]}
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_what_was_told_of_an_fd_is_not_told_to_the_next_that_has_its_number() -> None:
    loop = Loop(lambda fault: None)
    pipes = [os.pipe() for _ in range(2)]
    seen: list[int] = []

    def heard(_: int) -> None:
        """Both are ready. Whichever comes first closes the other, and another fd gets that one's number."""
        for reading, writing in pipes:
            loop.remove(reading)
            os.close(reading)
            os.close(writing)
        pipes[:] = [os.pipe() for _ in pipes]
        for reading, _writing in pipes:
            loop.add(reading, READ, seen.append)
        loop.at(0.0, loop.stop)

    numbers = [pipe[0] for pipe in pipes]
    for reading, writing in pipes:
        loop.add(reading, READ, heard)
        os.write(writing, b"x")
    loop.run()
    assert [pipe[0] for pipe in pipes] == numbers and seen == []
    for reading, writing in pipes:
        loop.remove(reading)
        os.close(reading)
        os.close(writing)

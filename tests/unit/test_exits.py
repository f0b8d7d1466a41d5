"""Ends are told of, whatever else fails."""

from types import SimpleNamespace
from typing import Any

from oxmgr.lifecycle.events import Exited
from oxmgr.supervisor.exits import Exits
from oxmgr.supervisor.loop import Loop


def test_a_log_that_raises_keeps_nobody_from_hearing_of_an_end() -> None:
    faults: list[Exception] = []
    sent: list[Any] = []
    moved: list[str] = []

    def fails() -> None:
        raise ValueError("a closed pipe")

    launcher = SimpleNamespace(end_of=lambda one, code, number, empty: Exited(code, number, empty))
    fleet = SimpleNamespace(
        trees=SimpleNamespace(),
        launcher=launcher,
        turns=SimpleNamespace(take_stop=lambda one: None),
        shares=lambda one: False,
        send=lambda one, event: sent.append(event),
    )
    outputs = (SimpleNamespace(finish=fails), SimpleNamespace(finish=lambda: moved.append("stderr")))
    exits = Exits(fleet, Loop(faults.append))  # type: ignore[arg-type]
    exits.ended(SimpleNamespace(outputs=outputs), 3, None, empty=True)  # type: ignore[arg-type]
    assert sent == [Exited(3, None, True)] and moved == ["stderr"]
    assert [str(fault) for fault in faults] == ["a closed pipe"]

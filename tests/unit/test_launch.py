"""What is heard of a daemon that was started."""

import os
import signal

import pytest

from oxmgr.client import launch
from oxmgr.client.connection import NoDaemon


def tells(monkeypatch: pytest.MonkeyPatch, *words: bytes, lives: bool) -> None:
    """That is what comes of what is executed; it lives for 5 s, or not at all."""

    def execute(told: int = -1, **_: object) -> None:
        for word in words:
            os.write(told, word)
        os.close(told)
        signal.alarm(5)
        if lives:
            signal.pause()

    monkeypatch.setattr(launch, "_exec", execute)


@pytest.mark.parametrize("words", [[b"\n"], [b"\n", b"\n"]], ids=["one", "and one after it"])
def test_a_daemon_that_answers_is_there_also_when_it_dies_as_it_says_so(
    monkeypatch: pytest.MonkeyPatch, words: list[bytes]
) -> None:
    tells(monkeypatch, *words, lives=True)
    pid = launch.start_attached()
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "why"), [([], "ended while it started"), ([b"no room\n"], "no room"), ([b"\n", b"no room\n"], "no room")]
)
def test_why_there_is_none_is_told(monkeypatch: pytest.MonkeyPatch, words: list[bytes], why: str) -> None:
    tells(monkeypatch, *words, lives=False)
    with pytest.raises(NoDaemon, match=why):
        launch.start_attached()

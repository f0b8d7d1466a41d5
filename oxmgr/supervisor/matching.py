"""Waits for a line that an app prints, for `ready = "log:REGEX"`: a helper reads its log files and looks for it, since
what an app prints passes through here without being looked at."""

import os

from oxmgr.model.logpaths import log_paths
from oxmgr.supervisor.helper import end_helper, start_helper
from oxmgr.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop

HELPER = "match"


class Matching:
    """`done` is called with "" when the line has come, else with why it cannot be waited for."""

    def __init__(self, loop: "Loop", instance: "Instance", pattern: str, done: "Callable[[str], object]") -> None:
        self._loop = loop
        self._done = done
        self._said = b""
        self._reading, said = os.pipe2(os.O_CLOEXEC)
        held, self._hold = os.pipe2(os.O_CLOEXEC)
        self._pidfd = -1
        words = [pattern]
        for path, offset in instance.marks.items():
            words += [path, str(offset)]
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            _, self._pidfd = start_helper(HELPER, words, [held, said, null])
        except OSError:
            # The end of the file follows at once.
            pass
        finally:
            for fd in (said, held, null):
                os.close(fd)
        loop.add(self._reading, READ, self._on_said)

    def _on_said(self, _: int) -> None:
        data = os.read(self._reading, 4096)
        self._said += data
        if self._said == b"ok\n" or not data or len(self._said) > 4096:
            self._end("" if self._said == b"ok\n" else "its log cannot be read")

    def close(self) -> None:
        self._done = lambda why: None
        self._end("")

    def _end(self, why: str) -> None:
        if self._reading < 0:
            return
        self._loop.remove(self._reading)
        os.close(self._reading)
        self._reading = -1
        # The end of its input, at which it ends; with a pidfd it need not even be waited for.
        os.close(self._hold)
        end_helper(self._pidfd)
        self._done(why)


def marks(instance: "Instance", logs: str) -> dict[str, int]:
    """The log files of an instance, and where in each what it prints from now on begins."""
    found: dict[str, int] = {}
    for path in dict.fromkeys(log_paths(instance.app.spec, instance.index, logs)):
        try:
            found[path] = os.stat(path).st_size
        except OSError:
            found[path] = 0
    return found

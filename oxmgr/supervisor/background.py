"""Work that waits for something, off the loop: a thread a piece, whose end an eventfd tells to the loop."""

import _thread
import os

from oxmgr.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.loop import Loop


class Background:
    """`run` may be called from the loop alone."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._ended: list[tuple[Callable[[OSError | None], None], OSError | None]] = []
        self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add(self._told, READ, self._on_told)

    def run(self, work: "Callable[[], object]", done: "Callable[[OSError | None], None]") -> None:
        """Call `work` in a thread, then `done` in the loop, with the OSError that `work` raised or None."""

        def thread() -> None:
            error: OSError | None = None
            try:
                work()
            except OSError as failed:
                error = failed
            except Exception as fault:
                # A fault of ours: whoever waits for the end must hear of it all the same.
                error = OSError(5, f"{type(fault).__name__}: {fault}")
            self._ended.append((done, error))
            os.eventfd_write(self._told, 1)

        try:
            _thread.start_new_thread(thread, ())
        except RuntimeError:
            # There can be no more threads, or none at all: filters exist that deny clone3 with EPERM, after which the
            # C library tries nothing else. So the loop has to wait for this.
            thread()

    def later(self, what: "Callable[[], object]") -> None:
        """Call it from the loop soon, so that a fault in it is nobody else's."""
        self._loop.at(0.0, what)

    def _on_told(self, _: int) -> None:
        os.eventfd_read(self._told)
        ended, self._ended = self._ended, []
        for done, error in ended:
            self.later(lambda done=done, error=error: done(error))  # type: ignore[misc]

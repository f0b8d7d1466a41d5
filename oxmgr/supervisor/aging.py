"""Has logs that nobody writes to rotated and removed when they are max_days old; those that are written to see to it
themselves.

One timer for all of them: a look a day. So what is old goes within a day, and a daemon whose apps are idle is woken by
nothing else.
"""

import time

from oxmgr.supervisor.archive import prune_all
from oxmgr.supervisor.logtimes import first_line_ns
from oxmgr.supervisor.rawlog import is_old

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.loop import Loop
    from oxmgr.supervisor.outputs import Outputs

FIRST = 600.0
"""Seconds after the start of the daemon: its apps come first, and one that is started anew each day looks as well."""
EVERY = 24 * 3600.0


class Aging:
    def __init__(
        self, loop: "Loop", background: "Background", outputs: "Outputs", instances: "Iterable[Instance]"
    ) -> None:
        self._loop = loop
        self._background = background
        self._outputs = outputs
        self._instances = instances
        self._in(FIRST)

    def _in(self, seconds: float) -> None:
        self._loop.at(time.monotonic() + seconds, self._look)

    def _look(self) -> None:
        """In a thread, for there may be thousands of files; what is found is rotated one at a time between all else."""
        self._in(EVERY)
        whose = {
            path: instance
            for instance in self._instances
            if instance.app.spec.logs.max_days
            for path in self._outputs.own_files(instance)
        }
        wanted = {path: instance.app.spec.logs for path, instance in whose.items()}
        old: list[tuple[Instance, str]] = []

        def look() -> None:
            prune_all(wanted)
            old.extend((whose[path], path) for path, logs in wanted.items() if is_old(first_line_ns(path), logs))

        self._background.run(look, lambda error: self._rotate(old))

    def _rotate(self, old: "list[tuple[Instance, str]]") -> None:
        if not old:
            return
        instance, path = old.pop()
        self._loop.at(0.0, lambda: self._rotate(old))
        if not instance.gone:
            try:
                self._outputs.rotate_old(instance, path)
            except OSError:
                # Its next line tells what is wrong with it, or the next look finds it mended.
                return

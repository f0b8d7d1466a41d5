"""What happened, told to the event file, to the last few hundred kept here, and to whoever follows."""

import time

from oxmgr.model.codec import encode
from oxmgr.model.frames import frame
from oxmgr.model.messages import Event
from oxmgr.model.signals import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.lifecycle.events import State
    from oxmgr.supervisor.eventfile import EventFile
    from oxmgr.supervisor.feed import Feed
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.logfile import Log

KEPT = 256
REASON_LIMIT = 2000
"""Characters."""
ENDS = ("crashed", "exited", "stopped", "errored", "oom")


class Events:
    """`recent` are the frames of the last ones, the very last that of number `last`; the older ones are in `file`.
    `feeds` hear of each as it comes, and `heard` and `on_event` are called with each."""

    def __init__(self, file: "EventFile", log: "Log") -> None:
        found = file.recent()[-KEPT:]
        self.file = file
        self.last = file.count_from(found[-1].seq if found else 0)
        self.recent: list[bytes] = []
        self.feeds: list[Feed] = []
        self.on_event: Callable[[Event], object] = lambda event: None
        self.heard: Callable[[Event, Instance | None, State | None], None] = lambda event, instance, state: None
        self._log = log
        for event in found:
            # What could not be written is nowhere; those here are in a row.
            if event.seq == self.last - len(found) + len(self.recent) + 1:
                self.recent.append(frame(encode(event)))
            else:
                self.recent.clear()
                break

    @property
    def first(self) -> int:
        """The number of the first one of `recent`; without any, of the next event."""
        return self.last - len(self.recent) + 1

    def tell(
        self,
        kind: str,
        instance: "Instance | None" = None,
        state: "State | None" = None,
        reason: str = "",
        app: str = "",
    ) -> None:
        self.last += 1
        # A reason can have a path in it, which need not be text.
        reason = reason.encode(errors="backslashreplace").decode()
        if len(reason) > REASON_LIMIT:
            reason = f"{reason[:REASON_LIMIT]}…"
        event = Event(self.last, time.time(), kind, app, reason=reason)
        if instance is not None:
            event.app, event.instance = instance.app.spec.name, instance.name
        if state is not None:
            event.pid = state.pid or None
            if kind in ENDS:
                event.exit_code = state.exit_code
                event.signal = None if state.signal is None else signal_name(state.signal)
        self.file.add(event)
        self.recent.append(frame(encode(event)))
        if len(self.recent) > 2 * KEPT:
            del self.recent[:KEPT]
        for feed in list(self.feeds):
            feed.hear()
        self.on_event(event)
        self._log(" ".join(filter(None, (event.instance or event.app or "daemon", kind, reason))))
        self.heard(event, instance, state)

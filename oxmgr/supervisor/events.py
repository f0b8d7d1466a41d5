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
    from oxmgr.supervisor.instance import Instance
    from oxmgr.supervisor.logfile import Log

KEPT = 256


class Events:
    """`recent` are (sequence number, frame); `followers` are called with each frame as it comes."""

    def __init__(self, file: "EventFile", log: "Log") -> None:
        self.recent: list[tuple[int, bytes]] = [(event.seq, frame(encode(event))) for event in file.recent()[-KEPT:]]
        self.followers: list[Callable[[bytes], None]] = []
        self._seq = self.recent[-1][0] if self.recent else 0
        self._file = file
        self._log = log

    def tell(
        self,
        kind: str,
        instance: "Instance | None" = None,
        state: "State | None" = None,
        reason: str = "",
        app: str = "",
    ) -> None:
        self._seq += 1
        # A reason can have a path in it, which need not be text.
        reason = reason.encode(errors="backslashreplace").decode()
        event = Event(self._seq, time.time(), kind, app, reason=reason)
        if instance is not None:
            event.app, event.instance = instance.app.spec.name, instance.name
        if state is not None:
            event.pid = state.pid or None
            if kind in ("crashed", "exited", "stopped", "errored"):
                event.exit_code = state.exit_code
                event.signal = None if state.signal is None else signal_name(state.signal)
        self._file.add(event)
        sent = frame(encode(event))
        self.recent.append((self._seq, sent))
        if len(self.recent) > 2 * KEPT:
            del self.recent[:KEPT]
        for follower in list(self.followers):
            follower(sent)
        self._log(" ".join(filter(None, (event.instance or event.app or "daemon", kind, reason))))

"""A client's way through the events, as fast as it reads: what it has not taken waits in the files, not in memory."""

from oxmgr.model.frames import frame
from oxmgr.model.messages import EventsEnd, EventsLost
from oxmgr.supervisor.eventfile import EventReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.messages import GetEvents
    from oxmgr.supervisor.control import Client
    from oxmgr.supervisor.events import Events
    from oxmgr.supervisor.loop import Loop


class Feed:
    """Begins with the past ones that were asked for, the latest of them from memory, the others from the files, a
    slice a turn of the loop. `_last` is the number of the last one that was sent or is not wanted."""

    def __init__(self, events: "Events", client: "Client", loop: "Loop", wanted: "GetEvents") -> None:
        self._events = events
        self._client = client
        self._loop = loop
        self._follow = wanted.follow
        begin = max(wanted.after, events.last - wanted.limit)
        self._last = min(begin, events.last)
        # Whoever names the last one that it has is told when those behind it are gone.
        self._in_a_row = begin == wanted.after > 0
        self._past = True
        self._ended = False
        self._coming = False
        self._reader: EventReader | None = None
        self._gave = False
        events.feeds.append(self)
        client.on_room = self.hear
        client.on_close.append(self._end)
        self._go_on()

    def hear(self) -> None:
        """There is another event, or the client has taken what it was sent."""
        if not self._coming and not self._ended:
            self._go_on()

    def _go_on(self) -> None:
        self._coming = False
        if self._ended or self._client.full:
            return
        if self._last + 1 < self._events.first:
            self._send_slice()
        else:
            self._send_recent()
        if self._ended:
            return
        if self._last < self._events.last:
            # A client that is full says itself when it has room.
            if not self._client.full:
                self._coming = True
                self._loop.at(0.0, self._go_on)
        elif self._past:
            self._past = False
            if self._follow:
                self._client.send(EventsEnd())
            else:
                self._end()
                self._client.finish(EventsEnd())

    def _send_recent(self) -> None:
        self._close_reader()
        recent = self._events.recent
        at = self._last + 1 - self._events.first
        for sent in recent[at:]:
            if self._ended or self._client.full:
                return
            self._last += 1
            self._in_a_row = True
            self._client.send_frame(sent)

    def _send_slice(self) -> None:
        reader = self._reader = self._reader or EventReader(self._events.file.path, self._last)
        found = reader.more()
        if found is None:
            # The rest of those before `first` is in a file that was begun after these were opened, or nowhere.
            self._close_reader()
            if not self._gave:
                self._skip_to(self._events.first)
            self._gave = False
            return
        for seq, payload in found:
            if self._ended or seq >= self._events.first:
                return
            self._skip_to(seq)
            self._last = seq
            self._gave = True
            self._client.send_frame(frame(payload))

    def _skip_to(self, seq: int) -> None:
        missing = seq - self._last - 1
        if missing and self._in_a_row:
            self._client.send(EventsLost(missing))
        self._in_a_row = True
        self._last = seq - 1

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _end(self) -> None:
        self._ended = True
        self._client.on_room = None
        self._close_reader()
        if self in self._events.feeds:
            self._events.feeds.remove(self)

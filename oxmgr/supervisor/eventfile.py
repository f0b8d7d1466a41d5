"""What happened, for later readers: appended without fsync. Owns `events`, and `events.1` with those before."""

import os
import time

from oxmgr.model.codec import UNREADABLE, Decoder, encode
from oxmgr.model.messages import Event
from oxmgr.model.records import MARK, Newer, file_header, read_records, record
from oxmgr.supervisor.files import MISSING, RETRY, append, open_append, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.loop import Loop, Timer

EVENTS_LIMIT = 1024 * 1024
RECENT = 32 * 1024
KIND = "events"
KEPT = 256
"""How many wait to be written while they cannot be; the earliest are given up."""
UNSAVED = f"the last {KEPT} events are in memory only"


class EventFile:
    """Each file has EVENTS_LIMIT bytes, and what was written last, at most."""

    def __init__(self, path: str, loop: "Loop", health: "Health") -> None:
        self._path = path
        self._loop = loop
        self._health = health
        self._fd = -1
        self._size = 0
        self._waiting: list[bytes] = []
        self._retry: Timer | None = None

    def recent(self) -> list[Event]:
        """The last of them, some hundreds, oldest first."""
        decoder = Decoder(Event)
        events: list[Event] = []
        for payload in self._read_end()[0]:
            try:
                events.append(decoder.decode(payload))
            except UNREADABLE:
                continue
        return events

    def add(self, event: Event) -> None:
        self._waiting.append(record(encode(event)))
        if self._retry is None:
            self._write()
        del self._waiting[:-KEPT]

    def _write(self) -> None:
        self._retry = None
        try:
            if self._size > EVENTS_LIMIT:
                os.rename(self._path, f"{self._path}.1")
                self._close()
            if self._fd < 0:
                self._open()
            while self._waiting:
                append(self._fd, self._waiting[0])
                self._size += len(self._waiting.pop(0))
        except OSError as error:
            # Opened again it is looked at again: what was appended may not have been taken back.
            self._close()
            self._health.note(self._path, error, UNSAVED)
            self._retry = self._loop.at(time.monotonic() + RETRY, self._write)
            return
        self._health.note(self._path, None)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0

    def _open(self) -> None:
        """A damaged one is kept aside, and goes on as a file of its good records: nothing is appended to a torn one."""
        _, how, why = self._read_end()
        try:
            if how:
                self._health.keep_aside(self._path, how, why)
                self._fd = replace(self._path, self._good(), self._health.due_aside(self._path))
            else:
                self._fd = open_append(self._path)
        except MISSING:
            self._fd = replace(self._path, file_header(KIND))
        self._size = os.fstat(self._fd).st_size

    def _read_end(self) -> tuple[list[bytes], str, str]:
        """The good ones of the last records, how the file is ("": as it should be; "damaged", "newer"), and why."""
        try:
            with open(self._path, "rb") as file:
                header = file.readline(64)
                start = max(len(header), file.seek(0, os.SEEK_END) - RECENT)
                file.seek(start)
                end = file.read()
            if start > len(header):
                end = end[max(0, end.find(MARK)) :]
            payloads, wrong, _ = read_records(KIND, header + end)
        except MISSING:
            return [], "", ""
        except OSError as error:
            return [], "damaged", error.strerror or str(error)
        except Newer as error:
            return [], "newer", str(error)
        return payloads, "damaged" if wrong else "", wrong or ""

    def _good(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                payloads = read_records(KIND, file.read())[0]
        except (OSError, Newer):
            payloads = []
        return file_header(KIND) + b"".join(map(record, payloads))

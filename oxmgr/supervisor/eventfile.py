"""What happened, for later readers: appended without fsync. Owns `events`, `events.1` with those before, `sequence`."""

import os
import time

from oxmgr.model.codec import UNREADABLE, Decoder, Struct, encode
from oxmgr.model.messages import Event
from oxmgr.model.records import MARK, Newer, file_header, read_records, record
from oxmgr.supervisor.files import MISSING, RETRY, append, open_append, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.loop import Loop, Timer

KEPT_EVENTS = 10_000
RECENT = 32 * 1024
SLICE = 32 * 1024
"""Bytes of past events that are read at a time."""
RECORD_MOST = 8 * 1024
"""Bytes that the record of an event has at most: its names and its reason are bounded."""
KIND = "events"
KEPT = 256
"""How many wait to be written while they cannot be; the earliest are given up."""
UNSAVED = f"the last {KEPT} events are in memory only"


class _Numbered(Struct, tag="event"):
    """What has to be known of an event to hand it on as it stands."""

    seq: int


class EventFile:
    """Each file has KEPT_EVENTS at most. `sequence` has the number of the last one that could not be written, in digits
    that are overwritten in place, which a full disk has room for: so that it is not given again."""

    def __init__(self, path: str, loop: "Loop", health: "Health") -> None:
        self.path = path
        self._loop = loop
        self._health = health
        self._fd = -1
        self._first = 0
        self._counter = ""
        self._waiting: list[tuple[int, bytes]] = []
        self._retry: Timer | None = None

    def recent(self) -> list[Event]:
        """The last of them, some hundreds, oldest first."""
        decoder = Decoder(Event)
        events: list[Event] = []
        for path in (self.path, f"{self.path}.1"):
            for payload in _read_end(path)[0]:
                try:
                    events.append(decoder.decode(payload))
                except UNREADABLE:
                    continue
            # Between two files, the one that is written to may not be there, or may hold nothing yet.
            if events:
                break
        return events

    def count_from(self, last: int) -> int:
        """The number of the last event that there was, which is `last` or one that could not be written."""
        self._counter = f"{os.path.dirname(self.path)}/sequence"
        try:
            with open(self._counter, "rb") as file:
                found = file.read(32).strip()
        except OSError:
            found = b""
        last = max(last, int(found)) if found.isdigit() else last
        self._count(last)
        return last

    def _count(self, seq: int) -> None:
        if not self._counter:
            return
        try:
            fd = os.open(self._counter, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, b"%020d\n" % seq, 0)
            finally:
                os.close(fd)
        except OSError:
            pass  # it is told of the events themselves that they cannot be written

    def add(self, event: Event) -> None:
        self._waiting.append((event.seq, record(encode(event))))
        if self._retry is None:
            self._write()
        if self._retry is not None:
            self._count(event.seq)
        del self._waiting[:-KEPT]

    def _write(self) -> None:
        self._retry = None
        try:
            while self._waiting:
                seq, data = self._waiting[0]
                if self._fd < 0:
                    self._open(seq)
                if seq - self._first >= KEPT_EVENTS:
                    os.rename(self.path, f"{self.path}.1")
                    self._close()
                    self._open(seq)
                append(self._fd, data)
                del self._waiting[0]
        except OSError as error:
            # Opened again it is looked at again: what was appended may not have been taken back.
            self._close()
            self._health.note(self.path, error, UNSAVED)
            self._retry = self._loop.at(time.monotonic() + RETRY, self._write)
            return
        self._health.note(self.path, None)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self, seq: int) -> None:
        """For the event of that number. A damaged one is kept aside, and goes on as a file of its good records: nothing
        is appended to a torn one."""
        _, how, why = _read_end(self.path)
        try:
            if how:
                self._health.keep_aside(self.path, how, why)
                self._fd = replace(self.path, _good(self.path), self._health.due_aside(self.path))
            else:
                self._fd = open_append(self.path)
        except MISSING:
            self._fd = replace(self.path, file_header(KIND))
        self._first = _first_number(self.path) or seq


class EventReader:
    """The events behind number `after` that the files have, oldest first, a slice at a time."""

    def __init__(self, path: str, after: int) -> None:
        self._after = after
        self._decoder = Decoder(_Numbered)
        self._at = 0
        # Opened together: one that is renamed from now on is read as what it was.
        self._files = [fd for one in (f"{path}.1", path) if (fd := _open_to_read(one)) >= 0]

    def more(self) -> list[tuple[int, bytes]] | None:
        """Those of the next slice with their numbers, encoded; None at the end of what there is."""
        if not self._files:
            return None
        try:
            data = os.pread(self._files[0], SLICE, self._at)
        except OSError:
            data = b""
        if not data:
            self._at = 0
            os.close(self._files.pop(0))
            return []
        header = file_header(KIND)
        try:
            found, _, good = read_records(KIND, data if not self._at else header + data)
        except Newer:
            found, good = [], 0
        used = good - (len(header) if self._at else 0)
        # What is damaged is passed over; of a record that is cut off, the rest may be in the next slice.
        self._at += used if used > 0 else len(data) if len(data) < SLICE else SLICE - RECORD_MOST
        return [(seq, payload) for payload in found if (seq := self._number(payload)) > self._after]

    def _number(self, payload: bytes) -> int:
        try:
            return self._decoder.decode(payload).seq
        except UNREADABLE:
            return 0

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _open_to_read(path: str) -> int:
    """-1 when it cannot be."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read_end(path: str) -> tuple[list[bytes], str, str]:
    """The good ones of the last records, how the file is ("": as it should be; "damaged", "newer"), and why."""
    try:
        with open(path, "rb") as file:
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


def _good(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            payloads = read_records(KIND, file.read())[0]
    except (OSError, Newer):
        payloads = []
    return file_header(KIND) + b"".join(map(record, payloads))


def _first_number(path: str) -> int:
    """Of the first event that a file has; 0 when there is none."""
    try:
        with open(path, "rb") as file:
            found = read_records(KIND, file.read(2 * RECORD_MOST))[0]
    except (OSError, Newer):
        return 0
    decoder = Decoder(_Numbered)
    for payload in found:
        try:
            return decoder.decode(payload).seq
        except UNREADABLE:
            continue
    return 0

"""What was last true of each instance, and what happened: appended without fsync. Owns `journal` and `events`.

They survive the daemon's death, for the kernel has them. After a power cut they mean nothing anyway.
"""

import os
import time

from oxmgr.model.codec import DecodeError, Decoder, encode
from oxmgr.model.messages import Boot, Event, Journaled, Observed
from oxmgr.model.records import MARK, file_header, read_records, record
from oxmgr.supervisor.files import Health, append, boot_id, open_append, write_aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oxmgr.supervisor.loop import Loop, Timer

JOURNAL_LIMIT = 256 * 1024
EVENTS_LIMIT = 1024 * 1024
RECENT = 32 * 1024
RETRY = 5.0


class Journal:
    """The latest record of an instance counts. When it has grown by JOURNAL_LIMIT bytes and has doubled,
    it is written anew; and when it could not be written for a while, as soon as it can."""

    def __init__(self, path: str, loop: "Loop", health: Health) -> None:
        self._path = path
        self._loop = loop
        self._health = health
        self._all: Callable[[], Iterable[Observed]] = list
        self._fd = -1
        self._grown = 0
        self._limit = JOURNAL_LIMIT
        self._behind = False
        self._retry: Timer | None = None

    def load(self) -> tuple[dict[tuple[str, int], Observed], list[Observed], bool]:
        """The last record of each (app, instance), those that are extra, and whether this is the boot that its pids
        are of."""
        extras: dict[tuple[str, int, int], Observed] = {}
        seen: dict[tuple[str, int], Observed] = {}
        same_boot = False
        decoder = Decoder(Journaled)
        for payload in self._health.read(self._path, "journal", appended=True):
            try:
                entry = decoder.decode(payload)
            except DecodeError as error:
                self._health.keep_aside(self._path, "damaged", str(error))
                continue
            if isinstance(entry, Boot):
                same_boot = entry.id == boot_id()
            elif entry.extra:
                extras[entry.app, entry.index, entry.run] = entry
            else:
                extras.pop((entry.app, entry.index, entry.run), None)
                seen[entry.app, entry.index] = entry
        seen = {key: entry for key, entry in seen.items() if not entry.gone}
        return seen, [entry for entry in extras.values() if not entry.gone], same_boot

    def open(self, everything: "Callable[[], Iterable[Observed]]") -> None:
        """Start writing; `everything` gives a record of each instance, for writing it anew."""
        self._all = everything
        self._write_anew()

    def add(self, seen: Observed) -> None:
        data = record(encode(seen))
        try:
            if self._fd >= 0 and not self._behind:
                append(self._fd, data)
                self._grown += len(data)
        except OSError as error:
            self._behind = True
            self._health.note(self._path, error)
        if self._fd < 0 or self._behind or self._grown > self._limit:
            self._write_anew()

    def _write_anew(self) -> None:
        entries = [Boot(boot_id()), *self._all()]
        data = file_header("journal") + b"".join(record(encode(entry)) for entry in entries)
        self._grown = 0
        self._limit = max(JOURNAL_LIMIT, len(data))
        try:
            fd = write_aside(self._path, data)
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            self._behind = True
            self._health.note(self._path, error)
            if self._retry is None:
                self._retry = self._loop.at(time.monotonic() + RETRY, self._try_again)
            return
        self._behind = False
        self._health.note(self._path, None)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd

    def _try_again(self) -> None:
        self._retry = None
        if self._fd < 0 or self._behind:
            self._write_anew()


class EventFile:
    """Two files of EVENTS_LIMIT bytes at most: `events`, and `events.1` with those before."""

    def __init__(self, path: str, health: Health) -> None:
        self._path = path
        self._health = health
        self._fd = -1
        self._size = 0

    def recent(self) -> list[Event]:
        """The last of them, some hundreds, oldest first."""
        try:
            with open(self._path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - RECENT))
                data = file.read()
        except OSError:
            return []
        start = data.find(MARK)
        found = read_records("events", file_header("events") + data[start:])[0] if start >= 0 else []
        decoder = Decoder(Event)
        events: list[Event] = []
        for payload in found:
            try:
                events.append(decoder.decode(payload))
            except DecodeError:
                continue
        return events

    def add(self, event: Event) -> None:
        data = record(encode(event))
        try:
            if self._fd < 0 or self._size > EVENTS_LIMIT:
                self._open()
            append(self._fd, data)
        except OSError as error:
            self._health.note(self._path, error)
            return
        self._size += len(data)
        if self._health.failing:
            self._health.note(self._path, None)

    def _open(self) -> None:
        if self._size > EVENTS_LIMIT:
            os.rename(self._path, f"{self._path}.1")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        fd = open_append(self._path)
        self._size = os.fstat(fd).st_size
        if not self._size:
            try:
                append(fd, file_header("events"))
            except OSError:
                os.close(fd)
                raise
        self._fd = fd

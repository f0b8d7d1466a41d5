"""What was last true of each instance: appended without fsync. Owns `journal`.

It survives the daemon's death, for the kernel has it. After a power cut it means nothing anyway.
"""

import errno
import os
import time

from oxmgr.model.codec import UNREADABLE, Decoder, Struct, encode
from oxmgr.model.messages import Boot, Journaled, Observed
from oxmgr.model.records import Newer, file_header, read_records, record
from oxmgr.supervisor.files import RETRY, append, boot_id, is_same_boot, replace
from oxmgr.supervisor.health import refusal

SHORT = (errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EAGAIN)
"""Of this the machine or the daemon has none left now. Another daemon may find some."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.spare import Spare

JOURNAL_LIMIT = 256 * 1024
KIND = "journal"
UNSAVED = "apps are supervised all the same, but if {who}, the next daemon might not know them"


class Past(Struct):
    """What an earlier daemon knew: the last record of each (app, instance), `others` that were extra, and whether this
    is the boot that their pids are of. `unread`: there is a journal, and why it could not be read."""

    seen: dict[tuple[str, int], Observed] = {}
    others: list[Observed] = []
    same_boot: bool = False
    unread: str = ""


class Journal:
    """The latest record of an instance counts. When it has grown by JOURNAL_LIMIT bytes and has doubled,
    it is written anew; and when it could not be written for a while, as soon as it can."""

    def __init__(self, path: str, loop: "Loop", health: "Health", spare: "Spare") -> None:
        self._path = path
        self._loop = loop
        self._health = health
        self._spare = spare
        self._boot = boot_id()
        self._all: Callable[[], Iterable[Observed]] | None = None
        self._fd = -1
        self._grown = 0
        self._limit = JOURNAL_LIMIT
        self._retry: Timer | None = None

    def load(self) -> Past:
        """The last record of each (app, instance), and whether this is the boot that its pids are of. What is damaged
        is passed over, and the file kept aside; so is one that cannot be read at all. Raises Newer when a later version
        wrote it, and OSError when too little is left now to read it."""
        past = Past()
        try:
            data = self._health.read(self._path)
        except OSError as error:
            if error.errno in SHORT:
                raise
            data, past.unread = None, error.strerror or str(error)
            self._health.keep_aside(self._path, "damaged", past.unread)
        if data is not None:
            try:
                past, wrong = self._decode(data)
            except Newer as error:
                raise refusal(self._path, error) from None
            if wrong is not None:
                self._health.keep_aside(self._path, "damaged", wrong)
        unwritten = self._spare.claim()
        if unwritten is not None:
            past, _ = self._decode(unwritten)
        return past

    def _decode(self, data: bytes) -> tuple[Past, str | None]:
        extras: dict[tuple[str, int, int], Observed] = {}
        payloads, wrong, _ = read_records(KIND, data)
        seen: dict[tuple[str, int], Observed] = {}
        same_boot = False
        decoder = Decoder(Journaled)
        for payload in payloads:
            try:
                entry = decoder.decode(payload)
            except UNREADABLE as error:
                wrong = wrong or str(error)
                continue
            if isinstance(entry, Boot):
                same_boot = is_same_boot(entry.id, self._boot)
            elif entry.extra:
                extras[entry.app, entry.index, entry.run] = entry
            else:
                extras.pop((entry.app, entry.index, entry.run), None)
                seen[entry.app, entry.index] = entry
        seen = {key: entry for key, entry in seen.items() if not entry.gone}
        return Past(seen, [entry for entry in extras.values() if not entry.gone], same_boot), wrong

    def open(self, everything: "Callable[[], Iterable[Observed]]") -> None:
        """Start writing; `everything` gives a record of each instance, for writing it anew, which cuts off whatever end
        could not be read. Until then what an earlier daemon wrote stays."""
        self._all = everything
        self._write_anew()

    def add(self, seen: Observed) -> None:
        fd = self._fd if self._retry is None else self._spare.fd
        if self._all is None or fd < 0:
            return  # written anew it has this as well
        data = record(encode(seen))
        try:
            append(fd, data)
        except OSError as error:
            self._try_later(error, self._whole())
            return
        self._grown += len(data)
        if self._grown > self._limit:
            self._write_anew()

    def _whole(self) -> bytes:
        entries = [Boot(self._boot), *(self._all() if self._all else ())]
        data = file_header(KIND) + b"".join(record(encode(entry)) for entry in entries)
        self._grown = 0
        self._limit = max(JOURNAL_LIMIT, len(data))
        return data

    def _write_anew(self) -> None:
        data = self._whole()
        try:
            fd = replace(self._path, data, self._health.due_aside(self._path))
        except OSError as error:
            self._try_later(error, data)
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._spare.drop()
        self._health.note(self._path, None)

    def _try_later(self, error: OSError, data: bytes) -> None:
        self._spare.put(data)
        self._health.note(self._path, error, UNSAVED.format(who=self._spare.who_ends))
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.at(time.monotonic() + RETRY, self._write_anew)

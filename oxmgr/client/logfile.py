"""One log file, opened: its lines from any place on, forwards or backwards, with the times that are known of them.

Memory is bounded whatever the file holds: of a line longer than LINE_LIMIT only the beginning is held, and the rest is
read again when it is shown.
"""

import errno
import os
from _stat import S_ISREG

from oxmgr.client.logframe import may_have_frames, unframe
from oxmgr.client.logindex import PAGE, FileBytes, Index
from oxmgr.folders import open_to_read
from oxmgr.model.codec import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_BLOCK = SMALL_BLOCK = 8 * 1024
BLOCK = 256 * 1024
LINE_LIMIT = 1024 * 1024
FAR = 1 << 62
"""Behind every offset, and a time that no clock shows."""


class Source(Struct, frozen=True):
    """Whose lines a file holds. `kind` is `out`, `err`, or empty for both in one; of two lines with the same time,
    the one with the lower `rank` is shown first."""

    name: str
    app: str = ""
    instance: int = 0
    kind: str = ""
    rank: int = 0


class Run:
    """Lines of one file that came at one time, `data`; the last one may have no newline.

    `known` is False when the time is no more than a place in the order. `end` is where they end in the file: of a long
    line, behind what `data` holds. `text` is what to show of a line that has a frame; when it has no newline, it goes
    on in the next one.
    """

    __slots__ = ("data", "end", "file", "kind", "known", "partial", "start", "text", "time_ns")

    def __init__(self, file: "LogFile", time_ns: int, known: bool, start: int, end: int, data: bytes) -> None:
        self.file = file
        self.time_ns = time_ns
        self.known = known
        self.start = start
        self.end = end
        self.data = data
        self.text: bytes | None = None
        self.kind = file.source.kind
        self.partial = False

    @property
    def is_long(self) -> bool:
        return self.end > self.start + len(self.data)

    @property
    def shown(self) -> bytes:
        return self.data if self.text is None else self.text

    def pieces(self) -> "Iterator[bytes]":
        """All its bytes."""
        yield self.shown
        at = self.start + len(self.data)
        while at < self.end and (data := os.pread(self.file.fd, min(BLOCK, self.end - at), at)):
            yield data
            at += len(data)

    def of(self, data: bytes) -> "Run":
        """Some of its lines."""
        run = Run(self.file, self.time_ns, self.known, self.start, self.start + len(data), data)
        run.kind = self.kind
        return run


class LogFile:
    """`fd` is closed with it. `inode` is that of the file as it was before it was compressed, if that is known. `block`
    is read at once: less of each when there are many."""

    block = BLOCK
    first_block = FIRST_BLOCK

    def __init__(
        self, fd: int, source: Source, index_paths: "tuple[str, ...]" = (), *, compressed: bool = False
    ) -> None:
        self.fd = fd
        self.source = source
        self._index_paths = index_paths
        self._index_fd = -1
        self._index = Index(b"")
        self._number = 0
        self._compressed = compressed
        found = os.fstat(fd)
        self.inode = 0 if compressed else found.st_ino
        self.size = found.st_size
        self.mtime_ns = found.st_mtime_ns
        if compressed:
            self.fd = decompressed(fd)
            os.close(fd)
            self.size = os.fstat(self.fd).st_size
        self.load_index()

    def __del__(self) -> None:
        for fd in (self.fd, self._index_fd):
            if fd >= 0:
                os.close(fd)

    def look(self) -> int:
        """Take notice of what has been appended; the size."""
        found = os.fstat(self.fd)
        self.size, self.mtime_ns = found.st_size, found.st_mtime_ns
        return self.size

    def load_index(self) -> None:
        """Take notice of the entries that have come."""
        if self._index_fd >= 0:
            self._index = self._read_index(self._index_fd)
            if not self._is_mine(self._index):
                self._index = Index(b"")
            return
        for path in self._index_paths:
            try:
                fd = open_to_read(path)
            except OSError:
                continue
            index = self._read_index(fd) if S_ISREG(os.fstat(fd).st_mode) else Index(b"")
            if self._is_mine(index):
                self._index, self._index_fd = index, fd
                if self._compressed:
                    self.inode = index.inode or 0
                return
            os.close(fd)

    def _is_mine(self, index: Index) -> bool:
        return index.inode is not None and (self._compressed or index.inode == self.inode)

    def _read_index(self, fd: int) -> Index:
        small = os.fstat(fd).st_size <= PAGE
        return Index(os.pread(fd, PAGE, 0) if small else FileBytes(fd))

    # --- times ---

    def time_at(self, offset: int) -> tuple[int, bool, int]:
        """When the byte there came, whether that is known, and where the bytes of that time end."""
        index, number = self._index, self._number
        count = len(index)
        if not count:
            return self.mtime_ns, False, FAR
        if not (number < count and index.offset(number) <= offset):
            number = index.number_at(offset)
        elif number + 1 < count and index.offset(number + 1) <= offset:
            number += 1
            if number + 1 < count and index.offset(number + 1) <= offset:
                number = index.number_at(offset)
        self._number = max(0, number)
        end = index.offset(number + 1) if number + 1 < count else FAR
        time_ns = index.time_ns(self._number)
        if not 0 < time_ns < FAR:
            return self.mtime_ns, False, end
        return time_ns, number >= 0, end

    def is_last_time(self, offset: int) -> bool:
        """Whether the index knows of nothing later than the byte there."""
        return not len(self._index) or self.time_at(offset)[2] == FAR

    @property
    def first_time_ns(self) -> int:
        """When the first byte came, if the index has seen it come, else 0."""
        return self._index.time_ns(0) if len(self._index) and self._index.offset(0) == 0 else 0

    def offset_since(self, time_ns: int) -> int:
        """Where the first line begins that came at that time or later: a search, no scan."""
        if len(self._index):
            found = self._index.offset_since(time_ns)
            return self.size if found is None else self.line_at(found)
        first = self._first_framed(0)
        if first is None:
            return 0 if self.mtime_ns >= time_ns else self.size
        low, high = 0, self.size
        while high - low > BLOCK:
            middle = (low + high) // 2
            run = self._first_framed(self.line_at(middle))
            if run is not None and run.time_ns < time_ns:
                low = middle
            else:
                high = middle
        for run in self.forward(self.line_at(low), self.size):
            if run.time_ns >= time_ns:
                return run.start
        return self.size

    def _first_framed(self, offset: int) -> Run | None:
        """The first line from there on that has its own time, among the next few."""
        for number, run in enumerate(self.forward(offset, min(self.size, offset + BLOCK))):
            if run.text is not None:
                return run
            if number > 100:
                break
        return None

    # --- lines ---

    def line_at(self, offset: int) -> int:
        """Where the first line begins that begins there or later."""
        if offset <= 0:
            return 0
        return self.behind_newline(offset - 1, self.size)

    def last_line_end(self) -> int:
        """Behind the last newline."""
        return self._line_start(self.size, 0)

    def forward(self, begin: int, end: int, *, whole: bool = False) -> "Iterator[Run]":
        """The lines that begin there, in order. `whole`: without a last one that has no newline."""
        while begin < end:
            data = os.pread(self.fd, min(self.block, end - begin), begin)
            if not data:
                return
            used = len(data) if begin + len(data) >= end and not whole else data.rfind(b"\n") + 1
            if used:
                yield from self._runs(begin, data[:used])
                begin += used
                continue
            behind = self.behind_newline(begin + len(data), end)
            if whole and os.pread(self.fd, 1, behind - 1) != b"\n":
                return
            yield self._line(begin, behind)
            begin = behind

    def backward(self, end: int, begin: int = 0) -> "Iterator[Run]":
        """The lines that end there, the last ones first; within a run they are in order."""
        block = self.first_block
        while end > begin:
            at = max(begin, end - block)
            data = os.pread(self.fd, end - at, at)
            if len(data) < end - at:
                # It was cut while we read.
                end = at + len(data)
                if not data:
                    continue
            first = 0 if at == begin else data.find(b"\n", 0, len(data) - 1) + 1
            if not first and at > begin:
                at = self._line_start(at, begin)
                yield self._line(at, end)
                end = at
            else:
                yield from reversed(self._runs(at + first, data[first:]))
                end = at + first
            block = min(self.block, 4 * block)

    def behind_newline(self, offset: int, end: int) -> int:
        """Behind the next newline, or `end`."""
        while offset < end and (data := os.pread(self.fd, min(BLOCK, end - offset), offset)):
            found = data.find(b"\n")
            if found >= 0:
                return offset + found + 1
            offset += len(data)
        return end

    def _line_start(self, offset: int, begin: int) -> int:
        """Behind the last newline before that offset, or `begin`."""
        while offset > begin:
            at = max(begin, offset - BLOCK)
            found = os.pread(self.fd, offset - at, at).rfind(b"\n")
            if found >= 0:
                return at + found + 1
            offset = at
        return begin

    def _line(self, start: int, end: int) -> Run:
        """One line; all of it is held only when it is no longer than LINE_LIMIT."""
        time_ns, known, _ = self.time_at(start)
        data = os.pread(self.fd, min(end - start, LINE_LIMIT), start)
        return self._framed(Run(self, time_ns, known, start, end, data))[0]

    def _runs(self, start: int, data: bytes) -> list[Run]:
        """Whole lines, by their times. A line's time is that of its first byte."""
        runs: list[Run] = []
        at, size = 0, len(data)
        framed = may_have_frames(data)
        while at < size:
            time_ns, known, end = self.time_at(start + at)
            cut = size
            if end < start + size:
                cut = data.find(b"\n", max(at, end - start - 1)) + 1 or size
            run = Run(self, time_ns, known, start + at, start + cut, data[at:cut] if at or cut < size else data)
            runs += self._framed(run) if framed else [run]
            at = cut
        return runs

    def _framed(self, run: Run) -> list[Run]:
        """With the lines that have a frame taken out of it, each a run of its own."""
        if run.is_long or not may_have_frames(run.data):
            return [run]
        runs: list[Run] = []
        at, plain = run.start, run.start
        for line in split_lines(run.data):
            found = unframe(line)
            if found is not None:
                if at > plain:
                    runs.append(self._part(run, plain, at))
                one = self._part(run, at, at + len(line))
                one.time_ns, one.kind, one.partial, one.text = found
                one.known = True
                runs.append(one)
                plain = at + len(line)
            at += len(line)
        if at > plain:
            runs.append(self._part(run, plain, at))
        return runs

    def _part(self, run: Run, start: int, end: int) -> Run:
        data = run.data[start - run.start : end - run.start]
        return Run(self, run.time_ns, run.known, start, end, data)


def split_lines(data: bytes) -> list[bytes]:
    """With their newlines; the last may have none. Not splitlines(): a carriage return ends no line here."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def open_regular(path: str) -> int:
    """-1 when it is not there, not ours to read, or no file that has an end and can be read again."""
    try:
        fd = open_to_read(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return -1
    if S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def decompressed(fd: int) -> int:
    """A nameless file with what a gzip file holds; when that is damaged, with what comes before the damage."""
    import zlib

    out = _nameless()
    inflate = zlib.decompressobj(wbits=31)
    at = 0
    try:
        # In small blocks: each of them may become a thousand times as much.
        while data := os.pread(fd, SMALL_BLOCK, at):
            at += len(data)
            while data:
                if inflate.eof:
                    inflate = zlib.decompressobj(wbits=31)
                _write_all(out, inflate.decompress(data))
                data = inflate.unused_data
    except zlib.error:
        pass
    return out


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _nameless() -> int:
    """On disk where that can be: /tmp is memory on many hosts."""
    for folder in (os.environ.get("TMPDIR", ""), "/var/tmp", "/tmp"):
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            continue
    return os.memfd_create("oxmgr-log")

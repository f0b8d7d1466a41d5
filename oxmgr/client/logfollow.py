"""What comes to a log after it was looked at: each line once, in order, across rotation, truncation and replacement.

Which file comes after the one being read is told by the names of the rotated ones, which sort by time. Events only say
that it is worth to look; what is done depends on what is there.
"""

import os

from oxmgr.client.logchain import Chain, Folders, is_same, open_live, open_rotated
from oxmgr.client.logfile import BLOCK, LogFile, Run, Source

MARK = 64
BUDGET = 4 * BLOCK
SOON_NS = 1_000_000_000


class Follower:
    """`lost` counts the files that were rotated and removed before they could be read. `behind` is true while there
    may be more to read at once."""

    def __init__(self, path: str, source: Source, folders: Folders, *, last: str = "") -> None:
        """All that comes behind the rotated file `last`."""
        self.path = path
        self.source = source
        self.lost = 0
        self.behind = False
        self._folders = folders
        self._file: LogFile | None = None
        self._is_live = False
        self._offset = 0
        self._read_to = 0
        # When the file's first byte came: when that changes, it has begun anew.
        self._first_time_ns = 0
        # The last bytes read: when they do not stand there any more, the file was truncated and has grown again.
        self._mark = b""
        # A line that has no newline yet; kept, for a truncation may take it from the file.
        self._partial = b""
        # The youngest rotated file of which all was read, and those that were seen to be made.
        self._last = last
        self._told: set[str] = set()

    @classmethod
    def of(cls, chain: Chain) -> "Follower":
        """What comes behind what the chain shows."""
        follower = cls(chain.path, chain.source, chain.folders, last=chain.last)
        follower.begin_at(chain.live, chain.end, live=True)
        return follower

    def begin_at(self, file: LogFile | None, offset: int, *, live: bool) -> None:
        self._file, self._is_live = file, live
        self._offset = self._read_to = offset
        self._partial = b""
        if file is not None:
            self._first_time_ns = file.first_time_ns
            self._remember(file)

    def was_rotated(self, path: str) -> None:
        """An event has told of a rotated file."""
        if path > self._last:
            self._told.add(path)

    def more(self) -> list[Run]:
        """The whole lines that have come, up to a budget."""
        runs: list[Run] = []
        budget = BUDGET
        self.behind = False
        while budget > 0:
            if self._file is None and not self._next():
                return runs
            assert self._file is not None
            budget -= self._read(runs, budget)
            if budget <= 0:
                break
            if self._is_live:
                if self._is_current():
                    return runs
                # Its writer has gone to another one, and writes no more to this. What it wrote until then:
                budget -= self._read(runs, budget)
                if budget <= 0:
                    break
                self._find_out_its_name()
            runs += self.flush()
            self._file = None
        self.behind = True
        return runs

    def flush(self) -> list[Run]:
        """The line that has no newline, as it is."""
        if not self._partial or self._file is None:
            return []
        time_ns, known, _ = self._file.time_at(self._offset)
        run = Run(self._file, time_ns, known, self._offset, max(self._read_to, self._offset), self._partial)
        self._offset = self._read_to
        self._partial = b""
        return [run]

    # --- one file ---

    def _read(self, runs: list[Run], budget: int) -> int:
        """Add what has been appended; how many bytes that was."""
        file = self._file
        assert file is not None
        size = file.look()
        file.load_index()
        if self._is_live and self._was_truncated(file):
            if self._partial:
                # Of a long line, what is not held is gone with the rest.
                end = self._offset + len(self._partial)
                runs.append(Run(file, file.mtime_ns, False, self._offset, end, self._partial))
            self.begin_at(file, 0, live=True)
        before = self._read_to
        end = min(size, before + budget)
        if end <= before:
            return 0
        # A line that grows is looked through once, not anew from its begin each time.
        if file.behind_newline(before, end) < end or os.pread(file.fd, 1, end - 1) == b"\n":
            fresh = list(file.forward(self._offset, end, whole=True))
            self._date(file, fresh, before)
            runs += fresh
            self._offset = fresh[-1].end if fresh else self._offset
            self._partial = b""
        self._read_to = end
        if len(self._partial) < BLOCK:
            self._partial = os.pread(file.fd, min(end - self._offset, BLOCK), self._offset)
        self._remember(file)
        return end - before

    def _was_truncated(self, file: LogFile) -> bool:
        first = file.first_time_ns
        # The writer empties the index before it writes anew: with no time there now, the next one tells nothing.
        before, self._first_time_ns = self._first_time_ns, first
        return file.size < self._read_to or not self._mark_stands(file) or bool(before and first and first != before)

    def _remember(self, file: LogFile) -> None:
        at = max(0, self._read_to - MARK)
        self._mark = os.pread(file.fd, self._read_to - at, at)

    def _mark_stands(self, file: LogFile) -> bool:
        return os.pread(file.fd, len(self._mark), self._read_to - len(self._mark)) == self._mark

    def _date(self, file: LogFile, fresh: list[Run], before: int) -> None:
        """The index's entry comes after the lines: what it does not know of yet came when the file was changed."""
        for run in fresh:
            is_new = self._is_live and run.text is None and run.start >= before
            if is_new and file.mtime_ns - run.time_ns > SOON_NS and file.is_last_time(run.start):
                run.time_ns, run.known = file.mtime_ns, True
            elif is_new:
                run.known = True

    def _is_current(self) -> bool:
        """Whether the log's name is still that of the file being read, or nothing has taken its place."""
        assert self._file is not None
        try:
            there = os.stat(self.path)
        except OSError:
            there = None
        if there is not None and (there.st_ino == self._file.inode or there.st_size):
            return there.st_ino == self._file.inode
        # Renamed or removed, and what follows is not there or is empty (logrotate makes it before the writer is told):
        # more may come to the one that we have.
        return not self._unread()

    # --- from one to the next ---

    def _unread(self) -> list[str]:
        """The rotated files that were not read, or not to their end, oldest first."""
        known = {*self._folders.rotated(self.path), *self._told}
        return sorted(path for path in known if path > self._last)

    def _find_out_its_name(self) -> None:
        """Find the file that was just read among the rotated ones, so that it is not read again."""
        assert self._file is not None
        for number, path in enumerate(self._unread()):
            same = is_same(path, self.path, self._file)
            # One that is gone already: the first that is rotated after a file was opened is that file.
            if same or (same is None and number == 0):
                self._done(path)
                return

    def _done(self, path: str) -> None:
        self._last = path
        self._told = {one for one in self._told if one > path}

    def _next(self) -> bool:
        """Open the next file; whether there is one."""
        while True:
            for path in self._unread():
                file = open_rotated(path, self.path, self.source)
                self._done(path)
                if file is not None:
                    self.begin_at(file, 0, live=False)
                    return True
                self.lost += 1
            file = open_live(self.path, self.source)
            if file is None:
                return False
            unread = self._unread()
            if not unread:
                self.begin_at(file, 0, live=True)
                return True
            # It was rotated between the two looks: those that came before it are first.

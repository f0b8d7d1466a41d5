"""A log file of formatted lines, or of an app's own with a rate limit. Each goes to the file once, whatever is killed
when: oxmgr.supervisor.spool says how."""

import os
import time

from oxmgr.folders import names_in, open_folder
from oxmgr.model.codec import replace
from oxmgr.supervisor.native import BLOCK, CRI, JSON, RAW, Formatter
from oxmgr.supervisor.rawlog import open_log
from oxmgr.supervisor.spool import Block, Spool
from oxmgr.supervisor.spooled import Spooled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.rawlog import RawLog

KINDS = {"raw": RAW, "cri": CRI, "json": JSON}


class LineLog(Spooled):
    """Its lines go to `file`; `stream` is what they are said to come from."""

    __slots__ = ("_file", "_pending")

    def __init__(self, file: "RawLog", spool: Spool, stream: str) -> None:
        super().__init__(file.logs, spool, Formatter(KINDS[file.logs.format], stream.encode()))
        self._file = file
        self._pending: Block | None = None

    @property
    def path(self) -> str:
        return self._file.path

    @property
    def trouble(self) -> str:
        return self._file.trouble

    @property
    def behind(self) -> bool:
        return self._pending is not None or super().behind

    def open(self) -> None:
        """Have the file open. OSError."""
        self._file.open()

    def prepare(self) -> None:
        """Have the file not too large and not too old. OSError."""
        self._open()
        if self._pending is None:
            self._file.prepare()

    def notice(self, text: str) -> None:
        """A line of ours."""
        self._open()
        self._work(final=False)
        self._file.prepare()
        now = time.time_ns()
        formatter = self._formatter
        formatter.begin(stamp(now), notice=text.encode()[:256])
        self._file.append(formatter.text(b""), now)

    def passes(self, error: OSError) -> bool:
        return self._file.passes(error) or self._spool.is_named(error.filename)

    def leave(self) -> None:
        """It is closed; what was written of a block that could not be finished is taken back, to go to another."""
        block, file = self._pending, self._file
        if block is not None and file.fd >= 0 and file.inode == block.inode:
            os.ftruncate(file.fd, min(block.offset, os.fstat(file.fd).st_size))
        self.close()

    def empty(self) -> None:
        self._file.empty()

    def close(self) -> None:
        self._pending = None
        self._spool.close()
        self._file.close()

    # --- blocks ---

    def _open(self) -> Block | None:
        block = super()._open()
        if block is not None:
            self._pending = block if block.end > block.start or block.notice else None
        return block

    def _work(self, final: bool) -> None:
        worked = False
        while self._pending is not None or self._has_more(final):
            worked = True
            block = self._pending or self._begin(final)
            if not self._format(block) and not block.notice:
                self._spool.looked = self._spool.end
                break
        if worked:
            self._settle()

    def _has_more(self, final: bool) -> bool:
        return self._spool.has_more(final) or self._can_tell(final)

    def _begin(self, final: bool) -> Block:
        """The next block, on record."""
        file, spool = self._file, self._spool
        file.prepare()
        allowed = self._rate.allowed()
        end = min(spool.end, spool.start + BLOCK)
        block = Block(
            start=spool.start,
            end=end,
            offset=file.offset,
            inode=file.inode,
            time_ns=time.time_ns(),
            allowed=allowed,
            dropped=self._dropped,
            notice=self._can_tell(final),
            inside=self._inside,
            final=final and end == spool.end,
        )
        spool.note(block)
        self._pending = block
        return block

    def _format(self, block: Block) -> int:
        """The bytes of the spool that are done with. OSError: it is to be done again."""
        target, block = self._target(block)
        formatter, spool, file = self._formatter, self._spool, self._file
        notice = self._told(block.dropped) if block.notice else ""
        formatter.begin(
            stamp(block.time_ns),
            final=block.final,
            inside=block.inside,
            allowed=block.allowed,
            notice=notice.encode(),
        )
        try:
            written = formatter.file(spool.fd, block.start, block.end - block.start, target, block.offset)
        finally:
            if target != file.fd:
                os.close(target)
        if target == file.fd:
            file.offset = block.offset
            file.wrote(written, block.time_ns)
        used = formatter.used
        self._rate.take(formatter.lines)
        self._dropped = formatter.dropped + (0 if block.notice else block.dropped)
        self._inside = formatter.inside
        self._pending = None
        spool.start = block.start + used
        return used

    def _target(self, block: Block) -> tuple[int, Block]:
        """An fd of the file that a block goes to. That is not the log any more when somebody has renamed it
        meanwhile; and when it was removed or emptied, the block goes to the end of what there is."""
        file = self._file
        file.open()
        if file.inode == block.inode and os.fstat(file.fd).st_size >= block.offset:
            return file.fd, block
        if file.inode != block.inode:
            try:
                fd = _open_inode(os.path.dirname(file.path), block.inode)
            except OSError:
                # What was written of the block there stays, and is there twice.
                fd = -1
            if fd >= 0 and os.fstat(fd).st_size >= block.offset:
                return fd, block
            if fd >= 0:
                os.close(fd)
        file.prepare()
        block = replace(block, offset=file.offset, inode=file.inode)
        self._spool.note(block)
        self._pending = block
        return file.fd, block


def stamp(time_ns: int) -> bytes:
    """RFC 3339 with nanoseconds, UTC."""
    seconds, rest = divmod(time_ns, 10**9)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{rest:09}Z", time.gmtime(seconds)).encode()


def _open_inode(folder: str, inode: int) -> int:
    """The file in that folder that has it, to write to; -1 when there is none. OSError."""
    within = open_folder(folder)
    try:
        for name in names_in(within):
            try:
                is_it = os.stat(name, dir_fd=within, follow_symlinks=False).st_ino == inode
            except FileNotFoundError:
                continue
            if is_it:
                return open_log(within, name)
    finally:
        os.close(within)
    return -1

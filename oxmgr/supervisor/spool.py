"""What has left a pipe and is not yet where it goes: a file in the run folder, and beside it a record of how far it is
done with.

`NAME.spool` takes the pipe's bytes by splice, in one step, at offsets that only grow; what is done with is given back
to the disk. `NAME.at` holds the last block that was begun, written *before* it is formatted. What comes of a block
depends on its record and the spool alone, so whoever finds the record can make the same bytes again and put them to
the same place: a kill at any instruction neither loses nor doubles.
"""

import os
from binascii import crc32

from oxmgr.model.codec import Struct
from oxmgr.supervisor import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.native import Pipe

GIVEN_BACK = 1024 * 1024
"""The room of so many bytes is given back at a time."""
HEAD = b"oxspool1"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SEEK_DATA = 3  # lseek(2)


class Block(Struct, frozen=True):
    """The bytes from `start` to `end` of the spool, in lines, go to `offset` of the log file that has that inode.

    `end` equal to `start`: all before it is done. `time_ns` is the time that its lines get. `inside` and `final` are as
    in csrc/oxmgr.h, `allowed` the lines that the rate limit lets through, `dropped` those that it did not before;
    with `notice`, the block begins with a line that says so.
    """

    start: int = 0
    end: int = 0
    offset: int = 0
    inode: int = 0
    time_ns: int = 0
    allowed: int = -1
    dropped: int = 0
    notice: bool = False
    inside: int = native.BETWEEN
    final: bool = False


_FIELDS = Block.__struct_fields__
RECORD_SIZE = len(HEAD) + 8 * len(_FIELDS) + 4


def pack(block: Block) -> bytes:
    data = HEAD + b"".join([int(getattr(block, name)).to_bytes(8, "little", signed=True) for name in _FIELDS])
    return data + crc32(data).to_bytes(4, "little")


def unpack(data: bytes) -> Block | None:
    """None when it is damaged."""
    body, check = data[: RECORD_SIZE - 4], data[RECORD_SIZE - 4 : RECORD_SIZE]
    if len(data) < RECORD_SIZE or body[: len(HEAD)] != HEAD or crc32(body).to_bytes(4, "little") != check:
        return None
    found = [int.from_bytes(body[at : at + 8], "little", signed=True) for at in range(len(HEAD), len(body), 8)]
    values: dict[str, int | bool] = dict(zip(_FIELDS, found, strict=True))
    values["notice"], values["final"] = bool(values["notice"]), bool(values["final"])
    return Block(**values)  # type: ignore[arg-type]


class Spool:
    """`start` is where what is not done with begins, `end` where the next bytes go; up to `looked` there is no line
    that has an end."""

    __slots__ = ("_at", "_given_back", "_record", "end", "fd", "looked", "path", "start")

    def __init__(self, path: str) -> None:
        self.path = f"{path}.spool"
        self.fd = -1
        self.start = 0
        self.end = 0
        self.looked = -1
        self._record = f"{path}.at"
        self._at = -1
        self._given_back = 0

    def open(self) -> Block:
        """The last block that was begun. OSError."""
        self.fd = os.open(self.path, _FLAGS, 0o600)
        try:
            self._at = os.open(self._record, _FLAGS, 0o600)
        except OSError:
            self.close()
            raise
        self.end = os.fstat(self.fd).st_size
        data = os.pread(self._at, RECORD_SIZE, 0)
        block = unpack(data) if data else Block()
        if block is None:
            # Rather double than lose: from the first byte that has not been given back.
            block = Block(start=self._first_byte(), end=0)
        if block.start > self.end:
            # It was cut after all of it was done with, and the record does not say so yet.
            block = Block(start=self.end, dropped=block.dropped, inside=block.inside)
        self.start = self._given_back = block.start
        self.looked = -1
        return block

    def _first_byte(self) -> int:
        try:
            return os.lseek(self.fd, 0, _SEEK_DATA)
        except OSError:
            return self.end

    def take(self, pipe: "Pipe", budget: int) -> int:
        """Up to so many bytes of the pipe; 0 when there are none. OSError when they stay in it."""
        pipe.offset = self.end
        try:
            return pipe.splice(self.fd, budget)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None
        finally:
            self.end = pipe.offset

    def has_more(self, final: bool) -> bool:
        """Whether there may be lines; with `final`, what has no end is one."""
        return self.end > (self.start if final else max(self.start, self.looked))

    def read(self, size: int) -> bytes:
        return os.pread(self.fd, min(size, self.end - self.start), self.start)

    def note(self, block: Block) -> None:
        try:
            os.pwrite(self._at, pack(block), 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._record) from None

    def done(self, block: Block) -> None:
        """All before `start` is where it goes; `block` says so too."""
        self.note(block)
        if self.start == self.end and self.start:
            if self.start >= native.BLOCK:
                # Nothing is in it: it begins anew. Between the two steps, the record is ahead of the file.
                os.ftruncate(self.fd, 0)
                self.start = self.end = self._given_back = 0
                self.looked = -1
                self.note(Block(dropped=block.dropped, inside=block.inside))
        elif self.start - self._given_back >= GIVEN_BACK:
            upto = self.start // GIVEN_BACK * GIVEN_BACK
            try:
                native.punch(self.fd, 0, upto)
            except OSError:
                # A file system that cannot: the room is given back when nothing is in it.
                pass
            self._given_back = upto

    def close(self) -> None:
        for fd in (self.fd, self._at):
            if fd >= 0:
                os.close(fd)
        self.fd = self._at = -1

    def is_named(self, path: object) -> bool:
        """Whether it is one of our own files."""
        return path in (self.path, self._record)

    def remove(self) -> None:
        """Its app is deleted."""
        self.close()
        for path in (self.path, self._record):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def has_left(self) -> bool:
        """Whether a daemon before has left something in it, or may have."""
        try:
            block = unpack(native.read_whole(self._record)[:RECORD_SIZE])
            return block is None or block.end > block.start or os.stat(self.path).st_size > block.start
        except FileNotFoundError:
            return False

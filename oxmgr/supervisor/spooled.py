"""What logs of lines have in common, wherever these go: the spool that they come from, and the rate limit."""

from abc import ABC, abstractmethod

from oxmgr.supervisor.native import BETWEEN, Formatter
from oxmgr.supervisor.rates import Rate
from oxmgr.supervisor.spool import Block, Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.spec import Logs
    from oxmgr.supervisor.native import Pipe


class Spooled(ABC):
    """`_inside` is where in a line the last block has ended, `_dropped` the lines that are not told of yet."""

    __slots__ = ("_dropped", "_formatter", "_inside", "_rate", "_spool", "logs")

    def __init__(self, logs: "Logs", spool: Spool, formatter: Formatter) -> None:
        self.logs = logs
        self._spool = spool
        self._formatter = formatter
        self._rate = Rate(logs.rate_limit)
        self._inside = BETWEEN
        self._dropped = 0

    @property
    def behind(self) -> bool:
        """Whether bytes have left the pipe that are not where they go."""
        return self._spool.end > self._spool.start or self._dropped > 0

    def again(self) -> float | None:
        """When to move again, though nothing new has come: there are dropped lines to tell of."""
        return self._rate.again() if self._dropped else None

    def move(self, pipe: "Pipe", budget: int) -> int:
        """Up to so many bytes of the pipe on their way; 0 when there are none. OSError when there are no more taken,
        BlockingIOError when whoever takes them says when it takes more."""
        self._open()
        self._work(final=False)
        moved = self._spool.take(pipe, budget)
        if moved:
            self._work(final=False)
        return moved

    def finish(self) -> None:
        """Its app has ended: what has no end of a line is one. OSError."""
        self._open()
        self._work(final=True)

    @abstractmethod
    def _work(self, final: bool) -> None:
        """Have all go out that can, block by block."""

    def _open(self) -> Block | None:
        """Go on where this or an earlier daemon has stopped; the block that was begun then, None when all is open."""
        if self._spool.fd >= 0:
            return None
        block = self._spool.open()
        self._inside, self._dropped = block.inside, block.dropped
        return block

    def _can_tell(self, final: bool) -> bool:
        """Whether now is the time to say how many lines were dropped."""
        return self._dropped > 0 and self._inside == BETWEEN and (final or self._rate.allowed() != 0)

    def _told(self, dropped: int) -> str:
        return f"oxmgr: {dropped} lines were dropped here: rate_limit is {self._rate.limit}"

    def _settle(self) -> None:
        """Put on record that all before `start` is where it goes, and nothing is begun."""
        start = self._spool.start
        self._spool.done(Block(start=start, end=start, dropped=self._dropped, inside=self._inside))

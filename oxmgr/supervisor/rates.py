"""How many lines an app may still print in this second."""

import time


class Rate:
    """`limit` is lines a second; None: any number."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._left = 0
        self._until = 0.0

    def allowed(self) -> int:
        """By now; -1: any number."""
        if self.limit is None:
            return -1
        now = time.monotonic()
        if now >= self._until:
            self._left, self._until = self.limit, now + 1.0
        return self._left

    def take(self, lines: int) -> None:
        self._left = max(0, self._left - lines)

    def again(self) -> float | None:
        """When the next second begins, if this one's lines are used up."""
        return self._until if self.limit is not None and not self._left else None

"""Which processes have come to us, the subreaper, and of which instance each is. Signals nobody.

A process is looked at once: until we have reaped it, its number is its own. One that has shed both its session and the
environment that it was born with is nobody's and is left alone; whose it is, is asked at each look.
"""

import os

from oxmgr.supervisor import descendants
from oxmgr.supervisor.instance import Instance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.instance import Owner


class Orphans:
    """`mains` are the running main processes by pid, which are children of ours and no orphans. `owner` says whose a
    process is, None: nobody's; an OSError of it means that it cannot tell."""

    def __init__(self, mains: dict[int, Instance], owner: "Callable[[int], Owner | None]") -> None:
        self._mains = mains
        self._owner = owner
        self._whole = True
        # As /proc writes them: to turn each into a number at each look would be most of what a look costs.
        self._here: set[bytes] = set()
        self._nobodys: set[bytes] = set()
        self._known: dict[int, Owner] = {}
        self._of: dict[Owner, dict[int, None]] = {}
        self.guard: Callable[[], int] = lambda: 0
        """The pid of the guard: what was started by an earlier daemon loses its orphans to that."""
        self._with_guard: dict[Owner, list[int]] = {}

    def look(self) -> bool:
        """Find those that are there now; False when that cannot be done, or not of each."""
        self._whole = True
        try:
            here = {*descendants.children_words(os.getpid())}
            for word in self._here - here:
                self.forget(int(word))
            self._look_at_guard()
            for word in (here - self._here) | self._nobodys:
                self._add(word)
        except OSError:
            return False
        return self._whole

    def _ask(self, pid: int) -> "Owner | None":
        """Of who executes just now, nobody's for this look."""
        try:
            return self._owner(pid)
        except BlockingIOError:
            self._whole = False
            return None

    def _look_at_guard(self) -> None:
        """It reaps its children at once, and their numbers may be others' then: so nothing of them is kept."""
        self._with_guard = {}
        guard = self.guard()
        for pid in descendants.children(guard) if guard else ():
            ours = pid in self._mains or pid == os.getpid()
            owner = None if ours else self._ask(pid)
            if owner is not None:
                self._with_guard.setdefault(owner, []).append(pid)

    def _add(self, word: bytes) -> None:
        pid = int(word)
        owner = None if pid in self._mains else self._ask(pid)
        self._here.add(word)
        self._nobodys.discard(word)
        if owner is not None:
            self._known[pid] = owner
            self._of.setdefault(owner, {})[pid] = None
        elif pid not in self._mains:
            self._nobodys.add(word)

    def of(self, instance: Instance) -> list[int]:
        """Those of it that were there at the last look."""
        return [*self._of.get(instance.owner, ()), *self._with_guard.get(instance.owner, ())]

    def forget(self, pid: int) -> None:
        """It was reaped, or has become a main process: what has its number from now on is another."""
        word = b"%d" % pid
        self._here.discard(word)
        self._nobodys.discard(word)
        owner = self._known.pop(pid, None)
        if owner is not None:
            left = self._of[owner]
            del left[pid]
            if not left:
                del self._of[owner]


class Look:
    """One look for many who ask, taken when the first of them does."""

    def __init__(self, orphans: Orphans) -> None:
        self._orphans = orphans
        self._done: bool | None = None

    def __contains__(self, instance: object) -> bool:
        """Whether something of that instance came to us, or may have."""
        if self._done is None:
            self._done = self._orphans.look()
        return not self._done or (isinstance(instance, Instance) and bool(self._orphans.of(instance)))

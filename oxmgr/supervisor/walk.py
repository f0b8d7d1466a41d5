"""Sets watches on folders and all below them, in a thread: a large tree takes its time.

Each folder is watched first and listed then, so that nothing that is made in it gets lost in between.
"""

import os
from errno import ENOMEM, ENOSPC
from stat import S_ISLNK

from oxmgr.lifecycle.watching import Filter
from oxmgr.supervisor import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATHS = 100
"""At most so many changed ones are kept."""


class Walk:
    """What came of it: `folders` are (the root, its own path) by their numbers, `roots` the numbers of the roots.
    `anchors` are by their numbers the names in them that decide what a root is, with their path and that root.
    `unwatched` is how many folders could not be watched for want of watches. `changed` are files that were changed at
    `since` or later.

    `is_own` says of a path whether it is a log or another file of oxmgr's; `stopped` ends the walk early.
    """

    def __init__(self, fd: int, filter: Filter, is_own: "Callable[[str], bool]", since: float) -> None:
        self._fd = fd
        self._filter = filter
        self._is_own = is_own
        self._since = since
        self.stopped = False
        self.folders: dict[int, tuple[str, str]] = {}
        self.roots: set[int] = set()
        self.anchors: dict[int, dict[str, tuple[str, str]]] = {}
        self.unwatched = 0
        self.changed: list[str] = []

    def begin(self, roots: list[str], *, removals: bool = False) -> None:
        """Everything that a spec names. `removals`: events were lost; so where every file counts, a folder does too in
        which something was made or removed since then."""
        removals = removals and not self._filter.has_endings
        for root in roots:
            self._anchor(root)
            self._below(root, root, removals)

    def go_on(self, folders: list[tuple[str, str]]) -> None:
        """New folders: (the root, the folder)."""
        for root, folder in folders:
            self._below(root, folder, False)

    def _anchor(self, root: str) -> None:
        """Where a root is no folder, or led to by a symbolic link, what it is can change without a word from it."""
        path = ""
        for name in root.strip("/").split("/"):
            folder, path = path or "/", f"{path}/{name}"
            try:
                decides = S_ISLNK(os.lstat(path).st_mode) or (path == root and not os.path.isdir(path))
                missing = False
            except OSError:
                decides = missing = True
            if decides:
                number = self._add(folder, written=path == root and not missing)
                if number is not None:
                    self.anchors.setdefault(number, {})[name] = path, root
            # It may have come between the look at it and the watch.
            if missing and not os.path.lexists(path):
                return

    def _below(self, root: str, top: str, removals: bool) -> None:
        left = [top]
        while left and not self.stopped:
            folder = left.pop()
            number = self._add(folder, written=True)
            if number is None:
                continue
            self.folders[number] = root, folder
            if folder == root:
                self.roots.add(number)
            try:
                self._list(root, folder, left, removals)
            except OSError:
                continue  # it has gone, or may not be read: what becomes of it is told by the one above

    def _list(self, root: str, folder: str, left: list[str], removals: bool) -> None:
        if removals and os.stat(folder).st_mtime >= self._since:
            self._note(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{folder.rstrip('/')}/{entry.name}"
                if self._filter.ignores(root, path) or self._is_own(path):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    left.append(path)
                elif self._filter.counts(path) and self._is_recent(path):
                    self._note(path)

    def _is_recent(self, path: str) -> bool:
        try:
            return os.lstat(path).st_ctime >= self._since
        except OSError:
            return False  # it has gone, and that is told

    def _note(self, path: str) -> None:
        if len(self.changed) < PATHS:
            self.changed.append(path)

    def _add(self, folder: str, *, written: bool) -> int | None:
        try:
            return native.watch_add(self._fd, folder, written=written)
        except OSError as error:
            if error.errno in (ENOSPC, ENOMEM):
                self.unwatched += 1
            return None

"""What users ought to know of the state folder: files that were kept aside, and files that cannot be written."""

import os
import time

from oxmgr.model.records import Newer
from oxmgr.supervisor.files import MISSING, RETRY, remove, write_safely
from oxmgr.supervisor.native import read_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.logfile import Log

READ_PATIENCE = 2.0
"""Seconds for which a start tries to read a file: memory or file descriptors may have run out for a moment."""
READ_AGAIN = 0.05


class Health:
    """To be made before anything of the folder is opened: it removes what a killed daemon was writing aside."""

    def __init__(self, folder: str, log: "Log") -> None:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            names = []
        for name in names:
            if name.endswith(".new"):
                remove(f"{folder}/{name}")
        self._aside = [f"{folder}/{name}" for name in names if ".damaged-" in name or ".newer-" in name]
        self._failing: dict[str, str] = {}
        self._due: dict[str, str] = {}
        self._told: list[tuple[str, Callable[[], bool]]] = []
        self._troubles: dict[str, str] = {}
        self._log = log

    def warnings(self) -> list[str]:
        """A file kept aside is told of until it is removed."""
        self._aside = [path for path in self._aside if os.path.exists(path)]
        aside = [
            f"{path} was kept aside, for not all of it could be read: look at it, then remove it"
            for path in self._aside
        ]
        told = [text for text, still in self._told if still()]
        failing = [f"{path} {why}" for path, why in self._failing.items()]
        return aside + told + failing + list(self._troubles.values())

    def tell(self, text: str, still: "Callable[[], bool]" = lambda: True) -> None:
        """Something that stays true as long as `still` says so, or else until the next daemon."""
        self._told.append((text, still))
        self._log(text)

    def trouble(self, what: str, text: str) -> None:
        """Something that is true of this until another text says otherwise; an empty one: that it is well."""
        if text:
            self._troubles[what] = text
        else:
            self._troubles.pop(what, None)

    # --- files that cannot be written ---

    def note(self, path: str, error: OSError | None, so: str = "") -> None:
        """Writing it went well (None), or did not, with what follows from that."""
        if error is not None:
            why = f"cannot be written ({error.strerror or error}): {so}; it is tried again every {RETRY:.0f} s"
            if self._failing.get(path) != why:
                self._failing[path] = why
                self._log(f"{path} {why}")
            return
        if self._failing.pop(path, None):
            self._log(f"{path} is written again")
        if path in self._due:
            self._aside.append(self._due.pop(path))

    # --- files that cannot be read ---

    def read(self, path: str) -> bytes | None:
        """All of it; None when there is none. A folder in its place is kept aside. OSError when for READ_PATIENCE it
        could not be read, which says nothing of what it holds."""
        given_up = time.monotonic() + READ_PATIENCE
        while True:
            try:
                return read_whole(path)
            except MISSING:
                return None
            except IsADirectoryError as error:
                self.keep_aside(path, "damaged", str(error.strerror))
                return None
            except OSError as error:
                if time.monotonic() > given_up:
                    # An error of read(2) names no file.
                    raise OSError(error.errno, error.strerror, path) from None
            time.sleep(READ_AGAIN)

    def keep_aside(self, path: str, how: str, why: str) -> None:
        """Under a name that says how it is and when that was seen; now or, when that cannot be, by whoever writes it
        next (`due_aside`)."""
        start = f"{path}.{how}-"
        if path in self._due or any(one.startswith(start) and _is_same(path, one) for one in self._aside):
            return
        kept = first = f"{start}{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while os.path.lexists(kept):
            number += 1
            kept = f"{first}-{number}"
        try:
            _link_or_copy(path, kept)
        except OSError as error:
            self._due[path] = kept
            self.tell(
                f"{path}: {why}; it cannot be kept aside yet: {error.strerror or error}", lambda: path in self._due
            )
            return
        self._aside.append(kept)
        self._log(f"{path}: {why}; kept aside as {kept}")

    def due_aside(self, path: str) -> str:
        """The name under which what is at `path` has yet to be kept; "" when it has not."""
        kept = self._due.get(path, "")
        return "" if os.path.lexists(kept) else kept

    def has_aside(self, path: str) -> bool:
        """Whether a file of that name was kept aside, and is still there, or is yet to be."""
        return path in self._due or any(one.startswith(f"{path}.") and os.path.exists(one) for one in self._aside)


def refusal(path: str, error: Newer) -> Newer:
    """What a later version knows is not thrown away."""
    return Newer(f"{path}: {error}: start a later version, or move this file away to begin without what it holds")


def _link_or_copy(path: str, kept: str) -> None:
    """Some file systems, and some rules of the kernel (fs.protected_hardlinks), know no second name for a file."""
    try:
        os.link(path, kept)
    except OSError:
        write_safely(kept, read_whole(path))


def _is_same(path: str, kept: str) -> bool:
    try:
        if os.path.samefile(path, kept):
            return True
        return read_whole(path) == read_whole(kept)
    except OSError:
        return False

"""Rotated log files: which there are, which go, and which are to be compressed."""

import os
import time

from oxmgr.folders import names_in, open_folder
from oxmgr.model.logindex import COMPRESSED, ROTATED, SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.spec import Logs

ASIDE = f"{ROTATED}next"
"""A file that is made before it gets the log's name."""
PART = ".part"
"""One that is being compressed."""
DAY = 24 * 3600


class Archive:
    """`compress` is called with paths of files, `run` with what takes its time, as the removal of a large file does;
    both do so some time."""

    def __init__(
        self,
        compress: "Callable[[list[str]], None]",
        run: "Callable[[Callable[[], None]], None]" = lambda work: work(),
    ) -> None:
        self._compress = compress
        self._run = run
        self._left: dict[str, dict[str, list[str]]] = {}

    def put(self, path: str, logs: "Logs", rotated: str) -> None:
        """The log at `path` was just rotated to that name."""
        self._run(lambda: prune(path, logs))
        if logs.compress:
            self._compress([f"{path.rpartition('/')[0]}/{rotated}"])

    def take_up(self, within: int, path: str, logs: "Logs") -> None:
        """Of a log that is opened: go on with what an earlier daemon was killed over. Its folder is looked through
        once only, for it may hold the logs of a thousand apps."""
        folder, _, name = path.rpartition("/")
        if folder not in self._left:
            self._left[folder] = _by_log(within)
        left = self._left[folder].pop(name, [])
        raw = [one for one in left if not one.endswith((SUFFIX, ASIDE, PART, COMPRESSED))]
        for one in left:
            if one.endswith((ASIDE, PART)) or (one in raw and one + COMPRESSED in left):
                # What was compressed was written, synced and named before its original goes.
                _unlink(within, one)
                raw = [other for other in raw if other != one]
        if raw or any(one.endswith(COMPRESSED) for one in left):
            self._run(lambda: prune(path, logs))
        if logs.compress and raw:
            self._compress([f"{folder}/{one}" for one in raw])


def _by_log(within: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        names = names_in(within)
    except OSError:
        return found
    for name in names:
        log, tilde, _ = name.rpartition(ROTATED)
        if tilde:
            found.setdefault(log, []).append(name)
    return found


def rotated_names(within: int, name: str) -> list[str]:
    """The rotated files of a log, compressed or not, oldest first. One that is there as both is told once, compressed:
    that one is whole, and the other about to go. OSError."""
    start = f"{name}{ROTATED}"
    return _only_logs([one for one in names_in(within) if one.startswith(start)])


def _only_logs(names: list[str]) -> list[str]:
    found = {one.removesuffix(COMPRESSED): one for one in names if not one.endswith((SUFFIX, ASIDE, PART))}
    return list(found.values())


def prune_all(wanted: "dict[str, Logs]") -> None:
    """`prune()` for many logs, by their paths; each folder is looked through once."""
    for folder in {path.rpartition("/")[0] for path in wanted}:
        try:
            within = open_folder(folder)
        except OSError:
            continue
        try:
            for name, files in _by_log(within).items():
                logs = wanted.get(f"{folder}/{name}")
                if logs is not None:
                    _prune(within, _only_logs(files), logs)
        finally:
            os.close(within)


def prune(path: str, logs: "Logs") -> None:
    """Remove those rotated files of the log at `path` that are too many or too old, with their indexes."""
    folder, _, name = path.rpartition("/")
    try:
        within = open_folder(folder)
    except OSError:
        return
    try:
        _prune(within, rotated_names(within, name), logs)
    except OSError:
        # The folder cannot be read: it is looked at again at the next rotation, as what cannot be removed is.
        return
    finally:
        os.close(within)


def _prune(within: int, files: list[str], logs: "Logs") -> None:
    too_many = len(files) - max(0, logs.max_files)
    oldest = time.time() - logs.max_days * DAY if logs.max_days else 0
    for number, file in enumerate(files):
        try:
            goes = number < too_many or os.stat(file, dir_fd=within, follow_symlinks=False).st_mtime < oldest
        except OSError:
            continue
        if goes:
            plain = file.removesuffix(COMPRESSED)
            for one in (plain, plain + COMPRESSED, plain + SUFFIX):
                _unlink(within, one)


def _unlink(within: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=within)
    except OSError:
        return

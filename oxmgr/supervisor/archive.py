"""Rotated log files: which there are, which go, and which are to be compressed."""

import os
import time

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
    """`compress` is called with names of files, `run` with what takes its time, as the removal of a large file does;
    both do so some time."""

    def __init__(
        self,
        compress: "Callable[[list[str]], None]",
        run: "Callable[[Callable[[], None]], None]" = lambda work: work(),
    ) -> None:
        self._compress = compress
        self._run = run
        self._left: dict[str, dict[str, list[str]]] = {}

    def put(self, path: str, logs: "Logs", name: str) -> None:
        """The log at `path` was just rotated to `name`."""
        self._run(lambda: prune(rotated_files(path), logs))
        if logs.compress:
            self._compress([name])

    def take_up(self, path: str, logs: "Logs") -> None:
        """Of a log that is opened: go on with what an earlier daemon was killed over. A folder is looked through
        once only, for it may hold the logs of a thousand apps."""
        folder, _, name = path.rpartition("/")
        if folder not in self._left:
            self._left[folder] = _by_log(folder)
        left = self._left[folder].pop(name, [])
        raw = [one for one in left if not one.endswith((SUFFIX, ASIDE, PART, COMPRESSED))]
        for one in left:
            if one.endswith((ASIDE, PART)) or (one in raw and one + COMPRESSED in left):
                # What was compressed was written, synced and named before its original goes.
                _unlink(one)
        if any(one in raw or one.endswith(COMPRESSED) for one in left):
            self._run(lambda: prune(rotated_files(path), logs))
        wanted = [one for one in raw if one + COMPRESSED not in left and os.path.exists(one)]
        if logs.compress and wanted:
            self._compress(wanted)


def _by_log(folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(folder or "/"))
    except OSError:
        return found
    for name in names:
        log, tilde, _ = name.rpartition(ROTATED)
        if tilde:
            found.setdefault(log, []).append(f"{folder}/{name}")
    return found


def rotated_files(path: str) -> list[str]:
    """The rotated files of a log, compressed or not, oldest first. One that is there as both is told once, compressed:
    that one is whole, and the other about to go."""
    folder, _, name = path.rpartition("/")
    start = f"{name}{ROTATED}"
    try:
        names = sorted(one for one in os.listdir(folder or "/") if one.startswith(start))
    except OSError:
        return []
    return [f"{folder}/{one}" for one in _only_logs(names)]


def _only_logs(names: list[str]) -> list[str]:
    found = {one.removesuffix(COMPRESSED): one for one in names if not one.endswith((SUFFIX, ASIDE, PART))}
    return list(found.values())


def prune_all(wanted: "dict[str, Logs]") -> None:
    """The same for many logs, by their paths; each folder is looked through once."""
    folders = {path.rpartition("/")[0] for path in wanted}
    for folder in folders:
        for name, files in _by_log(folder).items():
            logs = wanted.get(f"{folder}/{name}")
            if logs is not None:
                prune(_only_logs(files), logs)


def prune(files: list[str], logs: "Logs") -> None:
    """Remove those rotated files of a log that are too many or too old, with their indexes."""
    too_many = len(files) - max(0, logs.max_files)
    oldest = time.time() - logs.max_days * DAY if logs.max_days else 0
    for number, file in enumerate(files):
        try:
            goes = number < too_many or os.stat(file).st_mtime < oldest
        except OSError:
            continue
        if goes:
            plain = file.removesuffix(COMPRESSED)
            for one in (plain, plain + COMPRESSED, plain + SUFFIX):
                _unlink(one)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        # Gone, or its disk is read-only: it is looked at again at the next rotation.
        return

"""`-f`: shows what comes to logs, until Ctrl-C. Woken by inotify(7) and by the daemon's events, and by no clock."""

import os
import select
import time

from oxmgr.cli.logprint import Printer
from oxmgr.cli.logsources import Sources
from oxmgr.cli.output import STDOUT, fail_unread, warn
from oxmgr.client.connection import Connection, NoDaemon, Refused, connect
from oxmgr.client.inotify import CREATE, DELETE, MOVED_TO, FolderWatch
from oxmgr.client.logchain import NOT_LOGS, Chain, open_live, rotated_at
from oxmgr.client.logfile import Run, Source
from oxmgr.client.logfollow import Follower
from oxmgr.client.logmerge import merge
from oxmgr.model.logindex import COMPRESSED, ROTATED, SUFFIX
from oxmgr.model.messages import Event, GetInstances, Instances, InstanceView
from oxmgr.model.places import Places
from oxmgr.model.targets import selects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Filter = Callable[[Iterable[Run]], Iterator[Run]]

WITHOUT_INOTIFY_MS = 100
NEWCOMERS = ("added", "changed", "waiting", "started", "daemon-started")
CONNECT_AFTER = (0.005, 0.02, 0.1, 0.5, 2.0)
"""A socket has its name a moment before somebody listens at it (bind(2), listen(2))."""


class Follow:
    """`filter_of` makes the filter of one log. Made before the logs are looked at, so that nothing comes between."""

    def __init__(
        self,
        places: Places,
        sources: Sources,
        printer: Printer,
        filter_of: "Callable[[], Filter]" = lambda: iter,
        targets: "list[str] | None" = None,
    ) -> None:
        self._places = places
        self._sources = sources
        self._printer = printer
        self._filter_of = filter_of
        self._targets = targets or []
        self._followers: dict[str, Follower] = {}
        self._filters: dict[str, Filter] = {}
        self._folders = self._open_inotify()
        self._before = _sizes(places.logs)
        self._daemon: Connection | None = None
        self._tries: tuple[float, ...] = ()
        self._try_at = 0.0

    def _open_inotify(self) -> FolderWatch | None:
        try:
            watch = FolderWatch()
            watch.want(self._places.run)
            return watch
        except OSError as error:
            warn(f"{error.strerror}; until then files are looked at every {WITHOUT_INOTIFY_MS} ms")
            return None

    def add(self, chain: Chain) -> None:
        """Show what comes behind what that shows."""
        self._add(Follower.of(chain))

    def _add(self, follower: Follower) -> None:
        self._followers[follower.path] = follower
        self._filters[follower.path] = self._filter_of()
        if self._folders is not None:
            self._folders.want(os.path.dirname(follower.path))

    def run(self, until: int = -1) -> None:
        """Until that fd becomes readable, if there is one, and what was printed before that has been shown."""
        poll = select.poll()
        poll.register(STDOUT, 0)
        for fd in (until, self._folders.fd if self._folders is not None else -1):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        self._connect(poll)
        dirty = dict.fromkeys(self._followers.values())
        while True:
            behind = self._show(dirty)
            ready = dict(poll.poll(0 if behind else self._timeout()))
            fail_unread(ready)
            dirty = dict.fromkeys(behind)
            if self._folders is not None and self._folders.fd in ready:
                dirty |= self._look_at_events(self._folders)
            elif self._folders is None or until in ready:
                dirty = dict.fromkeys(self._followers.values())
            if self._daemon is not None and self._daemon.fileno() in ready:
                dirty |= self._hear(poll, self._daemon)
            elif self._tries and time.monotonic() >= self._try_at:
                dirty |= self._connect(poll)
            if until in ready and not behind:
                dirty = dict.fromkeys(self._followers.values())
                while dirty:
                    dirty = dict.fromkeys(self._show(dirty))
                self._end()
                return

    def _timeout(self) -> int | None:
        waits = [] if self._folders is not None else [WITHOUT_INOTIFY_MS]
        if self._tries:
            waits.append(max(0, int((self._try_at - time.monotonic()) * 1000) + 1))
        return min(waits, default=None)

    # --- showing ---

    def _show(self, dirty: "Iterable[Follower]") -> list[Follower]:
        """What has come to these; those of which there is more."""
        runs: list[Iterator[Run]] = []
        behind: list[Follower] = []
        for follower in dirty:
            found = follower.more()
            if found:
                runs.append(self._filters[follower.path](found))
            if follower.behind:
                behind.append(follower)
            if follower.lost:
                warn(f"{follower.path}: {follower.lost} of its rotated files were removed before they could be shown")
                follower.lost = 0
        self._print(runs)
        return behind

    def _print(self, runs: "list[Iterator[Run]]") -> None:
        if runs:
            self._printer.names = len({source.name for source in self._sources.found.values()}) > 1
            self._printer.show(merge(runs))
            self._printer.flush()

    def _end(self) -> None:
        """Also what has no end of line."""
        self._print([self._filters[one.path](one.flush()) for one in self._followers.values()])
        self._printer.close()

    # --- files ---

    def _look_at_events(self, watch: FolderWatch) -> "dict[Follower, None]":
        dirty: dict[Follower, None] = {}
        for folder, name, mask in watch.look():
            if not folder:
                dirty = dict.fromkeys(self._followers.values())
                continue
            path = f"{folder}/{name}"
            if path == self._places.socket and mask & (CREATE | MOVED_TO):
                self._try_in(CONNECT_AFTER)
            follower = self._find(folder, name)
            if follower is None:
                continue
            dirty[follower] = None
            stamp = path.removeprefix(follower.path)
            if mask & DELETE and not stamp:
                watch.suspect(folder)
                dirty = dict.fromkeys(self._followers.values())
            elif stamp[:1] == ROTATED and mask & (CREATE | MOVED_TO) and not stamp.endswith(NOT_LOGS):
                follower.was_rotated(path.removesuffix(COMPRESSED))
        return dirty

    def _find(self, folder: str, name: str) -> Follower | None:
        """Whose file it is: a log, its index, a rotated one, or one that logrotate has called `NAME.1`, `NAME-DATE`."""
        logs = [name.removesuffix(SUFFIX), *(name.rpartition(mark)[0] for mark in (ROTATED, ".", "-"))]
        return next((self._followers[path] for log in logs if (path := f"{folder}/{log}") in self._followers), None)

    # --- instances that come later ---

    def _connect(self, poll: "select.poll") -> "dict[Follower, None]":
        """Hear of them from the daemon; without one, its socket's name will tell that there is one again."""
        self._try_in(self._tries[1:])
        try:
            self._daemon = connect(self._places)
            self._daemon.follow_events()
        except (NoDaemon, Refused):
            self._daemon = None
            return {}
        self._tries = ()
        poll.register(self._daemon.fileno(), select.POLLIN)
        return self._take_new()

    def _try_in(self, seconds: "tuple[float, ...]") -> None:
        self._tries = seconds if self._daemon is None else ()
        self._try_at = time.monotonic() + (seconds[0] if seconds else 0)

    def _hear(self, poll: "select.poll", daemon: Connection) -> "dict[Follower, None]":
        try:
            events = daemon.arrived()
        except (NoDaemon, Refused):
            poll.unregister(daemon.fileno())
            daemon.close()
            self._daemon = None
            self._try_in(CONNECT_AFTER)
            return {}
        known = {source.name for source in self._sources.found.values()}
        if any(isinstance(one, Event) and one.kind in NEWCOMERS and one.instance not in known for one in events):
            return self._take_new()
        return {}

    def _take_new(self) -> "dict[Follower, None]":
        try:
            connection = connect(self._places)
        except (NoDaemon, Refused):
            return {}
        try:
            reply = connection.request(GetInstances())
        except (NoDaemon, Refused):
            return {}
        finally:
            connection.close()
        assert isinstance(reply, Instances)
        taken = self._sources.take(list(filter(self._is_meant, reply.instances)))
        for path, source in taken:
            self._add(self._newcomer(path, source))
        return dict.fromkeys(self._followers[path] for path, _ in taken)

    def _is_meant(self, view: InstanceView) -> bool:
        targets = self._targets
        return not targets or any(selects(one, view.app, view.instance, view.namespace) for one in targets)

    def _newcomer(self, path: str, source: Source) -> Follower:
        """From where its file ended when the command began, for it may have been there for long."""
        inode, size, began_ns = self._before.get(path, (0, 0, self._before[""][2]))
        rotated = self._sources.folders.rotated(path)
        live = open_live(path, source)
        begin = None
        if live is not None and live.inode == inode:
            begin = min(size, live.size)
        elif live is not None and os.path.dirname(path) != self._places.logs:
            # How it was when the command began, nobody has looked.
            begin = live.offset_since(began_ns) or None
        if begin is not None:
            follower = Follower(path, source, self._sources.folders, last=rotated[-1] if rotated else "")
            follower.begin_at(live, begin, live=True)
            return follower
        old = [one for one in rotated if (rotated_at(one) or 0) < began_ns]
        return Follower(path, source, self._sources.folders, last=old[-1] if old else "")


def _sizes(folder: str) -> dict[str, tuple[int, int, int]]:
    """Inode and size of what is there now; and now, as the third, under ''."""
    now = time.time_ns()
    found = {"": (0, 0, now)}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if ROTATED not in entry.name and not entry.name.endswith(SUFFIX):
                    status = entry.stat()
                    found[entry.path] = status.st_ino, status.st_size, now
    except OSError:
        pass
    return found

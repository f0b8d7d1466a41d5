"""Watches files for apps that want to be restarted when one changes: an inotify fd for each such app that is wanted to
run, and none for the others.

The walks through the folders are made in a thread (oxmgr/supervisor/walk.py); what happens meanwhile waits in the
kernel. When that had no room for it, or what is watched has become something else, everything is watched anew, and what
was changed in between is found by its time.
"""

import os
import time
from stat import S_ISLNK, S_ISREG

from oxmgr.lifecycle.watching import Filter, describe
from oxmgr.model import status as is_
from oxmgr.model.logindex import ROTATED, SUFFIX
from oxmgr.model.logpaths import log_paths
from oxmgr.supervisor import native
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.shortage import reason
from oxmgr.supervisor.walk import PATHS, Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.places import Places
    from oxmgr.model.spec import Spec
    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.instance import App
    from oxmgr.supervisor.loop import Loop, Timer

SLACK = 0.05
"""Seconds by which a file's time may be behind the clock: the kernel takes that of its last tick."""
AT_MOST = 10
"""Delays after which a restart comes although it goes on changing."""
_KEYS = ("watch", "watch_extensions", "watch_ignore", "working_dir")


class Watches:
    """`changed` is called with an app, what has changed, in words, and when, Unix time."""

    def __init__(
        self,
        loop: "Loop",
        background: "Background",
        places: "Places",
        apps: "dict[str, App]",
        changed: "Callable[[App, str, float], None]",
    ) -> None:
        self._loop = loop
        self._background = background
        self._places = places
        self._apps = apps
        self._changed = changed
        self._watches: dict[App, _Watch] = {}
        self._ended = False

    def update(self, app: "App") -> None:
        """Its spec, or something of an instance of it, has changed."""
        watch = self._watches.get(app)
        if not app.spec.watch and watch is None:
            return
        wanted = any(one.state.desired and one.state.status != is_.STOPPED for one in app.instances.values())
        wanted = wanted and bool(app.spec.watch) and not self._ended
        if watch is not None and (not wanted or watch.is_of_another(app.spec)):
            watch.end()
            del self._watches[app]
            app.troubles.pop("watch", None)
            watch = None
        if wanted and watch is None:
            try:
                fd = native.watch()
            except OSError as error:
                app.troubles["watch"] = _nothing(error)
                return
            app.troubles.pop("watch", None)
            self._watches[app] = _Watch(self._loop, self._background, app, fd, self._owns(), self._changed)

    def _owns(self) -> "Callable[[], Callable[[str], bool]]":
        return lambda: _own_files(self._places, self._apps)

    def end(self) -> None:
        """The daemon ends, and nothing is restarted any more."""
        self._ended = True
        for app in list(self._watches):
            self.update(app)


class _Watch:
    """`fd` is read between walks alone, for only then every number in an event is known."""

    def __init__(
        self,
        loop: "Loop",
        background: "Background",
        app: "App",
        fd: int,
        own: "Callable[[], Callable[[str], bool]]",
        changed: "Callable[[App, str, float], None]",
    ) -> None:
        self._loop = loop
        self._background = background
        self._app = app
        self._spec = app.spec
        self._filter = Filter(app.spec)
        self._own = own
        self._tell = changed
        self._fd = fd
        self._ended = False
        self._walk: Walk | None = None
        self._folders: dict[int, tuple[str, str]] = {}
        self._roots: set[int] = set()
        self._anchors: dict[int, dict[str, tuple[str, str]]] = {}
        self._unwatched = 0
        self._fresh: list[tuple[str, str]] = []
        self._anew = False
        self._read = time.time()
        self._is_own: Callable[[str], bool] | None = None
        self._paths: dict[str, None] = {}
        self._first = self._last = self._at = 0.0
        self._timer: Timer | None = None
        loop.add(fd, READ, self._on_events)
        self._start_walk(self._read, lambda walk: walk.begin(self._spec.watch))

    def is_of_another(self, spec: "Spec") -> bool:
        """Whether it watches something else than the spec asks for. Of others, the delay counts at once."""
        if spec is self._spec:
            return False
        same = all(getattr(spec, key) == getattr(self._spec, key) for key in _KEYS)
        if same:
            self._spec = spec
        return not same

    def end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._walk is not None:
            self._walk.stopped = True
        else:
            self._loop.remove(self._fd)
            self._close(self._fd)

    def _close(self, fd: int) -> None:
        # The kernel waits for whoever is looking at one of its watches.
        self._background.run(lambda: os.close(fd), lambda error: None)

    # --- walks ---

    def _start_walk(self, since: float, work: "Callable[[Walk], None]") -> None:
        walk = self._walk = Walk(self._fd, self._filter, self._own(), since)
        self._loop.change(self._fd, 0)
        self._background.run(lambda: work(walk), lambda error: self._on_walked(walk, error))

    def _on_walked(self, walk: Walk, error: OSError | None) -> None:
        self._walk = None
        if error is not None:
            self._loop.failed(error)
        if self._ended:
            self._loop.remove(self._fd)
            self._close(self._fd)
            return
        self._folders.update(walk.folders)
        self._roots |= walk.roots
        self._anchors.update(walk.anchors)
        self._unwatched += walk.unwatched
        if self._unwatched:
            what = "a folder is not watched" if self._unwatched == 1 else f"{self._unwatched} folders are not watched"
            self._app.troubles["watch"] = _too_few(what, "max_user_watches")
        for path in walk.changed:
            self._note(path)
        self._loop.change(self._fd, READ)
        self._go_on()

    def _go_on(self) -> None:
        """With what the events and the last walk have left to do."""
        if self._walk is not None:
            return
        if self._anew:
            self._watch_anew()
        elif self._fresh:
            fresh, self._fresh = self._fresh, []
            self._start_walk(0.0, lambda walk: walk.go_on(fresh))
        elif self._paths and self._timer is None:
            self._on_timer()

    def _watch_anew(self) -> None:
        self._anew = False
        self._fresh.clear()
        try:
            fd = native.watch()
        except OSError as error:
            self._app.troubles["watch"] = _nothing(error)
            return
        self._app.troubles.pop("watch", None)
        self._loop.remove(self._fd)
        self._close(self._fd)
        self._fd = fd
        self._loop.add(fd, READ, self._on_events)
        self._folders, self._roots, self._anchors, self._unwatched = {}, set(), {}, 0
        self._start_walk(self._read - SLACK, lambda walk: walk.begin(self._spec.watch, removals=True))

    # --- events ---

    def _on_events(self, _: int) -> None:
        self._is_own = None
        now = time.time()
        events, are_all = native.read_watch(self._fd)
        for number, mask, name in events:
            self._on_event(number, mask, name)
        if are_all and not self._anew:
            # What is lost from now on has happened later than this.
            self._read = now
        self._go_on()

    def _on_event(self, number: int, mask: int, name: str) -> None:
        if mask & native.OVERFLOW:
            self._anew = True
            return
        anchored = self._anchors.get(number, {}).get(name)
        if anchored is not None:
            # A file that is watched by its own name, or what leads to a root.
            path, root = anchored
            if mask & (native.FOLDER | native.MADE) or os.path.islink(path):
                self._anew = True
            if mask & (native.FOLDER | ~native.MADE) or _is_link(path):
                self._note(root)
        if mask & (native.FORGOTTEN | native.SELF_MOVED):
            self._anew = self._anew or number in self._roots or number in self._anchors
            if mask & native.FORGOTTEN:
                self._folders.pop(number, None)
            return
        known = self._folders.get(number)
        if known is None or not name:
            return
        root, folder = known
        path = f"{folder.rstrip('/')}/{name}"
        if self._filter.ignores(root, path):
            return
        if mask & native.FOLDER:
            self._on_folder(mask, root, path)
        elif self._filter.counts(path) and (not mask & native.MADE or _is_link(path)):
            self._note(path)

    def _on_folder(self, mask: int, root: str, path: str) -> None:
        if mask & (native.MADE | native.MOVED_TO):
            self._fresh.append((root, path))
        elif mask & native.MOVED_FROM:
            # Wherever it is now, what happens in it is nothing to us; if that is below a root, it is found there.
            below = f"{path}/"
            gone = [one for one, (_, known) in self._folders.items() if known == path or known.startswith(below)]
            for number in gone:
                del self._folders[number]
                native.watch_remove(self._fd, number)
            self._note(path)

    # --- a burst ---

    def _note(self, path: str) -> None:
        if path not in self._paths:
            if self._is_own is None:
                self._is_own = self._own()
            if self._is_own(path):
                return
            if len(self._paths) < PATHS:
                self._paths[path] = None
        self._last, self._at = time.monotonic(), time.time()
        if self._timer is None:
            self._first = self._first or self._last
            self._timer = self._loop.at(self._last + self._delay, self._on_timer)

    @property
    def _delay(self) -> float:
        return self._spec.watch_delay_ms / 1000.0

    def _on_timer(self) -> None:
        self._timer = None
        if self._walk is not None:
            return
        quiet = min(self._last + self._delay, self._first + AT_MOST * self._delay)
        if time.monotonic() < quiet:
            self._timer = self._loop.at(quiet, self._on_timer)
            return
        paths = sorted(self._paths, key=lambda path: not os.path.lexists(path))
        self._paths, self._first = {}, 0.0
        self._tell(self._app, describe(paths, self._spec.working_dir, PATHS), self._at)


def _is_link(path: str) -> bool:
    """Of what was made. Of a file, the end of writing is told as well; a socket or a FIFO is none; but a link has no
    other word."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return S_ISLNK(found.st_mode) or (S_ISREG(found.st_mode) and found.st_nlink > 1)


def _own_files(places: "Places", apps: "dict[str, App]") -> "Callable[[str], bool]":
    """Whether a path is a log of an app, or of the daemon's own folders."""
    logs: set[str] = set()
    for app in apps.values():
        if app.spec.log_file or app.spec.error_log_file:
            for index in app.instances:
                logs.update(log_paths(app.spec, index, places.logs))
    own = tuple(f"{folder}/" for folder in (places.state, places.run, places.logs))

    def is_own(path: str) -> bool:
        if f"{path}/".startswith(own):
            return True
        folder, _, name = path.rpartition("/")
        return f"{folder}/{name.partition(ROTATED)[0].removesuffix(SUFFIX)}" in logs

    return is_own


def _nothing(error: OSError) -> str:
    """EMFILE is the limit of the user's instances, or that of our own fds (inotify_init(2))."""
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError as own:
        return f"watch: nothing is watched: {reason(own)}"
    return _too_few("nothing is watched", "max_user_instances", error)


def _too_few(what: str, limit: str, error: OSError | None = None) -> str:
    try:
        with open(f"/proc/sys/fs/inotify/{limit}") as file:
            most = file.read().strip()
    except OSError:
        most = "?"
    why = f" ({error.strerror})" if error is not None else ""
    return f"watch: {what}{why}: fs.inotify.{limit} is {most} for all programs of a user, raise it with sysctl"

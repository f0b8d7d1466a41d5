"""`oxmgr logs`: what apps have printed."""

import os
import select
import sys

from oxmgr.cli.context import ask, my_places
from oxmgr.cli.output import BLUE, CYAN, GREEN, MAGENTA, YELLOW, paint, wants_colour, warn
from oxmgr.cli.parser import Args
from oxmgr.cli.tail import Follower
from oxmgr.client.connection import Connection, NoDaemon, Refused, connect
from oxmgr.client.saved import read_saved
from oxmgr.model.messages import DONE, NO_DAEMON, NO_SUCH_APP, GetInstances, Instances, InstanceView
from oxmgr.model.places import Places
from oxmgr.model.targets import selects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS = ("out", "err")
COLOURS = (CYAN, GREEN, YELLOW, BLUE, MAGENTA)
LOOK_EVERY_MS = 100
NEW_INSTANCES_EVERY = 10


def run(args: Args) -> int:
    places = my_places()
    kinds = [kind for kind in KINDS if args.flag(kind)] or list(KINDS)
    streams = Streams(places, kinds=kinds, lines=args.number("lines", 20))
    code = streams.select(args.words)
    if code == NO_SUCH_APP:
        return code
    streams.show_ends()
    if args.flag("follow"):
        streams.follow()
    streams.flush()
    return code


class Streams:
    """The log files of some instances; with several, each line says whose it is."""

    def __init__(self, places: Places, *, lines: int, kinds: "Iterable[str]" = KINDS) -> None:
        self._places = places
        self._targets: list[str] = []
        self._kinds = kinds
        self._lines = lines
        self._colour = wants_colour(1)
        self._files: dict[str, tuple[Follower, str]] = {}
        # Where the files of instances end that are yet to come: all behind that is theirs.
        self._ends: dict[str, int] = {}
        try:
            with os.scandir(places.logs) as entries:
                self._ends = {entry.path: entry.stat().st_size for entry in entries}
        except FileNotFoundError:
            pass

    def select(self, targets: list[str]) -> int:
        """Take the files of these, be they running, saved, or deleted with their logs still there; the exit code."""
        self._targets = targets
        try:
            connection = connect(self._places)
        except NoDaemon as error:
            return self._select_saved(targets, str(error))
        views, refused = self._ask(connection)
        if refused is not None and not all(map(self._take_deleted, targets)):
            raise refused
        self._take(views)
        return DONE

    def _select_saved(self, targets: list[str], error: str) -> int:
        self._take(read_saved(self._places, targets)[0])
        for target in targets:
            if not read_saved(self._places, [target])[0] and not self._take_deleted(target):
                sys.stderr.write(f"oxmgr: {error}, and nothing that is saved is called {target}: see oxmgr list\n")
                return NO_SUCH_APP
        sys.stderr.write(
            f"oxmgr: {error}" + ("; these lines are kept\n" if self._files else ", and nothing is saved\n")
        )
        return NO_DAEMON

    def _ask(self, connection: Connection) -> tuple[list[InstanceView], Refused | None]:
        try:
            reply = ask(connection, GetInstances(self._targets))
        except Refused as error:
            return [], error
        finally:
            connection.close()
        assert isinstance(reply, Instances)
        for text in reply.warnings:
            warn(text)
        return reply.instances, None

    def _take(self, views: list[InstanceView], *, new: bool = False) -> None:
        for view in views:
            for kind in self._kinds:
                path = view.log_file if kind == "out" else view.error_log_file
                self.take(path, view.name, self._ends.get(path, 0) if new else None)

    def take(self, path: str, name: str, begin: int | None = None) -> None:
        """Add a file: from its last lines on or, with `begin`, from there."""
        if path not in self._files and not path.startswith("/dev/"):
            self._files[path] = Follower(path, self._lines, begin), name

    def _take_deleted(self, target: str) -> bool:
        """Add the files of an app that is not there any more, by their names; whether there are any."""
        found = False
        for kind in self._kinds:
            path = f"{self._places.logs}/{target}.{kind}.log"
            if "/" not in target and os.path.exists(path):
                self.take(path, target)
                found = True
        return found

    def show_ends(self) -> None:
        for follower, name in self._files.values():
            self._write(name, follower.first)
        sys.stdout.flush()

    def flush(self) -> None:
        """What has no end of line."""
        for follower, name in self._files.values():
            self._write(name, follower.flush())
        sys.stdout.flush()

    @property
    def _many(self) -> bool:
        return len({name for _, name in self._files.values()}) > 1

    def follow(self, until: int = -1) -> None:
        """Until that fd becomes readable, if there is one, and what was printed before that has been shown."""
        _raise_fd_limit()
        poll = select.poll()
        if until >= 0:
            poll.register(until, select.POLLIN)
        turn = 0
        while True:
            ended = bool(poll.poll(LOOK_EVERY_MS))
            turn += 1
            if turn % NEW_INSTANCES_EVERY == 0:
                self._look_for_new()
            for follower, name in self._files.values():
                self._write(name, follower.more())
            if ended:
                self.flush()
                return
            sys.stdout.flush()

    def _look_for_new(self) -> None:
        try:
            connection = connect(self._places)
        except NoDaemon:
            return  # perhaps there will be another one
        try:
            reply = connection.request(GetInstances())
        except (NoDaemon, Refused):
            return
        finally:
            connection.close()
        if isinstance(reply, Instances):
            meant = [view for view in reply.instances if not self._targets or self._is_meant(view)]
            self._take(meant, new=True)

    def _is_meant(self, view: InstanceView) -> bool:
        return any(selects(target, view.app, view.instance, view.namespace) for target in self._targets)

    def _write(self, name: str, lines: list[bytes]) -> None:
        if not lines:
            return
        prefix = b""
        if self._many:
            colour = COLOURS[sum(name.encode()) % len(COLOURS)]
            prefix = f"{paint(name, colour, self._colour)} | ".encode()
        out = b"".join(prefix + line for line in lines)
        if not out.endswith(b"\n"):
            out += b"\n"
        sys.stdout.flush()
        sys.stdout.buffer.write(out)


def _raise_fd_limit() -> None:
    """Each followed file takes one."""
    from resource import RLIMIT_NOFILE, getrlimit, setrlimit

    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))

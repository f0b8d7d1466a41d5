"""`oxmgr logs`: what apps have printed."""

import os
import select
import sys

from oxmgr.cli.context import look
from oxmgr.cli.output import BLUE, CYAN, GREEN, MAGENTA, YELLOW, paint, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.cli.tail import Follower
from oxmgr.client.connection import NoDaemon, Refused, connect
from oxmgr.client.saved import read_saved
from oxmgr.model.messages import DONE, NO_SUCH_APP, GetInstances, Instances, InstanceView
from oxmgr.model.places import Places

COLOURS = (CYAN, GREEN, YELLOW, BLUE, MAGENTA)
LOOK_EVERY_MS = 100
NEW_INSTANCES_EVERY = 10


def run(args: Args) -> int:
    from oxmgr.cli.context import my_places

    places = my_places()
    kinds = [kind for kind in ("out", "err") if args.flag(kind)] or ["out", "err"]
    streams = Streams(places, args.words, kinds=kinds, lines=args.number("lines", 20))
    if not streams.files and args.words and not streams.orphaned(args.words):
        views, _ = look(args.words)
        if not views:
            sys.stderr.write(f"oxmgr: there is no app or instance {args.words[0]}: see oxmgr list\n")
            return NO_SUCH_APP
    streams.show_ends()
    if args.flag("follow"):
        streams.follow()
    return DONE


class Streams:
    """The log files of some instances; with several, each line says whose it is."""

    def __init__(self, places: Places, targets: list[str], *, lines: int, kinds: "list[str] | None" = None) -> None:
        self.files: dict[str, tuple[Follower, str]] = {}
        self._places = places
        self._targets = targets
        self._kinds = kinds or ["out", "err"]
        self._lines = lines
        self._colour = wants_colour(1)
        self._look_for_new(lines)

    def _look_for_new(self, lines: int) -> None:
        for view in self._views():
            for kind in self._kinds:
                path = view.log_file if kind == "out" else view.error_log_file
                if path not in self.files and not path.startswith("/dev/"):
                    self.files[path] = Follower(path, lines), view.name

    def _views(self) -> list[InstanceView]:
        try:
            connection = connect(self._places)
        except NoDaemon:
            return read_saved(self._places, self._targets)[0]
        try:
            reply = connection.request(GetInstances(self._targets))
        except Refused:
            return []
        finally:
            connection.close()
        return reply.instances if isinstance(reply, Instances) else []

    def orphaned(self, targets: list[str]) -> bool:
        """Add the files of apps that are deleted, by their names in the log folder."""
        for target in targets:
            for kind in self._kinds:
                path = f"{self._places.logs}/{target}.{kind}.log"
                if "/" not in target and os.path.exists(path):
                    self.files[path] = Follower(path, self._lines), target
        return bool(self.files)

    def show_ends(self) -> None:
        for follower, name in self.files.values():
            self._write(name, follower.first)
        sys.stdout.flush()

    @property
    def _many(self) -> bool:
        return len({name for _, name in self.files.values()}) > 1

    def follow(self, until: int = -1) -> None:
        """Until that fd becomes readable, if there is one, and what was printed before that has been shown."""
        poll = select.poll()
        if until >= 0:
            poll.register(until, select.POLLIN)
        turn = 0
        while True:
            ended = bool(poll.poll(LOOK_EVERY_MS))
            turn += 1
            if turn % NEW_INSTANCES_EVERY == 0 or ended:
                before = set(self.files)
                self._look_for_new(self._lines)
                for path in set(self.files) - before:
                    follower, name = self.files[path]
                    self._write(name, follower.first)
            for follower, name in self.files.values():
                self._write(name, follower.more())
                if ended:
                    self._write(name, follower.flush())
            sys.stdout.flush()
            if ended:
                return

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

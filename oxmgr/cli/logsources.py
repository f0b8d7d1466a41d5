"""Which logs a `logs` command is about: of what runs, what is saved, and what was deleted and has left them."""

import os
import sys

from oxmgr.cli.context import ask
from oxmgr.cli.output import warn
from oxmgr.client.connection import Connection, NoDaemon, Refused, connect
from oxmgr.client.logchain import Chain, Folders
from oxmgr.client.logfile import Source
from oxmgr.client.saved import read_saved, read_saved_specs
from oxmgr.model.logpaths import default_log_paths
from oxmgr.model.messages import DONE, NO_DAEMON, NO_SUCH_APP, GetInstances, Instances, InstanceView
from oxmgr.model.places import Places

KINDS = ("out", "err")
ELSEWHERE = {
    "journald": "the journal: journalctl OXMGR_APP={} shows it",
    "stdout": "the daemon's own output",
    "inherit": "the daemon's own output",
    "none": "nothing: the sink of its logs is none",
}


class Sources:
    """Paths of logs, and whose they are. Of a file with both streams the kind is ''."""

    def __init__(self, places: Places, kinds: "tuple[str, ...]" = KINDS) -> None:
        self.found: dict[str, Source] = {}
        self.folders = Folders()
        self._places = places
        self._kinds = kinds

    def select(self, targets: list[str]) -> int:
        """The exit code. With NO_SUCH_APP, why has been said."""
        try:
            views, refused = _ask(connect(self._places), targets)
        except NoDaemon as error:
            return self._select_saved(targets, str(error))
        if refused is not None and not all(map(self._take_deleted, targets)):
            raise refused
        self.take(views)
        return DONE

    def _select_saved(self, targets: list[str], error: str) -> int:
        self.take(read_saved(self._places, targets)[0])
        for target in targets:
            if not read_saved(self._places, [target])[0] and not self._take_deleted(target):
                sys.stderr.write(f"oxmgr: {error}, and nothing that is saved is called {target}: see oxmgr list\n")
                return NO_SUCH_APP
        told = "; these lines are kept" if self.found else ", and nothing is saved"
        sys.stderr.write(f"oxmgr: {error}{told}\n")
        return NO_DAEMON

    def take(self, views: list[InstanceView]) -> "list[tuple[str, Source]]":
        """Those of these instances that were not there yet."""
        taken: list[tuple[str, Source]] = []
        for view in views:
            out, err = view.log_file, view.error_log_file
            plain = default_log_paths(view.app, view.instance, self._places.logs)
            for kind in self._kinds:
                at = KINDS.index(kind)
                taken += self.add((out, err)[at], view.name, view.app, view.instance, "" if out == err else kind)
                # Where it goes when it cannot go where it was asked to, and where it went before it was asked to.
                taken += self.add(plain[at], view.name, view.app, view.instance, kind)
        return taken

    def add(self, path: str, name: str, app: str, instance: int, kind: str) -> "list[tuple[str, Source]]":
        if path in self.found or not path.startswith("/") or path.startswith("/dev/"):
            return []
        rank = (kind == "err") * 1_000_000 + len(self.found)
        self.found[path] = source = Source(name, app, instance, kind, rank)
        return [(path, source)]

    def _take_deleted(self, target: str) -> bool:
        """Those of an app that is not there any more, by their names; whether there are any."""
        found = False
        app, _, number = target.partition(":")
        if "/" in target or not (number or "0").isdecimal():
            return False
        for kind, path in zip(KINDS, default_log_paths(app, int(number or 0), self._places.logs), strict=True):
            if kind in self._kinds and (os.path.lexists(path) or self.folders.rotated(path)):
                self.add(path, target, app, int(number or 0), kind)
                found = True
        return found

    def elsewhere(self) -> list[str]:
        """Of the apps whose lines are in no file: where they go."""
        specs = read_saved_specs(self._places)
        apps = dict.fromkeys(source.app for source in self.found.values())
        sinks = {app: specs[app].logs.sink for app in apps if app in specs}
        return [f"{app} prints to {ELSEWHERE[sink].format(app)}" for app, sink in sinks.items() if sink in ELSEWHERE]

    def chains(self) -> list[Chain]:
        return [Chain(path, source, self.folders) for path, source in self.found.items()]


def _ask(connection: Connection, targets: list[str]) -> tuple[list[InstanceView], Refused | None]:
    try:
        reply = ask(connection, GetInstances(targets))
    except Refused as error:
        return [], error
    finally:
        connection.close()
    assert isinstance(reply, Instances)
    for text in reply.warnings:
        warn(text)
    return reply.instances, None

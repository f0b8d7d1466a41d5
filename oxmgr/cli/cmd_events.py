"""`oxmgr events`: what happened."""

import select
import sys
import time
from functools import partial

from oxmgr.cli.context import ask, my_places
from oxmgr.cli.output import DIM, GREEN, RED, STDOUT, YELLOW, fail_unread, paint, printable, wants_colour, warn
from oxmgr.cli.parser import Args, Usage, nearest
from oxmgr.client.connection import Connection, NoDaemon, NotRunning, connect
from oxmgr.client.saved import read_saved, read_saved_events
from oxmgr.model.codec import encode_json
from oxmgr.model.messages import (
    DONE,
    EVENT_KINDS,
    NO_DAEMON,
    Event,
    EventsLost,
    GetEvents,
    GetInstances,
    Instances,
    InstanceView,
)
from oxmgr.model.targets import selects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oxmgr.model.places import Places

ALL = 1 << 62
CONNECT_AFTER = (0.0, 0.005, 0.02, 0.1, 0.5)
"""A socket has its name a moment before somebody listens at it (bind(2), listen(2))."""
WITHOUT_INOTIFY = 0.1

COLOURS = {
    "started": GREEN,
    "ready": GREEN,
    "crashed": RED,
    "errored": RED,
    "killed": RED,
    "oom": RED,
    "alert-failed": RED,
    "limit": YELLOW,
    "backoff": YELLOW,
    "waiting": YELLOW,
    "warning": YELLOW,
    "stopped": DIM,
    "stopping": DIM,
}


def run(args: Args) -> int:
    places, targets, wanted = my_places(), args.words, Wanted(args)
    try:
        connection = connect(places)
    except NoDaemon as error:
        meant = Meant(targets, read_saved(places, [])[0])
        past = wanted.last_of(filter(meant, read_saved_events(places)))
        _show(past, args)
        sys.stderr.write(f"oxmgr: {error}" + ("; these events are kept\n" if past else ", and no event is kept\n"))
        return NO_DAEMON
    reply = ask(connection, GetInstances())
    assert isinstance(reply, Instances)
    for text in reply.warnings:
        warn(text)
    meant = Meant(targets, reply.instances)
    # At least one, for what follows begins behind it.
    limit = max(1, wanted.count) if wanted.plain and not targets and wanted.count is not None else ALL
    kept = [one for one in connection.stream(GetEvents(limit=limit)) if isinstance(one, Event)]
    for target in targets:
        # An app that was deleted has its events. What has none was never there, and the daemon says so.
        if not any(map(Meant([target], reply.instances), kept)):
            ask(connection, GetInstances([target]))
    _show(wanted.last_of(filter(meant, kept)), args)
    if not args.flag("follow"):
        return DONE
    for event in follow(places, connection, kept[-1].seq if kept else 0):
        if event.kind in ("added", "changed"):
            meant.learn(places)
        if meant(event) and wanted(event):
            _show([event], args)
    raise NoDaemon("the daemon has ended")


class Wanted:
    """What the options ask for: of which kinds, since when, how many."""

    def __init__(self, args: Args) -> None:
        self._kinds = [kind for text in args.many("kind") for kind in text.split(",")]
        for kind in self._kinds:
            if kind not in EVENT_KINDS:
                hint = nearest(kind, list(EVENT_KINDS)) or f": there are {', '.join(EVENT_KINDS)}"
                raise Usage(f"there are no events of the kind {kind!r}{hint}")
        self._since = _since(args.one("since"))
        # With a beginning, all from there on unless so many are asked for.
        every = args.one("lines") == "all" or (args.flag("since") and not args.flag("lines"))
        self.count = None if every else args.number("lines", 20)

    @property
    def plain(self) -> bool:
        return not self._kinds and not self._since

    def __call__(self, event: Event) -> bool:
        return event.at >= self._since and (not self._kinds or event.kind in self._kinds)

    def last_of(self, events: "Iterable[Event]") -> list[Event]:
        found = list(filter(self, events))
        return found if self.count is None else found[max(0, len(found) - self.count) :]


def _since(text: str | None) -> float:
    if text is None:
        return 0.0
    from oxmgr.cli.when import parse_when

    return parse_when(text, time.time(), "--since") / 1e9


def follow(places: "Places", connection: Connection, last: int) -> "Iterator[Event]":
    """Each event behind number `last`, from daemon to daemon, until one ends that was told to."""
    while True:
        ends = False
        try:
            ask_for = GetEvents(after=last, limit=ALL, follow=True)
            for reply in connection.stream(ask_for, partial(_wait, connection.fileno())):
                if isinstance(reply, EventsLost):
                    warn(f"{reply.count} events are not kept any more, and were not shown")
                elif isinstance(reply, Event):
                    last = reply.seq
                    ends = reply.kind == "daemon-stopping" or (ends and reply.kind != "daemon-started")
                    yield reply
        except NoDaemon:
            connection.close()
        if ends:
            return
        connection = next_daemon(places)


def _wait(daemon: int) -> None:
    """Until it says something. BrokenPipeError when nobody would read it."""
    poll = select.poll()
    poll.register(daemon, select.POLLIN)
    poll.register(STDOUT, 0)
    fail_unread(dict(poll.poll()))


def next_daemon(places: "Places") -> Connection:
    """One that answers, as soon as there is one: its socket's name tells of it (inotify(7)), or has been there all the
    time, and then who connects is answered when it can."""
    from oxmgr.client.inotify import FolderWatch

    watch: FolderWatch | None = None
    try:
        watch = FolderWatch()
        watch.want(places.run)
    except OSError as error:
        warn(f"{error.strerror}; until then it is looked every {WITHOUT_INOTIFY} s whether there is a daemon")
    told = False
    while True:
        why = ""
        for seconds in CONNECT_AFTER:
            try:
                return connect(places)
            except NoDaemon as error:
                why = "the daemon is gone without a word" if isinstance(error, NotRunning) else str(error)
                select.select([] if watch is None else [watch.fd], [], [], seconds)
        if not told:
            told = True
            sys.stdout.flush()
            sys.stderr.write(f"oxmgr: {why}; waiting for the next one\n")
        select.select([] if watch is None else [watch.fd], [], [], WITHOUT_INOTIFY if watch is None else None)
        if watch is not None:
            watch.look()


class Meant:
    """Whether an event is about what these targets select, of the apps that are there or were. No target: any is."""

    def __init__(self, targets: list[str], views: list[InstanceView]) -> None:
        self._targets = targets
        self._namespaces = {view.app: view.namespace for view in views}

    def learn(self, places: "Places") -> None:
        """The namespaces of the apps that are there now, where a target asks for one."""
        if not any(target.startswith("@") for target in self._targets):
            return
        try:
            connection = connect(places)
            reply = connection.request(GetInstances())
        except NoDaemon:
            return
        connection.close()
        assert isinstance(reply, Instances)
        self._namespaces.update((view.app, view.namespace) for view in reply.instances)

    def __call__(self, event: Event) -> bool:
        if not self._targets:
            return True
        number = event.instance.rpartition(":")[2] if ":" in event.instance else "0"
        namespace = self._namespaces.get(event.app, "")
        # What happens to an app as a whole happens to none of its instances.
        targets = [one for one in self._targets if event.instance or ":" not in one]
        return bool(event.app) and any(selects(one, event.app, int(number), namespace) for one in targets)


def _show(events: list[Event], args: Args) -> None:
    colour = wants_colour(1)
    for event in events:
        if args.flag("json"):
            whole = {key: getattr(event, key) for key in Event.__struct_fields__}
            sys.stdout.write(encode_json(whole).decode() + "\n")
            continue
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
        name = event.instance or event.app or "the daemon"
        kind = paint(f"{event.kind:10}", COLOURS.get(event.kind, ""), colour)
        pid = f" pid {event.pid}" if event.pid else ""
        sys.stdout.write(
            f"{when}.{int(event.at % 1 * 1000):03}  {name:16}  {kind}{pid}  {printable(event.reason)}".rstrip() + "\n"
        )
    sys.stdout.flush()

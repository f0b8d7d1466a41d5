"""`oxmgr events`: what happened."""

import sys
import time

from oxmgr.cli.context import ask, my_places
from oxmgr.cli.output import DIM, GREEN, RED, YELLOW, paint, printable, wants_colour, warn
from oxmgr.cli.parser import Args
from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.saved import read_saved, read_saved_events
from oxmgr.model.codec import encode_json
from oxmgr.model.messages import DONE, NO_DAEMON, Event, GetEvents, GetInstances, Instances, InstanceView
from oxmgr.model.targets import selects

FAR_MORE_THAN_ANY = 1_000_000

COLOURS = {
    "started": GREEN,
    "ready": GREEN,
    "crashed": RED,
    "errored": RED,
    "killed": RED,
    "oom": RED,
    "limit": YELLOW,
    "backoff": YELLOW,
    "waiting": YELLOW,
    "warning": YELLOW,
    "stopped": DIM,
    "stopping": DIM,
}


def run(args: Args) -> int:
    places = my_places()
    targets, count = args.words, args.number("lines", 20)
    kept = read_saved_events(places)
    try:
        connection = connect(places)
    except NoDaemon as error:
        meant = Meant(targets, read_saved(places, [])[0])
        past = list(filter(meant, kept))
        _show(past[max(0, len(past) - count) :], args)
        sys.stderr.write(f"oxmgr: {error}" + ("; these events are kept\n" if past else ", and no event is kept\n"))
        return NO_DAEMON
    reply = ask(connection, GetInstances())
    assert isinstance(reply, Instances)
    for text in reply.warnings:
        warn(text)
    for target in targets:
        # An app that was deleted has its events. What has none was never there, and the daemon says so.
        if not any(map(Meant([target], reply.instances), kept)):
            ask(connection, GetInstances([target]))
    meant = Meant(targets, reply.instances)
    past = list(filter(meant, kept))
    _show(past[max(0, len(past) - count) :], args)
    if args.flag("follow"):
        last = kept[-1].seq if kept else 0
        for event in connection.stream(GetEvents(after=last, limit=FAR_MORE_THAN_ANY, follow=True)):
            if isinstance(event, Event) and event.seq > last and meant(event):
                _show([event], args)
        raise NoDaemon("the daemon has ended")
    return DONE


class Meant:
    """Whether an event is about what these targets select, of the apps that are there or were. No target: any is."""

    def __init__(self, targets: list[str], views: list[InstanceView]) -> None:
        self._targets = targets
        self._namespaces = {view.app: view.namespace for view in views}

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

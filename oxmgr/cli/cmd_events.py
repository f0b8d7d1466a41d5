"""`oxmgr events`: what happened."""

import sys
import time

from oxmgr.cli.context import my_places
from oxmgr.cli.output import DIM, GREEN, RED, YELLOW, paint, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.saved import read_saved_events
from oxmgr.model.codec import encode_json
from oxmgr.model.messages import DONE, NO_DAEMON, Event, GetEvents
from oxmgr.model.targets import matches

COLOURS = {
    "started": GREEN,
    "ready": GREEN,
    "crashed": RED,
    "errored": RED,
    "killed": RED,
    "backoff": YELLOW,
    "waiting": YELLOW,
    "warning": YELLOW,
    "stopped": DIM,
    "stopping": DIM,
}


def run(args: Args) -> int:
    places = my_places()
    count = args.number("lines", 20)
    past = [event for event in read_saved_events(places) if _is_meant(event, args.words)]
    try:
        connection = connect(places)
    except NoDaemon as error:
        _show(past[len(past) - min(count, len(past)) :], args)
        sys.stderr.write(f"oxmgr: {error}; these are the ones that are kept\n")
        return NO_DAEMON
    last = past[-1].seq if past else 0
    _show(past[len(past) - min(count, len(past)) :], args)
    if args.flag("follow"):
        for event in connection.stream(GetEvents(after=last, limit=1_000_000, follow=True)):
            if isinstance(event, Event) and event.seq > last and _is_meant(event, args.words):
                _show([event], args)
        raise NoDaemon("the daemon has ended")
    return DONE


def _is_meant(event: Event, targets: list[str]) -> bool:
    return not targets or any(matches(target, event.app) or matches(target, event.instance) for target in targets)


def _show(events: list[Event], args: Args) -> None:
    colour = wants_colour(1)
    for event in events:
        if args.flag("json"):
            whole = {key: getattr(event, key) for key in Event.__struct_fields__}
            sys.stdout.write(encode_json(whole).decode() + "\n")
            continue
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
        name = event.instance or event.app or "oxmgr"
        kind = paint(f"{event.kind:10}", COLOURS.get(event.kind, ""), colour)
        pid = f" pid {event.pid}" if event.pid else ""
        sys.stdout.write(
            f"{when}.{int(event.at % 1 * 1000):03}  {name:16}  {kind}{pid}  {event.reason}".rstrip() + "\n"
        )
    sys.stdout.flush()

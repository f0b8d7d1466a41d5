"""Whether what was started stays up for its first moments.

To the daemon, an app that is ready as soon as it is started is running from its first instruction on. A wrong path or
a missing module ends it some milliseconds later, and whoever has typed `oxmgr start` wants to hear of that.
"""

import os
import select
import time

from oxmgr.client.connection import Connection, NoDaemon, Refused
from oxmgr.client.saved import read_saved_specs
from oxmgr.model import status as is_
from oxmgr.model.messages import Done, GetInstances, Instances, InstanceView
from oxmgr.model.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

BEGAN = time.monotonic()
AT_LEAST = 0.1
SINCE_BEGIN = 0.25
FEW = 20
"""So many are watched for the longer of the two times; a hundred take long enough to start."""
YOUNG_MS = 1000
WATCHED_LIMIT = 500


def settle(connection: Connection, done: Done, places: Places) -> None:
    """Watch the instances that have just been started; put those that end into `failed`, and show them as they are."""
    young = [view for view in done.instances if view.status == is_.RUNNING and (view.uptime_ms or 0) < YOUNG_MS]
    first = {view.name: view for view in young[:WATCHED_LIMIT]}
    if not first:
        return
    end = time.monotonic() + AT_LEAST
    if len(first) <= FEW:
        end = max(end, BEGAN + SINCE_BEGIN)
    now = dict(first)
    watched: dict[int, str] = {}
    gone = _watch(first.values(), watched)
    poll = select.poll()
    for fd in watched:
        poll.register(fd, select.POLLIN)
    try:
        while True:
            if gone:
                fresh = _ask(connection, gone)
                now.update(fresh)
                # What was restarted at once is watched on: its next end tells more than its second start.
                known = set(watched)
                again = [view for view in fresh.values() if view.status == is_.RUNNING]
                gone = _watch(again, watched)
                for fd in set(watched) - known:
                    poll.register(fd, select.POLLIN)
            left = end - time.monotonic()
            if left <= 0 or not (watched or gone):
                break
            for fd, _ in poll.poll(0 if gone else left * 1000):
                poll.unregister(fd)
                gone.append(watched.pop(fd))
                os.close(fd)
    except (NoDaemon, Refused):
        # It has ended, or the app was deleted meanwhile: what is known by now is shown.
        pass
    finally:
        for fd in watched:
            os.close(fd)
    specs = read_saved_specs(places) if now != first else {}
    for name, view in now.items():
        good = {0, *(specs[view.app].stop_exit_codes if view.app in specs else ())}
        why = "" if view is first[name] else _failure(first[name], view, good)
        if why:
            done.failed[name] = why
    done.instances = [now.get(view.name, view) for view in done.instances]


def _watch(views: "Iterable[InstanceView]", watched: dict[int, str]) -> list[str]:
    """Open the main process of each; the names of those that have ended already."""
    gone: list[str] = []
    for view in views:
        try:
            watched[os.pidfd_open(view.pid or 0)] = view.name
        except ProcessLookupError:
            gone.append(view.name)
        except OSError:
            continue  # no pidfds here: this one is not watched
    return gone


def _ask(connection: Connection, names: list[str]) -> dict[str, InstanceView]:
    reply = connection.request(GetInstances(names))
    assert isinstance(reply, Instances)
    return {view.name: view for view in reply.instances}


def _failure(before: InstanceView, view: InstanceView, good: set[int]) -> str:
    """Why it counts as failed; '' when it has only done its work."""
    if view.status in (is_.BACKOFF, is_.ERRORED):
        return view.reason
    ended = view.status in (is_.EXITED, is_.WAITING)
    if view.exit_code in good or (not ended and view.restarts == before.restarts):
        return ""
    how = view.signal or f"exit code {view.exit_code}"
    return how if ended else f"it ended as soon as it ran ({how}), and was started again"

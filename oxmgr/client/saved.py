"""What the state folder says when no daemon runs."""

import os
import time

from oxmgr.model import status as is_
from oxmgr.model.codec import UNREADABLE, Decoder, replace
from oxmgr.model.logpaths import log_paths
from oxmgr.model.messages import Event, InstanceView, Journaled, Observed, SavedApp
from oxmgr.model.places import Places
from oxmgr.model.records import Newer, read_records
from oxmgr.model.snapshot import Snapshot, choose, missing, unpack
from oxmgr.model.spec import Spec
from oxmgr.model.targets import selects
from oxmgr.model.views import instance_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.codec import Struct


def read_saved(places: Places, targets: list[str]) -> tuple[list[InstanceView], list[str]]:
    """The instances that these targets select (none: all), and what is wrong with the files."""
    desired, wrong = _read_desired(places)
    entries, wrong_journal = _read(places.journal, "journal", Decoder(Journaled))
    seen: dict[tuple[str, int], Observed] = {}
    for entry in entries:
        if isinstance(entry, Observed):
            seen[entry.app, entry.index] = entry
    views = [
        _view(app, index, seen.get((app.spec.name, index)), places)
        for app in desired.apps.values()
        for index in range(app.spec.instances)
        if not targets or any(selects(target, app.spec.name, index, app.spec.namespace) for target in targets)
    ]
    return views, wrong + wrong_journal


def read_saved_specs(places: Places) -> dict[str, Spec]:
    """Each app as it was asked for, by its name."""
    return {name: app.spec for name, app in _read_desired(places)[0].apps.items()}


def read_saved_env(places: Places, target: str) -> dict[str, str] | None:
    """The environment of the next start of the first instance that the target selects; None when it selects none."""
    desired, _ = _read_desired(places)
    for app in desired.apps.values():
        spec = app.spec
        for index in range(spec.instances):
            if selects(target, spec.name, index, spec.namespace):
                words = os.fsdecode(desired.environs.get(app.environ, b"")).split("\0")
                own = {"OXMGR_APP": spec.name, "OXMGR_INSTANCE_ID": str(index), "NODE_APP_INSTANCE": str(index)}
                return dict(word.split("=", 1) for word in words if "=" in word) | spec.env | own
    return None


def kept_aside(places: Places) -> list[str]:
    """Files of the state folder that a daemon could not read, and put aside for somebody to look at."""
    try:
        names = os.listdir(places.state)
    except OSError:
        return []
    return [f"{places.state}/{name}" for name in sorted(names) if ".damaged-" in name or ".newer-" in name]


def read_saved_events(places: Places) -> list[Event]:
    """All that are kept, oldest first."""
    found: list[Event] = []
    for path in (f"{places.events}.1", places.events):
        found += [event for event in _read(path, "events", Decoder(Event))[0] if isinstance(event, Event)]
    return found


def _read_desired(places: Places) -> tuple[Snapshot, list[str]]:
    """What the next daemon will take for desired, and what is wrong with it."""
    found: list[Snapshot] = []
    wrong: list[str] = []
    for path in (places.desired, f"{places.desired}.1"):
        try:
            with open(path, "rb") as file:
                found.append(unpack(file.read()))
        except (FileNotFoundError, NotADirectoryError):
            found.append(missing())
            continue
        except IsADirectoryError as error:
            found.append(missing())
            wrong.append(f"{path} cannot be read: {error.strerror}")
            continue
        except (OSError, Newer) as error:
            # The next daemon does not go behind it either.
            why = error if isinstance(error, Newer) else error.strerror
            return missing(), [f"{path} cannot be read: {why}"]
        if found[-1].wrong is None:
            break
        wrong.append(f"{path} is damaged: {found[-1].wrong}")
    return choose(found[0], found[-1]), wrong


def _read(path: str, kind: str, decoder: "Decoder[Journaled] | Decoder[Event]") -> "tuple[list[Struct], list[str]]":
    try:
        with open(path, "rb") as file:
            payloads = read_records(kind, file.read())[0]
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except (OSError, Newer) as error:
        return [], [f"{path} cannot be read: {error if isinstance(error, Newer) else error.strerror}"]
    found: list[Struct] = []
    for payload in payloads:
        try:
            found.append(decoder.decode(payload))
        except UNREADABLE:
            continue
    return found, []


def _view(app: SavedApp, index: int, seen: Observed | None, places: Places) -> InstanceView:
    spec = app.spec
    seen = seen or Observed(spec.name, index, is_.STOPPED)
    alive = _is_alive(seen)
    status, reason = seen.status, seen.reason
    if alive:
        status, reason = is_.RUNNING, "its daemon is gone; the next one takes it over"
    elif status not in is_.DOWN:
        status, reason = is_.STOPPED, "no daemon runs"
    seen = replace(seen, status=status, reason=reason, cgroup=seen.cgroup if alive else "")
    uptime_ms = int((time.time() - seen.started_at) * 1000) if alive else None
    files = log_paths(spec, index, places.logs)
    return instance_view(spec, seen, files, desired=index not in app.stopped, uptime_ms=uptime_ms)


def _is_alive(seen: Observed) -> bool:
    """Whether the main process is still there: the same pid with the same start time (proc(5), stat field 22)."""
    try:
        with open(f"/proc/{seen.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return False
    return seen.pid > 0 and fields[0] not in (b"Z", b"X") and int(fields[19]) == seen.ticks

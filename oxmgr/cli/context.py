"""What commands share: whose daemon it is, what a start hands on, and how an answer is shown."""

import os
import sys

from oxmgr.cli.output import ProgressLine, print_instances, print_json, warn, was_told
from oxmgr.cli.parser import Args, Usage, nearest
from oxmgr.cli.usage import add_usage
from oxmgr.client.connection import Connection, NoDaemon, NotRunning, Refused, connect
from oxmgr.client.launch import connect_or_start
from oxmgr.model.messages import (
    DONE,
    FAILED,
    NO_DAEMON,
    NO_SUCH_APP,
    Done,
    Failed,
    GetInstances,
    Instances,
    InstanceView,
    Progress,
    Reply,
    Request,
)
from oxmgr.model.places import Places, find_places, places_in_memory

NOT_HANDED_ON = (
    *("TERM", "PWD", "OLDPWD", "SHLVL", "_", "NOTIFY_SOCKET"),
    *("OXMGR_APP", "OXMGR_INSTANCE_ID", "OXMGR_LISTEN", "OXMGR_BIND", "OXMGR_READY", "OXMGR_STOP", "NODE_APP_INSTANCE"),
)
NOT_HANDED_ON_PREFIXES = ("SSH_", "XDG_SESSION", "LISTEN_", "WATCHDOG_", "NODE_CHANNEL_")
LAST_LINES = 10
ON_THE_WAY = ("waiting", "starting", "stopping")


def my_places() -> Places:
    """The usual ones; where no daemon answers there, those that a container's has in memory, if it is ours."""
    in_memory = places_in_memory(os.getuid())
    there = _is_ours(in_memory.home) and os.path.exists(in_memory.socket)
    try:
        usual = find_places(dict(os.environ), os.getuid())
    except ValueError as error:
        if there:
            return in_memory
        raise Usage(str(error)) from None
    return in_memory if there and not usual.home and not _answers(usual) else usual


def _is_ours(folder: str) -> bool:
    """Anybody may have made one of that name."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _answers(places: Places) -> bool:
    try:
        connect(places).close()
    except NotRunning:
        return False
    except (NoDaemon, Refused):
        return True
    return True


def my_environ() -> bytes:
    """What apps get of the caller's environment: all but what belongs to the session (DESIGN: Children get)."""
    kept = [
        f"{key}={value}\0"
        for key, value in os.environ.items()
        if key not in NOT_HANDED_ON and not key.startswith(NOT_HANDED_ON_PREFIXES)
    ]
    return os.fsencode("".join(kept))


def ask(connection: Connection, request: Request) -> Reply:
    """The final reply; on a terminal, with a line on how far it is."""
    line = ProgressLine()

    def show(progress: "Progress | InstanceView") -> None:
        name = progress.instance if isinstance(progress, Progress) else progress.name
        line.show(f"{name}: {progress.status}" + (f" ({progress.reason})" if progress.reason else ""))

    def show_who_is_waited_for() -> None:
        try:
            second = connect(my_places())
            reply = second.request(GetInstances())
            second.close()
        except (NoDaemon, Refused):
            return
        assert isinstance(reply, Instances)
        for view in reply.instances:
            if view.status in ON_THE_WAY:
                show(view)
                return

    def show_hanging(why: str) -> None:
        line.clear()
        warn(f"{why}; this command waits for it")

    try:
        # Progress tells of what changes; of what does not, nobody would know whom it waits for.
        return connection.request(request, show, show_who_is_waited_for if line.wanted else None, show_hanging)
    except KeyboardInterrupt:
        line.clear()
        sys.stderr.write("oxmgr: interrupted; the daemon goes on with what it was asked for\n")
        raise
    except Refused as refused:
        if refused.code == NO_SUCH_APP:
            raise NoSuchApp(f"{refused}{_nearest_app(connection, request)}") from None
        raise
    finally:
        line.clear()


class NoSuchApp(Refused):
    """No app, or no instance, is called that."""

    def __init__(self, text: str) -> None:
        super().__init__(Failed(text, NO_SUCH_APP))


def _nearest_app(connection: Connection, request: Request) -> str:
    words = getattr(request, "targets", None) or [getattr(request, "target", "") or getattr(request, "app", "")]
    reply = connection.request(GetInstances())
    assert isinstance(reply, Instances)
    known = list({name: None for view in reply.instances for name in (view.app, view.name)})
    return next(filter(None, (nearest(word, known) for word in words if word not in known)), "")


def connect_to_change(targets: list[str], verb: str) -> Connection:
    """A daemon that knows at least one instance that these targets mean, or could: none is started to find out that
    what is named is not there."""
    places = my_places()
    try:
        return connect(places)
    except NotRunning as error:
        from oxmgr.client.saved import read_saved

        if not read_saved(places, [])[0]:
            raise NoDaemon(f"{error}, and nothing is saved: there is nothing to {verb}") from None
        for target in targets:
            if not read_saved(places, [target])[0]:
                raise NoSuchApp(f"{error}, and nothing that is saved is called {target}: see oxmgr list") from None
    return connect_or_start(places)


def look(targets: list[str]) -> tuple[list[InstanceView], int]:
    """The instances, and the exit code for it: what the daemon says, else what is saved, said to be that."""
    places = my_places()
    try:
        reply = ask(connect(places), GetInstances(targets))
    except NoDaemon as error:
        from oxmgr.client.saved import read_saved

        views, warnings = read_saved(places, targets)
        for text in warnings:
            warn(text)
        if views:
            what = "; this is what is saved"
        elif targets and read_saved(places, [])[0]:
            what = f"; nothing that is saved is called {' or '.join(targets)}"
        else:
            what = ", and nothing is saved: oxmgr start COMMAND starts something"
        sys.stderr.write(f"oxmgr: {error}{what}\n")
        return views, NO_DAEMON
    assert isinstance(reply, Instances)
    for text in reply.warnings:
        warn(text)
    return reply.instances, DONE


def show_views(views: list[InstanceView], args: Args) -> None:
    if args.flag("json"):
        add_usage(views)
        print_json(views)
    else:
        print_instances(views)


def show_done(reply: Reply, args: Args, *, last_lines: bool = False) -> int:
    """What a changing command has done; the exit code. `last_lines`: also what the apps that failed printed."""
    assert isinstance(reply, Done)
    for text in reply.warnings:
        warn(text)
    if args.flag("json") or reply.instances:
        show_views(reply.instances, args)
    for name, why in reply.failed.items():
        sys.stdout.flush()
        sys.stderr.write(f"oxmgr: {name}: {why}\n")
        view = next((view for view in reply.instances if view.name == name), None)
        if view is not None and last_lines:
            show_last_lines(view)
    return FAILED if reply.failed else DONE


def show_last_lines(view: InstanceView) -> None:
    from oxmgr.cli.logprint import Printer
    from oxmgr.cli.tail import last_lines

    runs = last_lines(view, LAST_LINES)
    if not runs:
        return
    sys.stderr.write(f"--- the last lines of {view.name}, see oxmgr logs {view.name}\n")
    sys.stderr.flush()
    printer = Printer("text", sys.stderr.buffer, protect=os.isatty(2))
    printer.show(runs)
    printer.close()


def warn_of_aside() -> None:
    """Of the state files that a daemon kept aside: by every command, until they are removed."""
    from oxmgr.client.saved import kept_aside

    try:
        places = my_places()
    except Usage:
        return
    for path in kept_aside(places):
        if not was_told(path):
            warn(f"{path} was kept aside, for not all of it could be read: look at it, then remove it")

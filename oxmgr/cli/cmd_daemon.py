"""`oxmgr daemon run`, `stop`, `reexec`, `status`."""

import sys
import time

from oxmgr import __version__
from oxmgr.cli.context import ask, my_places
from oxmgr.cli.output import duration, print_json, size, warn
from oxmgr.cli.parser import Args, Usage, nearest
from oxmgr.client.connection import Connection, NotRunning, connect
from oxmgr.client.launch import daemon_argv, run_in_foreground
from oxmgr.model.messages import DONE, FAILED, DaemonView, GetDaemon, ReplaceDaemon, StopDaemon

REEXEC_PATIENCE = 20.0
WORDS = ["run", "stop", "reexec", "status"]


def run(args: Args) -> int:
    word = args.words[0]
    if args.flag("group") and word != "run":
        raise Usage("--group is for daemon run")
    if args.flag("json") and word != "status":
        raise Usage("--json is for daemon status")
    if word == "run":
        run_in_foreground(_group(args.one("group")))
    if word == "stop":
        return _stop()
    if word == "reexec":
        return _reexec()
    if word == "status":
        return _status(args)
    raise Usage(f"daemon takes run, stop, reexec or status, not {word!r}{nearest(word, WORDS)}")


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    import grp

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise Usage(f"there is no group {name}") from None


def _stop() -> int:
    try:
        connection = connect(my_places())
    except NotRunning as error:
        sys.stderr.write(f"oxmgr: {error}\n")
        return DONE
    ask(connection, StopDaemon())
    connection.wait_for_end()
    sys.stdout.write("all apps are stopped, and so is the daemon\n")
    return DONE


def _reexec() -> int:
    """The daemon of this very command's version goes on with all that runs."""
    places = my_places()
    connection = connect(places)
    before = _about(connection)
    begun = time.monotonic()
    ask(connection, ReplaceDaemon(daemon_argv()))
    connection.wait_for_end(REEXEC_PATIENCE)
    # The socket stays open meanwhile: this waits until the other one answers.
    connection = connect(places, REEXEC_PATIENCE)
    took = (time.monotonic() - begun) * 1000
    now = _about(connection)
    if now.version != __version__ or now.started_at == before.started_at:
        # What was to be executed could not be, or has ended at once, and the guard starts what it knows.
        sys.stderr.write(
            f"oxmgr: the daemon of version {__version__} does not start: {now.version} goes on with all that runs, "
            f"pid {now.pid}; {places.daemon_log} says why\n"
        )
        return FAILED
    changed = "" if before.version == now.version else f", {before.version} before"
    sys.stdout.write(f"the daemon was replaced in {took:.0f} ms: {now.version}{changed}, pid {now.pid}\n")
    return DONE


def _about(connection: Connection) -> DaemonView:
    view = ask(connection, GetDaemon())
    assert isinstance(view, DaemonView)
    return view


def _status(args: Args) -> int:
    places = my_places()
    view = _about(connect(places))
    if args.flag("json"):
        print_json({key: getattr(view, key) for key in DaemonView.__struct_fields__})
        return DONE
    for text in view.warnings:
        warn(text)
    rows = [
        ("pid", str(view.pid)),
        ("version", view.version),
        ("up", duration(time.time() - view.started_at)),
        ("memory", size(resident(view.pid))),
        ("guard", _guard(view.guard)),
        ("apps", f"{view.apps}, {view.instances} instance{'' if view.instances == 1 else 's'}"),
        ("state", view.state),
        ("socket", places.socket),
        ("logs", view.logs),
    ]
    sys.stdout.write("".join(f"{key:10} {value}\n" for key, value in rows))
    return DONE


def _guard(pid: int | None) -> str:
    if pid is None:
        return "none: nobody starts the daemon again when it dies"
    return f"pid {pid}, {size(resident(pid))}"


def resident(pid: int) -> int:
    """Bytes (VmRSS of proc(5)); 0 when it may not be read."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS")), 0)
    except OSError:
        return 0

"""`oxmgr stop`, `restart`, `delete`, `reset`: one word to the daemon."""

import os
import sys
import time

from oxmgr.cli.context import ask, connect_to_change, my_places, show_done
from oxmgr.cli.parser import Args, Usage
from oxmgr.cli.settle import settle
from oxmgr.client.connection import Connection
from oxmgr.client.saved import read_saved_specs
from oxmgr.model.messages import Act, Done, Event, GetEvents, GetInstances, Instances, InstanceView

RECENT = 256
"""Events that are looked through for what a restart has started."""


def run(args: Args) -> int:
    verb = args.command.name
    targets = [*args.words, *apps_of(args.one("config"))]
    if not targets:
        raise Usage(f"{verb} needs a name, @namespace, or all (or --config FILE for the apps of a file)")
    # To stop what only is saved needs a daemon as well; to stop nothing does not.
    connection = connect_to_change(targets, verb)
    if verb == "delete":
        meant = ask(connection, GetInstances(targets))
        assert isinstance(meant, Instances)
        code = show_done(ask(connection, Act(verb, targets)), args)
        if not args.flag("json"):
            for name in dict.fromkeys(view.app for view in meant.instances):
                sys.stdout.write(f"deleted {name}\n")
        return code
    began = time.time()
    done = ask(connection, Act(verb, targets))
    assert isinstance(done, Done)
    if verb != "restart":
        return show_done(done, args)
    settle(connection, done, my_places())
    code = show_done(done, args, last_lines=True)
    if not args.flag("json"):
        _tell_of_jobs(connection, done.instances, began)
    return code


def _tell_of_jobs(connection: Connection, views: list[InstanceView], began: float) -> None:
    """What a restart did for each job: its table says when it runs next, for it may have ended already."""
    specs = read_saved_specs(my_places())
    jobs = [view for view in views if view.app in specs and specs[view.app].schedule]
    if not jobs:
        return
    past = connection.stream(GetEvents(limit=RECENT))
    started = {one.instance for one in past if isinstance(one, Event) and one.kind == "started" and one.at >= began}
    for view in jobs:
        if view.name in started:
            how = "it runs" if view.pid else f"it has ended: {view.signal or f'exit code {view.exit_code}'}"
            sys.stdout.write(f"{view.name} was started at once, apart from its schedule: {how}\n")


def apps_of(config: str | None) -> list[str]:
    """The names of the apps in an oxfile."""
    if config is None:
        return []
    from oxmgr.config.oxfile import find_oxfile, load_oxfile

    environ = dict(os.environ)
    return [spec.name for spec in load_oxfile(find_oxfile(config, os.getcwd(), environ), environ=environ)]

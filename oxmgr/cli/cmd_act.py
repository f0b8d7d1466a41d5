"""`oxmgr stop`, `restart`, `delete`, `reset`: one word to the daemon."""

import os
import sys

from oxmgr.cli.context import ask, connect_to_change, my_places, show_done
from oxmgr.cli.parser import Args, Usage
from oxmgr.cli.settle import settle
from oxmgr.model.messages import Act, Done, GetInstances, Instances


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
    done = ask(connection, Act(verb, targets))
    assert isinstance(done, Done)
    if verb == "restart":
        settle(connection, done, my_places())
    return show_done(done, args, last_lines=verb == "restart")


def apps_of(config: str | None) -> list[str]:
    """The names of the apps in an oxfile."""
    if config is None:
        return []
    from oxmgr.config.oxfile import find_oxfile, load_oxfile

    environ = dict(os.environ)
    return [spec.name for spec in load_oxfile(find_oxfile(config, os.getcwd(), environ), environ=environ)]

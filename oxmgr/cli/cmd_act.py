"""`oxmgr stop`, `restart`, `delete`, `reset`: one word to the daemon."""

import os

from oxmgr.cli.context import ask, my_places, show_done
from oxmgr.cli.parser import Args, Usage
from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.launch import connect_or_start
from oxmgr.model.messages import Act


def run(args: Args) -> int:
    verb = args.command.name
    targets = [*args.words, *apps_of(args.one("config"))]
    if not targets:
        raise Usage(f"{verb} needs a name, @namespace, or all (or --config FILE for the apps of a file)")
    places = my_places()
    try:
        connection = connect(places)
    except NoDaemon as error:
        # To stop what only is saved needs a daemon as well; to stop nothing does not.
        if str(error) != "no daemon runs" or not os.path.exists(places.desired):
            raise NoDaemon(f"{error}, and nothing is saved: there is nothing to {verb}") from None
        connection = connect_or_start(places)
    return show_done(ask(connection, Act(verb, targets)), args)


def apps_of(config: str | None) -> list[str]:
    """The names of the apps in an oxfile."""
    if config is None:
        return []
    from oxmgr.config.oxfile import find_oxfile, load_oxfile

    environ = dict(os.environ)
    return [spec.name for spec in load_oxfile(find_oxfile(config, os.getcwd(), environ), environ=environ)]

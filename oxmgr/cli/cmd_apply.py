"""`oxmgr apply`: what runs becomes what the oxfile says."""

import os
import sys

from oxmgr.cli.context import ask, my_environ, my_places, show_done
from oxmgr.cli.output import GREEN, RED, YELLOW, paint, print_json, wants_colour
from oxmgr.cli.parser import Args, Usage
from oxmgr.cli.settle import settle
from oxmgr.client.connection import NotRunning, connect
from oxmgr.client.launch import connect_or_start
from oxmgr.client.saved import read_saved_specs
from oxmgr.model.messages import DONE, Apply, Change, Done
from oxmgr.model.spec import Spec

SIGNS = {
    "add": ("+", GREEN),
    "change": ("~", YELLOW),
    "start": (">", GREEN),
    "reload": ("~", YELLOW),
    "delete": ("-", RED),
    "keep": ("=", ""),
}


def run(args: Args) -> int:
    if args.flag("prune") and args.flag("only"):
        raise Usage("--prune and --only do not go together: what --only leaves out would be deleted")
    specs = read_files(args.words or [None], args)
    return apply(specs, args, prune=args.flag("prune"))


def read_files(files: "list[str] | list[None] | list[str | None]", args: Args) -> list[Spec]:
    """The apps of all the files (None: the one that is looked up)."""
    from oxmgr.config.errors import error
    from oxmgr.config.oxfile import find_oxfile, load_oxfile

    environ = dict(os.environ)
    only = args.one("only")
    names = only.split(",") if only else None
    found: dict[str, Spec] = {}
    for file in files:
        path = find_oxfile(file, os.getcwd(), environ)
        for spec in load_oxfile(path, environ=environ, profile=args.one("env"), only=names):
            if spec.name in found:
                raise error(f"{spec.name} is in another of the files already: give one of them another name", path)
            found[spec.name] = spec
    return list(found.values())


def apply(specs: list[Spec], args: Args, *, prune: bool = False, reload: bool = False) -> int:
    places = my_places()
    request = Apply(specs, my_environ(), prune, reload=reload)
    if args.flag("dry-run"):
        request.plan_only = True
        try:
            reply = ask(connect(places), request)
        except NotRunning:
            reply = Done(_plan(specs, read_saved_specs(places), prune))
        assert isinstance(reply, Done)
        show_plan(reply.changes, args)
        return DONE
    connection = connect_or_start(places)
    reply = ask(connection, request)
    assert isinstance(reply, Done)
    settle(connection, reply, places)
    if not args.flag("json"):
        show_changes([change for change in reply.changes if change.action != "keep"])
    return show_done(reply, args, last_lines=True)


def _plan(specs: list[Spec], saved: dict[str, Spec], prune: bool) -> list[Change]:
    """What a daemon would do that knows what is saved."""
    changes: list[Change] = []
    for spec in specs:
        old = saved.get(spec.name)
        keys = [key for key in Spec.__struct_fields__ if old and getattr(spec, key) != getattr(old, key)]
        changes.append(Change(spec.name, "add" if old is None else "change" if keys else "start", keys))
    named = {spec.name for spec in specs}
    return changes + [Change(name, "delete") for name in saved if prune and name not in named]


def show_plan(changes: list[Change], args: Args) -> None:
    if args.flag("json"):
        print_json(changes)
    else:
        show_changes(changes)


def show_changes(changes: list[Change]) -> None:
    colour = wants_colour(1)
    for change in changes:
        sign, sign_colour = SIGNS[change.action]
        keys = f" ({', '.join(change.keys)})" if change.keys else ""
        sys.stdout.write(f"{paint(sign, sign_colour, colour)} {change.action} {change.app}{keys}\n")

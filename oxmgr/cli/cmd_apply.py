"""`oxmgr apply`: what runs becomes what the oxfile says."""

import os
import sys

from oxmgr.cli.context import ask, my_environ, my_places, show_done, show_views
from oxmgr.cli.output import GREEN, RED, YELLOW, paint, print_json, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.launch import connect_or_start
from oxmgr.client.saved import read_saved
from oxmgr.model.messages import DONE, Apply, Change, Done
from oxmgr.model.spec import Spec

SIGNS = {"add": ("+", GREEN), "change": ("~", YELLOW), "start": (">", GREEN), "delete": ("-", RED), "keep": ("=", "")}


def run(args: Args) -> int:
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


def apply(specs: list[Spec], args: Args, *, prune: bool = False) -> int:
    places = my_places()
    request = Apply(specs, my_environ(), prune)
    if args.flag("dry-run"):
        request.plan_only = True
        try:
            reply = ask(connect(places), request)
        except NoDaemon:
            saved = {view.app for view in read_saved(places, [])[0]}
            named = {spec.name for spec in specs}
            changes = [Change(spec.name, "start" if spec.name in saved else "add") for spec in specs]
            reply = Done(changes + [Change(name, "delete") for name in sorted(saved - named) if prune])
        assert isinstance(reply, Done)
        if args.flag("json"):
            print_json(reply.changes)
        else:
            show_changes(reply.changes)
        return DONE
    reply = ask(connect_or_start(places), request)
    assert isinstance(reply, Done)
    if not args.flag("json"):
        show_changes([change for change in reply.changes if change.action != "keep"])
        if not reply.instances:
            return show_done(reply, args)
    elif not reply.instances:
        show_views([], args)
    return show_done(reply, args)


def show_changes(changes: list[Change]) -> None:
    colour = wants_colour(1)
    for change in changes:
        sign, sign_colour = SIGNS[change.action]
        keys = f" ({', '.join(change.keys)})" if change.keys else ""
        sys.stdout.write(f"{paint(sign, sign_colour, colour)} {change.action} {change.app}{keys}\n")

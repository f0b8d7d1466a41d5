"""`oxmgr reload`: apps are replaced by new ones, and the old ones stop once those do their work."""

from oxmgr.cli.cmd_apply import apply, read_files
from oxmgr.cli.context import ask, connect_to_change, my_places, show_done
from oxmgr.cli.parser import Args, Usage
from oxmgr.cli.settle import settle
from oxmgr.model.messages import Act, Done

FILE_OPTIONS = ("config", "only", "env", "dry-run")


def run(args: Args) -> int:
    if not args.words:
        return apply(read_files([args.one("config")], args), args, reload=True)
    for key in FILE_OPTIONS:
        if args.flag(key):
            raise Usage(f"--{key} is for the apps of an oxfile: leave out {args.words[0]}")
    connection = connect_to_change(args.words, "reload")
    done = ask(connection, Act("reload", args.words))
    assert isinstance(done, Done)
    settle(connection, done, my_places())
    return show_done(done, args, last_lines=True)

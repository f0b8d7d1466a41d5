"""`oxmgr list`: every instance in a line."""

from oxmgr.cli.context import look, show_views
from oxmgr.cli.parser import Args


def run(args: Args) -> int:
    views, code = look(args.words)
    if views or args.flag("json"):
        show_views(views, args)
    elif code == 0:
        show_views([], args)
    return code

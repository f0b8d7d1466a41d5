"""`oxmgr list`: every instance in a line."""

from oxmgr.cli.context import look, show_views
from oxmgr.cli.parser import Args
from oxmgr.model.messages import DONE


def run(args: Args) -> int:
    views, code = look(args.words)
    # Without a daemon and with nothing saved, that has been said.
    if views or code == DONE or args.flag("json"):
        show_views(views, args)
    return code

"""`oxmgr scale`: more or fewer instances of an app."""

from oxmgr.cli.context import ask, my_places, show_done
from oxmgr.cli.parser import Args, Usage
from oxmgr.client.launch import connect_or_start
from oxmgr.model.messages import Scale


def run(args: Args) -> int:
    name, text = args.words
    number = text.lstrip("+-")
    if not (number.isascii() and number.isdigit()) or len(text) - len(number) > 1:
        raise Usage(f"scale takes a number, or a change like +1 or -1, not {text!r}")
    relative = text[0] in "+-"
    return show_done(ask(connect_or_start(my_places()), Scale(name, int(text), relative)), args)

"""`oxmgr scale`: more or fewer instances of an app."""

from oxmgr.cli.context import ask, connect_to_change, my_places, show_done
from oxmgr.cli.parser import DIGITS, Args, Usage
from oxmgr.cli.settle import settle
from oxmgr.model.messages import Done, Scale


def run(args: Args) -> int:
    name, text = args.words
    number = text.lstrip("+-")
    if not (number.isascii() and number.isdigit()) or len(text) - len(number) > 1:
        raise Usage(f"scale takes a number, or a change like +1 or -1, not {text!r}")
    if len(number) > DIGITS:
        raise Usage(f"scale takes a number of at most {DIGITS} digits")
    relative = text[0] in "+-"
    connection = connect_to_change([name], "scale")
    done = ask(connection, Scale(name, int(text), relative))
    assert isinstance(done, Done)
    settle(connection, done, my_places())
    return show_done(done, args, last_lines=True)

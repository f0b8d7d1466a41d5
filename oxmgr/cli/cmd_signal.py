"""`oxmgr signal`: a signal to main processes."""

from oxmgr.cli.context import ask, my_places, show_done
from oxmgr.cli.parser import Args, Usage, nearest
from oxmgr.client.connection import connect
from oxmgr.model.messages import SendSignal
from oxmgr.model.signals import signal_names, signal_number


def run(args: Args) -> int:
    word, *targets = args.words
    number = signal_number(word)
    if number is None:
        meant = nearest(word.upper().removeprefix("SIG"), [name.removeprefix("SIG") for name in signal_names()])
        raise Usage(f"there is no signal {word}{meant}")
    return show_done(ask(connect(my_places()), SendSignal(targets, number)), args)

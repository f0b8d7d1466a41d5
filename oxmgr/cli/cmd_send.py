"""`oxmgr send`: a line for an app's standard input."""

import os
import sys

from oxmgr.cli.context import ask, my_places
from oxmgr.cli.parser import Args
from oxmgr.client.connection import connect
from oxmgr.model.messages import DONE, SendInput

BLOCK = 32 * 1024


def run(args: Args) -> int:
    target, text = args.words
    connection = connect(my_places())
    if text == "-":
        while data := os.read(sys.stdin.fileno(), BLOCK):
            ask(connection, SendInput(target, data))
    else:
        ask(connection, SendInput(target, os.fsencode(text) + (b"" if args.flag("raw") else b"\n")))
    return DONE

"""`oxmgr init`: a first oxfile."""

import os
import sys

from oxmgr.cli.parser import Args, Usage
from oxmgr.model.messages import DONE


def run(args: Args) -> int:
    from oxmgr.config.init import draft_oxfile
    from oxmgr.config.oxfile import FILE

    text, found = draft_oxfile(os.getcwd())
    try:
        with open(FILE, "w" if args.flag("force") else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Usage(f"{FILE} is there already: --force overwrites it") from None
    for line in found or ["nothing was found that oxmgr knows how to run: the file holds an example"]:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{FILE} is written: look at it, then oxmgr start\n")
    return DONE

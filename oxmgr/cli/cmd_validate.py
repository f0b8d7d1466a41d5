"""`oxmgr validate`: is this oxfile right?"""

import sys

from oxmgr.cli.cmd_apply import read_files
from oxmgr.cli.output import print_json
from oxmgr.cli.parser import Args
from oxmgr.model.messages import DONE, WRONG


def run(args: Args) -> int:
    from oxmgr.config.errors import ConfigError

    try:
        specs = read_files([args.words[0] if args.words else None], args)
    except ConfigError as error:
        if not args.flag("json"):
            raise
        problems = [{"place": one.place, "key": one.key, "message": one.message} for one in error.problems]
        print_json({"valid": False, "problems": problems, "apps": []})
        return WRONG
    if args.flag("json"):
        print_json({"valid": True, "problems": [], "apps": [spec.name for spec in specs]})
    else:
        apps = ", ".join(spec.name + (f" ({spec.instances})" if spec.instances > 1 else "") for spec in specs)
        sys.stdout.write(f"valid: {apps}\n")
    return DONE

"""`oxmgr env`: the environment that an app's next start gets."""

import sys

from oxmgr.cli.context import ask, my_places
from oxmgr.cli.output import print_json
from oxmgr.cli.parser import Args
from oxmgr.client.connection import connect
from oxmgr.model.messages import DONE, Env, GetEnv


def run(args: Args) -> int:
    reply = ask(connect(my_places()), GetEnv(args.words[0]))
    assert isinstance(reply, Env)
    if args.flag("json"):
        print_json(reply.env)
    else:
        sys.stdout.write("".join(f"{key}={value}\n" for key, value in sorted(reply.env.items())))
    return DONE

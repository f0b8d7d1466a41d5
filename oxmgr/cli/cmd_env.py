"""`oxmgr env`: the environment that an app's next start gets."""

import os
import sys

from oxmgr.cli.context import ask, my_places
from oxmgr.cli.output import print_json
from oxmgr.cli.parser import Args
from oxmgr.client.connection import NotRunning, connect
from oxmgr.client.saved import read_saved_env
from oxmgr.model.messages import DONE, NO_DAEMON, Env, GetEnv


def run(args: Args) -> int:
    places = my_places()
    try:
        connection = connect(places)
    except NotRunning as error:
        saved = read_saved_env(places, args.words[0])
        what = "this is what is saved" if saved else f"nothing that is saved is called {args.words[0]}"
        sys.stderr.write(f"oxmgr: {error}; {what}\n")
        if saved:
            _show(saved, args)
        return NO_DAEMON
    reply = ask(connection, GetEnv(args.words[0]))
    assert isinstance(reply, Env)
    _show(reply.env, args)
    return DONE


def _show(env: dict[str, str], args: Args) -> None:
    """What is not UTF-8 goes out as the bytes that it is. JSON is text, and has the sign for such."""
    if args.flag("json"):
        print_json({_text(key): _text(value) for key, value in env.items()})
    else:
        sys.stdout.buffer.write(b"".join(os.fsencode(f"{key}={value}\n") for key, value in sorted(env.items())))


def _text(word: str) -> str:
    return os.fsencode(word).decode(errors="replace")

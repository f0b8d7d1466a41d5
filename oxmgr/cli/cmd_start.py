"""`oxmgr start`: an oxfile, a known app, a script, or a command line."""

import os
import sys
from _signal import SIGINT, SIGTERM, pidfd_send_signal

from oxmgr.cli.cmd_apply import apply, read_files
from oxmgr.cli.context import ask, look, my_environ, my_places, show_done
from oxmgr.cli.parser import Args, Usage
from oxmgr.client.connection import NoDaemon, connect
from oxmgr.client.launch import connect_or_start, start_attached
from oxmgr.client.saved import read_saved
from oxmgr.model.messages import DONE, Act, Apply, Change, Done, GetInstances, Instances, InstanceView
from oxmgr.model.spec import ALWAYS, NEVER, ON_FAILURE, Spec
from oxmgr.model.targets import selects

APP_OPTIONS = ("name", "instances", "cwd", "set", "restart", "namespace")


def run(args: Args) -> int:
    made_here = [key for key in APP_OPTIONS if args.flag(key)]
    words = args.words
    if words and not made_here and not args.rest and not args.flag("config") and all(map(is_known, words)):
        return _start_known(words, args)
    if words and not made_here and not args.rest and all(word.endswith(".toml") for word in words):
        specs = read_files(words, args)
    elif not words:
        if made_here or args.rest:
            raise Usage(f"--{(made_here or ['…'])[0]} is for a script or command: name one, or write it in the oxfile")
        specs = read_files([args.one("config")], args)
    else:
        for key in ("config", "only", "env"):
            if args.flag(key):
                raise Usage(f"--{key} is for an oxfile, and {words[0]} is none")
        specs = [app(args)]
    return _foreground(specs, args) if args.flag("foreground") else apply(specs, args)


def known(target: str) -> list[InstanceView]:
    """The instances that a word means, to the daemon or, when none runs, in what is saved."""
    places = my_places()
    try:
        connection = connect(places)
    except NoDaemon:
        views = read_saved(places, [])[0]
    else:
        reply = ask(connection, GetInstances())
        assert isinstance(reply, Instances)
        connection.close()
        views = reply.instances
    return [view for view in views if selects(target, view.app, view.instance, view.namespace)]


def is_known(word: str) -> bool:
    return "/" not in word and bool(known(word))


def app(args: Args) -> Spec:
    """The app that the words and options of this command line mean."""
    from oxmgr.config.cpus import count_cpus
    from oxmgr.config.detect import app_from_words
    from oxmgr.config.errors import error
    from oxmgr.model.spec import name_error

    env: dict[str, str] = {}
    for pair in args.many("set"):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Usage(f"--set takes KEY=VALUE, not {pair!r}")
        env[key] = value
    folder = os.path.abspath(args.one("cwd") or os.getcwd())
    if not os.path.isdir(folder):
        raise error(f"--cwd: the folder {folder} does not exist")
    instances = count_cpus() if args.one("instances") == "max" else args.number("instances", 1)
    if instances < 1:
        raise Usage("--instances is at least 1, or max")
    namespace = args.one("namespace") or "default"
    wrong = name_error(namespace)
    if wrong:
        raise Usage(f"the namespace {namespace[:70]!r} {wrong}")
    restart = args.one("restart") or ON_FAILURE
    assert restart in (ALWAYS, ON_FAILURE, NEVER)
    return app_from_words(
        [*args.words, *args.rest],
        cwd=folder,
        environ=dict(os.environ),
        name=args.one("name"),
        env=env,
        instances=instances,
        restart=restart,
        namespace=namespace,
    )


def _start_known(targets: list[str], args: Args) -> int:
    if args.flag("dry-run"):
        from oxmgr.cli.cmd_apply import show_changes

        views, _ = look(targets)
        apps = {view.app: view.status for view in views}
        show_changes([Change(name, "keep" if status == "running" else "start") for name, status in apps.items()])
        return DONE
    return show_done(ask(connect_or_start(my_places()), Act("start", targets, my_environ())), args)


def _foreground(specs: list[Spec], args: Args) -> int:
    """The daemon as our child, what the apps print as our output; at Ctrl-C or SIGTERM the daemon stops them."""
    import _signal

    from oxmgr.cli.cmd_logs import Streams

    places = my_places()
    try:
        connect(places).close()
    except NoDaemon:
        pass
    else:
        raise Usage("a daemon runs already: oxmgr daemon stop ends it, or start without --foreground")
    if args.flag("dry-run"):
        return apply(specs, args)
    pid, connection = start_attached(places)
    daemon = os.pidfd_open(pid)

    def hand_on(number: int, frame: object) -> None:
        pidfd_send_signal(daemon, SIGTERM)

    _signal.signal(SIGINT, hand_on)
    _signal.signal(SIGTERM, hand_on)
    # Only what is printed from now on; an earlier run's lines are in the files.
    streams = Streams(places, [], lines=0)
    try:
        reply = ask(connection, Apply(specs, my_environ()))
        assert isinstance(reply, Done)
        for name, why in reply.failed.items():
            sys.stderr.write(f"oxmgr: {name}: {why}\n")
    except NoDaemon:
        pass
    connection.close()
    streams.follow(until=daemon)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)

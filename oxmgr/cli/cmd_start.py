"""`oxmgr start`: an oxfile, a known app, a script, or a command line."""

import os
import sys
from _signal import SIGHUP, SIGINT, SIGTERM, pidfd_send_signal

from oxmgr.cli.cmd_apply import apply, read_files, show_plan
from oxmgr.cli.context import ask, my_environ, my_places, show_done
from oxmgr.cli.output import wants_colour, warn
from oxmgr.cli.parser import Args, Usage, nearest
from oxmgr.cli.settle import settle
from oxmgr.client.connection import NoDaemon, NotRunning, connect
from oxmgr.client.launch import connect_or_start, start_attached
from oxmgr.client.saved import read_saved, read_saved_specs
from oxmgr.model.logpaths import log_paths
from oxmgr.model.messages import (
    DONE,
    FAILED,
    Act,
    Apply,
    Change,
    Done,
    GetInstances,
    Instances,
    InstanceView,
    StopDaemon,
)
from oxmgr.model.places import Places
from oxmgr.model.signals import signal_name
from oxmgr.model.spec import ALWAYS, NEVER, ON_FAILURE, Spec, instance_name, name_error
from oxmgr.model.status import DOWN
from oxmgr.model.targets import selects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.cli.follow import Follow

APP_OPTIONS = ("name", "instances", "cwd", "set", "restart", "namespace", "watch", "schedule", "cron-restart")
FILE_OPTIONS = ("config", "only", "env")


def run(args: Args) -> int:
    if args.flag("foreground") and args.flag("json"):
        raise Usage("--foreground shows what the apps print, so --json has nothing to say")
    made_here = [key for key in APP_OPTIONS if args.flag(key)]
    words = args.words
    if words and not made_here and not args.rest and not args.flag("config"):
        views = _known_views()
        if all(known(word, views) for word in words):
            return _start_known(words, views, args)
    if words and not made_here and not args.rest and all(word.endswith(".toml") for word in words):
        if args.flag("config"):
            raise Usage(f"--config and {words[0]} both name an oxfile: leave one out")
        specs = read_files(words, args)
    elif not words and not args.rest:
        if made_here:
            raise Usage(f"{_are(made_here)} for a script or command: name one, or write it in the oxfile")
        specs = read_files([args.one("config")], args)
    else:
        wrong = [key for key in FILE_OPTIONS if args.flag(key)]
        if wrong:
            named = (words or args.rest)[0]
            raise Usage(f"{_are(wrong)} for an oxfile, and {named} is none; --only chooses apps of one")
        specs = [_app_of_words(args)]
    return _foreground(specs, args) if args.flag("foreground") else apply(specs, args)


def _are(keys: list[str]) -> str:
    """`--name is`, `--name and --cwd are`, of options that stand where they cannot."""
    names = [f"--{key}" for key in keys]
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _known_views() -> list[InstanceView]:
    """Every instance: of the daemon or, when none runs, of what is saved."""
    places = my_places()
    try:
        connection = connect(places)
    except NotRunning:
        return read_saved(places, [])[0]
    reply = ask(connection, GetInstances())
    assert isinstance(reply, Instances)
    connection.close()
    return reply.instances


def known(word: str, views: list[InstanceView]) -> list[InstanceView]:
    """The instances that a word means."""
    return [view for view in views if "/" not in word and selects(word, view.app, view.instance, view.namespace)]


def _app_of_words(args: Args) -> Spec:
    """The app of this command line; when there is none, what was meant perhaps."""
    from oxmgr.config.errors import ConfigError, error

    views = _known_views()
    try:
        spec = app(args)
    except ConfigError as wrong:
        hint = _hint(args.words[0], views) if len(args.words) == 1 else ""
        raise error(f"{wrong}{hint}") from None if hint else wrong
    other = next((view for view in views if view.app == spec.name), None)
    if other is not None and other.working_dir != spec.working_dir and not args.flag("name"):
        raise Usage(
            f"{spec.name} is an app in {other.working_dir} already: call this one something else with --name, "
            f"or replace that one with --name {spec.name}"
        )
    return spec


def _hint(word: str, views: list[InstanceView]) -> str:
    from oxmgr.config.errors import ConfigError
    from oxmgr.config.oxfile import find_oxfile, load_oxfile

    if name_error(word):
        return ""
    environ = dict(os.environ)
    try:
        file = find_oxfile(None, os.getcwd(), environ)
        if any(spec.name == word for spec in load_oxfile(file, environ=environ)):
            return f"; {file} has an app {word}: oxmgr start --only {word}"
    except ConfigError:
        pass
    return nearest(word, list(dict.fromkeys(view.app for view in views)))


def app(args: Args) -> Spec:
    """The app that the words and options of this command line mean."""
    from oxmgr.config.cpus import count_usable
    from oxmgr.config.detect import app_from_words
    from oxmgr.config.errors import error

    env: dict[str, str] = {}
    for pair in args.many("set"):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Usage(f"--set takes KEY=VALUE, not {pair!r}")
        env[key] = value
    folder = os.path.abspath(args.one("cwd") or os.getcwd())
    if not os.path.isdir(folder):
        raise error(f"--cwd: the folder {folder} does not exist")
    instances = count_usable() if args.one("instances") == "max" else args.number("instances", 1)
    if instances < 1:
        raise Usage("--instances is at least 1, or max")
    namespace = args.one("namespace") or "default"
    wrong = name_error(namespace)
    if wrong:
        raise Usage(f"the namespace {namespace[:70]!r} {wrong}")
    restart = args.one("restart") or (NEVER if args.flag("schedule") else ON_FAILURE)
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
        watch=[_watched(word, folder) for word in args.many("watch")],
        **_times(args),
    )


def _watched(word: str, folder: str) -> str:
    from oxmgr.config.errors import error

    watched = os.path.abspath(word) if word else folder
    if not os.path.isdir(watched):
        raise error(f"--watch: {watched} is {'no folder' if os.path.exists(watched) else 'not there'}")
    return watched


def _times(args: Args) -> dict[str, object]:
    """When it is run, or restarted, as keys of a spec."""
    from oxmgr.config.keys import KEYS
    from oxmgr.config.values import Reader

    job, restarted = args.one("schedule"), args.one("cron-restart")
    if job is not None and restarted is not None:
        raise Usage("--schedule and --cron-restart: an app is either run at its times, or restarted")
    if job is not None and args.one("restart") == ALWAYS:
        raise Usage("--schedule: a job that is always restarted has no end: leave out --restart, or take on-failure")
    found: dict[str, object] = {}
    for option, key, line in (
        ("--schedule", "schedule", job),
        ("--cron-restart", "restart_schedule", restarted),
    ):
        if line is not None:
            try:
                found[key] = Reader(os.getcwd(), dict(os.environ)).read(KEYS[key], line)
            except ValueError as wrong:
                raise Usage(f"{option}: {wrong}") from None
    return found


def _start_known(targets: list[str], views: list[InstanceView], args: Args) -> int:
    name = targets[0]
    wrong = [key for key in FILE_OPTIONS if args.flag(key)]
    if wrong:
        raise Usage(f"{_are(wrong)} for an oxfile, and {name} is a known app; start --only {name} reads the file")
    if args.flag("foreground"):
        raise Usage(f"--foreground is for an oxfile, script or command; {name} is a known app: leave it out")
    if args.flag("dry-run"):
        chosen = [view for target in targets for view in known(target, views)]
        idle = {view.app for view in chosen if view.status in DOWN}
        names = dict.fromkeys(view.app for view in chosen)
        show_plan([Change(name, "start" if name in idle else "keep") for name in names], args)
        return DONE
    places = my_places()
    connection = connect_or_start(places)
    done = ask(connection, Act("start", targets, my_environ()))
    assert isinstance(done, Done)
    settle(connection, done, places)
    return show_done(done, args, last_lines=True)


def _foreground(specs: list[Spec], args: Args) -> int:
    """The daemon as our child, what the apps print as our output; at Ctrl-C or SIGTERM the daemon stops them."""
    places = my_places()
    try:
        connect(places).close()
    except NotRunning:
        pass
    else:
        raise Usage("a daemon runs already: oxmgr daemon stop ends it, or start without --foreground")
    if args.flag("dry-run"):
        return apply(specs, args)
    stop = Stop()
    follow = _follow(specs, places)
    pid = start_attached()
    stop.daemon = os.pidfd_open(pid)
    try:
        if stop.asked:
            stop.ask()
        else:
            _run_attached(specs, places, follow, stop)
    finally:
        # Whatever ended this, a broken pipe perhaps: what was started here does not outlive it.
        if not stop.asked:
            stop.ask()
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # The guard was killed, and the daemon is becoming another.
        _end_what_is_left(places)
    if code:
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        sys.stderr.write(f"oxmgr: the daemon {how}: see {places.daemon_log}\n")
    return FAILED if code else DONE


def _end_what_is_left(places: Places) -> None:
    try:
        connection = connect(places)
        ask(connection, StopDaemon())
        connection.wait_for_end()
    except NotRunning:
        pass


class Stop:
    """What a Ctrl-C does: the daemon is told to stop everything; and again, to hurry."""

    def __init__(self) -> None:
        import _signal

        self.asked = False
        self.daemon = -1
        for number in (SIGINT, SIGTERM, SIGHUP):
            _signal.signal(number, lambda number, frame: self.ask())

    def ask(self) -> None:
        self.asked = True
        if self.daemon >= 0:
            try:
                pidfd_send_signal(self.daemon, SIGTERM)
            except ProcessLookupError:
                pass


def _follow(specs: list[Spec], places: Places) -> "Follow":
    """What is printed from now on; an earlier run's lines are in the files."""
    from oxmgr.cli.follow import Follow
    from oxmgr.cli.logprint import Printer
    from oxmgr.cli.logsources import Sources

    sources = Sources(places)
    printer = Printer("text", sys.stdout.buffer, colour=wants_colour(1), protect=os.isatty(1))
    follow = Follow(places, sources, printer)
    # The new spec of an app replaces the saved one.
    for spec in {**read_saved_specs(places), **{spec.name: spec for spec in specs}}.values():
        for index in range(spec.instances):
            out, err = log_paths(spec, index, places.logs)
            name = instance_name(spec.name, index, spec.instances)
            for path, kind in ((out, "out" if out != err else ""), (err, "err")):
                sources.add(path, name, spec.name, index, kind)
    for chain in sources.chains():
        follow.add(chain)
    return follow


def _run_attached(specs: list[Spec], places: Places, follow: "Follow", stop: Stop) -> None:
    try:
        connection = connect(places)
        reply = ask(connection, Apply(specs, my_environ()))
        connection.close()
        assert isinstance(reply, Done)
        for text in reply.warnings:
            warn(text)
        for name, why in reply.failed.items():
            if not stop.asked:
                sys.stderr.write(f"oxmgr: {name}: {why}\n")
    except NoDaemon:
        # A Ctrl-C came first. What was printed until then is shown all the same.
        pass
    follow.run(until=stop.daemon)

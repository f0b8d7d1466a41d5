"""`oxmgr runtime`: the first process of a container, for an oxfile or for one command. It reads and checks, and becomes
the guard, which starts the daemon."""

import errno
import os
import stat
import sys

from oxmgr.cli.context import my_environ
from oxmgr.cli.parser import Args, Usage, nearest
from oxmgr.client.launch import run_in_container
from oxmgr.model.codec import encode
from oxmgr.model.messages import Apply, Runtime
from oxmgr.model.places import Places, find_places, places_in_memory
from oxmgr.model.signals import signal_name, signal_names, signal_number
from oxmgr.model.spec import ALL, ANY, INHERIT, NEVER, TERMINAL, Logs, Sandbox, Spec, name_error

NOT_EXECUTABLE, NOT_FOUND = 126, 127
GRACE = 8.0
GRACE_MOST = 86_400.0
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
DEFAULT_UMASK = 0o022
UNHEARD = frozenset(
    map(signal_number, "KILL STOP CHLD PIPE TTIN TTOU ABRT BUS FPE ILL SEGV SYS TRAP".split()),
)
"""What the guard passes on to nobody: HEARD of csrc/guard.c, and SIGCHLD."""


def run(args: Args) -> int:
    # Process 1 does not get a signal that it neither handles nor blocks (pid_namespaces(7)); those of now wait for the
    # guard.
    _block_signals()
    if args.rest and args.words:
        raise Usage(f"there is an oxfile, {args.words[0]}, and a command behind --: leave one out")
    order = Runtime(Apply([]), rewrites=dict(map(_rewrite, args.many("rewrite"))), grace=_grace(args.one("grace")))
    if args.rest:
        wrong = _program_error(args.rest)
        if wrong:
            text, code = wrong
            sys.stderr.write(f"oxmgr: {text}\n")
            return code
        _fill_from_command(order, args)
    else:
        _fill_from_file(order, args)
    places = _writable_places()
    if places.home:
        # By which every daemon of this container finds it.
        os.environ["OXMGR_HOME"] = places.home
    first = _file_in_memory(encode(order))
    sys.stderr.flush()
    return run_in_container(first)


def _file_in_memory(data: bytes) -> int:
    fd = os.memfd_create("oxmgr-runtime")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise Usage(
            f"what is to run takes {len(data)} bytes, and no file may have as many here: raise that limit with "
            "`ulimit -f unlimited`"
        ) from None
    return fd


def _block_signals() -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _fill_from_command(order: Runtime, args: Args) -> None:
    from oxmgr.config.detect import clean_name

    for option in ("exit-when", "only", "env"):
        if args.flag(option):
            raise Usage(f"--{option} is for an oxfile, and not for a command")
    argv = args.rest
    name = clean_name(os.path.basename(argv[0]))
    os.umask(umask := os.umask(DEFAULT_UMASK))
    spec = Spec(
        "app" if name_error(name) else name,
        " ".join(argv),
        argv,
        os.getcwd(),
        restart=NEVER,
        stop_timeout_ms=int(order.grace * 1000),
        sandbox=Sandbox(umask=umask if umask != DEFAULT_UMASK else -1),
        logs=Logs(sink="inherit"),
        stdin=TERMINAL if os.isatty(0) else INHERIT,
    )
    environ = b"".join(b"%s=%s\0" % item for item in os.environb.items())
    order.apply, order.alone = Apply([spec], environ), True


def _fill_from_file(order: Runtime, args: Args) -> None:
    from oxmgr.config.errors import error
    from oxmgr.config.oxfile import find_oxfile, load_for_container

    environ = dict(os.environ)
    path = find_oxfile(args.words[0] if args.words else None, os.getcwd(), environ)
    only = args.one("only")
    names = only.split(",") if only else None
    specs, exit_when = load_for_container(path, environ=environ, profile=args.one("env"), only=names)
    if not specs:
        raise error("every app is disabled: there is nothing to run", path)
    order.exit_when = args.one("exit-when") or exit_when
    known = [ANY, ALL, *(spec.name for spec in specs)]
    if order.exit_when not in known:
        raise Usage(
            f"exit-when is any, all or an app that is run, not {order.exit_when!r}{nearest(order.exit_when, known)}"
        )
    order.apply = Apply(specs, my_environ())


def _program_error(argv: list[str]) -> tuple[str, int] | None:
    """Why it cannot be executed, and the exit code that shells have for it."""
    from oxmgr.config.command import program_error

    if not argv[0]:
        return "the command behind -- has an empty name: there is no such program", NOT_FOUND
    path = os.environ.get("PATH") or DEFAULT_PATH
    wrong = program_error(argv, os.getcwd(), path)
    if wrong is None:
        return None
    places = [""] if "/" in argv[0] else [f"{folder or '.'}/" for folder in path.split(":")]
    found = next((file for place in places if os.path.exists(file := f"{place}{argv[0]}")), None)
    runnable = found is None or (os.path.isfile(found) and os.access(found, os.X_OK))
    return wrong, NOT_FOUND if runnable else NOT_EXECUTABLE


def _rewrite(text: str) -> tuple[int, int]:
    """`TERM:QUIT` as numbers; the second may be 0."""
    before, _, after = text.partition(":")
    numbers = signal_number(before), 0 if after.strip() == "0" else signal_number(after)
    for word, number in zip((before, after), numbers, strict=True):
        if number is None:
            names = [name.removeprefix("SIG") for name in signal_names()]
            raise Usage(
                f"--rewrite takes SIGNAL:SIGNAL or SIGNAL:0, as TERM:QUIT: {word!r} is none{nearest(word, names)}"
            )
    first, second = numbers
    assert first is not None and second is not None
    if first in UNHEARD:
        heard = [name.removeprefix("SIG") for name in signal_names() if signal_number(name) not in UNHEARD]
        raise Usage(
            f"--rewrite {text}: oxmgr does not hear of {signal_name(first)}, so it cannot be another; "
            f"these can: {', '.join(heard)}"
        )
    return first, second


def _grace(text: str | None) -> float:
    if text is None:
        return GRACE
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= GRACE_MOST:
        raise Usage(f"--grace takes seconds, at most {GRACE_MOST:.0f}, not {text!r}")
    return seconds


def _writable_places() -> Places:
    """OXMGR_HOME's; else the usual ones where they can be written to; else in memory."""
    uid = os.getuid()
    try:
        usual = find_places(dict(os.environ), uid)
        if usual.home:
            return usual
        why = _why_not(usual)
        if not why:
            return usual
    except ValueError as error:
        why = str(error).partition(":")[0]
    places = places_in_memory(uid)
    wrong = _why_not_ours(places.home, uid)
    if wrong:
        raise Usage(f"{why}, and {wrong}: set OXMGR_HOME to a folder that can be written to")
    sys.stderr.write(f"oxmgr: {why}: its state and its socket are in {places.home}\n")
    return places


def _why_not(places: Places) -> str:
    try:
        for folder in (places.state, places.run, places.logs):
            os.makedirs(folder, 0o700, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                return f"{folder} cannot be written to"
    except OSError as error:
        return f"{error.filename} cannot be made: {error.strerror}"
    return ""


def _why_not_ours(home: str, uid: int) -> str:
    """Anybody may write to the folder that it is in."""
    try:
        os.makedirs(home, 0o700, exist_ok=True)
        found = os.lstat(home)
    except OSError as error:
        return f"{home} cannot be made: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) != 0o700:
        return f"{home} is not a folder of ours alone"
    return "" if os.access(home, os.W_OK | os.X_OK) else f"{home} cannot be written to"

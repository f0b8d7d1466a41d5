"""`oxmgr logs`: what apps have printed."""

import os
import sys
import time

from oxmgr.cli.context import ask, my_places, show_done
from oxmgr.cli.logfilter import Grep, Kinds, Level, last_runs
from oxmgr.cli.logprint import JSON, RAW, TEXT, Printer, through_pager
from oxmgr.cli.logsources import KINDS, Sources
from oxmgr.cli.output import wants_colour, warn
from oxmgr.cli.parser import Args, Usage
from oxmgr.client.connection import connect
from oxmgr.client.logchain import Chain
from oxmgr.client.logfile import BLOCK, FIRST_BLOCK, LogFile, Run
from oxmgr.client.logmerge import merge, merge_backward
from oxmgr.model.codec import replace
from oxmgr.model.messages import DONE, NO_SUCH_APP, Done
from oxmgr.model.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oxmgr.cli.follow import Follow

DEFAULT_LINES = 20
MEMORY = 64 * 1024 * 1024
SMALLEST_BLOCK = 16 * 1024
MANY = 64


def run(args: Args) -> int:
    if args.flag("flush") or args.flag("reopen"):
        return _tell_writer(args)
    wanted = Wanted(args)
    places = my_places()
    _raise_fd_limit()
    sources = Sources(places, wanted.kinds)
    terminal = os.isatty(1)
    printer = Printer(wanted.mode, sys.stdout.buffer, times=args.flag("time"), colour=wants_colour(1), protect=terminal)
    follow = _follow(args.words, places, sources, printer, wanted) if args.flag("follow") else None
    code = sources.select(args.words)
    if code == NO_SUCH_APP:
        return code
    for text in sources.elsewhere():
        warn(text)
    if follow is not None:
        _show_and_follow(sources, printer, wanted, follow)
        return code
    if not (args.flag("pager") and terminal):
        _show(sources.chains(), printer, wanted)
        return code
    return _show_in_pager(sources, printer, wanted, code)


class Wanted:
    """What of the logs is shown, and how. `lines` None: all. Usage when it cannot be."""

    def __init__(self, args: Args) -> None:
        self._args = args
        wrong = [key for key in ("until", "pager") if args.flag(key) and args.flag("follow")]
        if wrong:
            raise Usage(f"--{wrong[0]} has an end, and --follow has none: leave one out")
        if args.flag("json") and args.flag("raw"):
            raise Usage("--json and --raw are two ways to show lines: leave one out")
        if args.flag("ignore-case") and not args.flag("grep"):
            raise Usage("--ignore-case is for --grep PATTERN")
        self.mode = JSON if args.flag("json") else RAW if args.flag("raw") else TEXT
        self.kinds = tuple(kind for kind in KINDS if args.flag(kind)) or KINDS
        self.since, self.until = self._moment("since"), self._moment("until")
        self.lines = self._lines()
        pattern = args.one("grep")
        self._grep = None if pattern is None else Grep(pattern, ignore_case=args.flag("ignore-case"))

    def _moment(self, key: str) -> int | None:
        text = self._args.one(key)
        if text is None:
            return None
        from oxmgr.cli.when import parse_when

        return parse_when(text, time.time(), f"--{key}")

    def _lines(self) -> int | None:
        ranged = any(map(self._args.flag, ("since", "until", "pager")))
        if self._args.one("lines") == "all" or (ranged and not self._args.flag("lines")):
            return None
        return self._args.number("lines", DEFAULT_LINES)

    def _filters(self) -> "list[Kinds | Level | Grep]":
        """Fresh ones: some remember what they have seen of a log."""
        found: list[Kinds | Level | Grep] = []
        if len(self.kinds) == 1:
            found.append(Kinds(self.kinds[0]))
        level = self._args.one("level")
        if level is not None:
            from oxmgr.cli.levels import LEVELS

            found.append(Level(LEVELS[level]))
        if self._grep is not None:
            found.append(self._grep)
        return found

    def filter(self) -> "Callable[[Iterable[Run]], Iterator[Run]]":
        filters = self._filters()

        def apply(runs: "Iterable[Run]") -> "Iterator[Run]":
            for one in filters:
                runs = one(runs)
            return iter(runs)

        return apply

    def forward(self, chain: Chain) -> "Iterator[Run]":
        return self.filter()(chain.forward(self.since, self.until))

    def backward(self, chain: Chain) -> "Iterator[Run]":
        runs = chain.backward(self.since, self.until)
        for one in self._filters():
            runs = one.backward(runs)
        return runs


def _show(chains: list[Chain], printer: Printer, wanted: Wanted) -> None:
    LogFile.block = max(SMALLEST_BLOCK, min(BLOCK, MEMORY // max(1, len(chains))))
    if len(chains) > MANY:
        LogFile.first_block = FIRST_BLOCK // 8
    for chain in chains:
        if chain.live is None and chain.trouble:
            warn(f"{chain.path}: {chain.trouble}")
    printer.names = len({chain.source.name for chain in chains}) > 1
    if wanted.lines is None:
        printer.show(merge(map(wanted.forward, chains)))
    else:
        printer.show(last_runs(merge_backward(map(wanted.backward, chains)), wanted.lines))
    printer.close()


def _follow(targets: list[str], places: Places, sources: Sources, printer: Printer, wanted: Wanted) -> "Follow":
    from oxmgr.cli.follow import Follow

    return Follow(places, sources, printer, wanted.filter, targets)


def _show_and_follow(sources: Sources, printer: Printer, wanted: Wanted, follow: "Follow") -> None:
    chains = sources.chains()
    for chain in chains:
        chain.hold_partial()
        follow.add(chain)
    _show(chains, printer, wanted)
    follow.run()


def _show_in_pager(sources: Sources, printer: Printer, wanted: Wanted, code: int) -> int:
    import _signal

    # Ctrl-C is for the pager, which may use it to stop a search.
    _signal.signal(_signal.SIGINT, lambda number, frame: None)
    pid = through_pager()
    try:
        _show(sources.chains(), printer, wanted)
    except BrokenPipeError:
        # Who has seen enough leaves the pager before the end.
        code = DONE
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
    os.waitpid(pid, 0)
    return code


def _raise_fd_limit() -> None:
    """Each log takes two: its file and its index."""
    from resource import RLIMIT_NOFILE, getrlimit, setrlimit

    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))


def _tell_writer(args: Args) -> int:
    """Who writes the files is the daemon, so it is asked to."""
    what = [key for key in ("flush", "reopen") if args.flag(key)]
    others = [option.names[0] for option in args.command.options if args.flag(option.key) and option.key not in what]
    if len(what) > 1 or others:
        raise Usage(f"--{what[0]} shows nothing: leave {'--reopen' if len(what) > 1 else others[0]} out")
    from oxmgr.model.messages import FlushLogs, ReopenLogs

    targets = args.words or ["all"]
    connection = connect(my_places())
    done = ask(connection, FlushLogs(targets) if what == ["flush"] else ReopenLogs(targets))
    connection.close()
    assert isinstance(done, Done)
    names = [view.name for view in done.instances if view.name not in done.failed]
    if names:
        sys.stdout.write(f"{'emptied' if what == ['flush'] else 'opened anew'}: the logs of {', '.join(names)}\n")
    return show_done(replace(done, instances=[]), args)

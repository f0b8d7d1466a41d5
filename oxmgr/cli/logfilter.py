"""Which lines are shown: --grep, --level, --err and --out. Each filter takes the runs of one log, and gives runs."""

from oxmgr.cli.parser import Usage
from oxmgr.client.logfile import Run, split_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    # A filter is made anew for each log, for it may remember what came before.
    Filter = Callable[[Iterable[Run]], Iterator[Run]]

WINDOW_OVERLAP = 64 * 1024
HELD_BACK = 10_000
"""Lines without a level that are kept, when reading backwards, until the one that they follow is found."""
CROSSES = ("(?!", "(?<", "(?>", "(?s", "(?m", "(?(", "(?-", "\\A", "\\Z", "*+", "++", "?+", "}+")
"""With none of these, a pattern that matches a line by itself matches in a text that holds the line as well."""


class Grep:
    """Lines in which the pattern is found."""

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        import re

        flags = re.IGNORECASE if ignore_case else re.NOFLAG
        try:
            self._line = re.compile(pattern, flags)
            self._whole = re.compile(pattern, flags | re.MULTILINE)
        except re.error as error:
            where = "" if error.pos is None else f" at character {error.pos + 1} of {pattern!r}"
            raise Usage(f"--grep takes a regular expression: {error.msg}{where}") from None
        except (RecursionError, OverflowError):
            raise Usage("--grep takes a regular expression, and a smaller one") from None
        self._is_safe = not any(part in pattern for part in CROSSES)

    def __call__(self, runs: "Iterable[Run]") -> "Iterator[Run]":
        for run in runs:
            if run.is_long:
                if self._is_in_long(run):
                    yield run
            elif run.text is not None:
                if self._line.search(_text(run.text)):
                    yield run
            elif count_lines(run) == 1:
                if self._line.search(_text(run.data)):
                    yield run
            else:
                found = self._matching(run.data)
                if found:
                    yield run if len(found) == len(run.data) else run.of(found)

    def backward(self, runs: "Iterable[Run]") -> "Iterator[Run]":
        return self(runs)

    def _matching(self, data: bytes) -> bytes:
        """The lines that match. Those that do not are passed over in one search, not one by one."""
        text = data.decode("utf-8", "surrogateescape")
        search = self._line.search
        if not self._is_safe:
            parts = text.split("\n")
            lines = [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
            return _bytes("".join(line for line in lines if search(line.removesuffix("\n"))))
        found: list[str] = []
        at, size = 0, len(text)
        whole = self._whole.search
        while at < size and (match := whole(text, at)) is not None:
            begin = text.rfind("\n", at, match.start()) + 1 or at
            end = text.find("\n", match.start())
            end = size if end < 0 else end
            line = text[begin:end]
            if search(line):
                found.append(text[begin : end + 1])
            at = end + 1
        return _bytes("".join(found))

    def _is_in_long(self, run: Run) -> bool:
        rest = b""
        for piece in run.pieces():
            if self._line.search(_text(rest + piece)):
                return True
            rest = (rest + piece)[-WINDOW_OVERLAP:]
        return False


def _text(line: bytes) -> str:
    return line.removesuffix(b"\n").decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Level:
    """Lines of that level and above; one without a level goes with the line before it, as a stack trace does."""

    def __init__(self, least: int) -> None:
        from oxmgr.cli.levels import level_of

        self._least = least
        self._level_of = level_of
        self._last = 0

    def __call__(self, runs: "Iterable[Run]") -> "Iterator[Run]":
        for run in runs:
            levels, parts = self._split(run)
            kept: list[bytes] = []
            for level, line in zip(levels, parts, strict=True):
                if level is not None:
                    self._last = level
                if self._last >= self._least:
                    kept.append(line)
            yield from _some(run, parts, kept)

    def backward(self, runs: "Iterable[Run]") -> "Iterator[Run]":
        waiting: list[Run] = []
        for run in runs:
            levels, parts = self._split(run)
            first = next((at for at, level in enumerate(levels) if level is not None), None)
            if first is None:
                if len(waiting) < HELD_BACK:
                    waiting.append(run)
                continue
            kept: list[bytes] = []
            last = 0
            for at in range(first, len(parts)):
                last = levels[at] or last if levels[at] is not None else last
                if last >= self._least:
                    kept.append(parts[at])
            if last >= self._least:
                yield from waiting
            waiting = []
            yield from _some(run, parts, kept)
            if first:
                waiting.append(run.of(b"".join(parts[:first])))

    def _split(self, run: Run) -> tuple[list[int | None], list[bytes]]:
        parts = [run.shown] if run.is_long or run.text is not None else split_lines(run.data)
        return list(map(self._level_of, parts)), parts


def _some(run: Run, parts: list[bytes], kept: list[bytes]) -> "Iterator[Run]":
    if len(kept) == len(parts):
        yield run
    elif kept:
        yield run.of(b"".join(kept))


class Kinds:
    """Of a file with both streams, the lines of one; those that do not say whose they are stay."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __call__(self, runs: "Iterable[Run]") -> "Iterator[Run]":
        return (run for run in runs if run.kind in ("", self._kind))

    def backward(self, runs: "Iterable[Run]") -> "Iterator[Run]":
        return self(runs)


def count_lines(run: Run) -> int:
    if run.is_long or run.text is not None:
        return 1
    return run.data.count(b"\n") + (not run.data.endswith(b"\n"))


def last_runs(runs: "Iterable[Run]", count: int) -> list[Run]:
    """The last lines, in order, of runs that come latest first."""
    found: list[Run] = []
    if count <= 0:
        return found
    for run in runs:
        lines = count_lines(run)
        if lines > count:
            run = run.of(b"".join(split_lines(run.data)[-count:]))
        found.append(run)
        count -= lines
        if count <= 0:
            break
    found.reverse()
    return found

"""Words → a command and its options, from one table, from which help, completion and docs/cli.md come as well.

Not argparse: that takes 18 ms to import, of the 30 that `oxmgr list` may take.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


DIGITS = 9


class Option:
    """`names` as typed, the long one first. `value` names what follows it; without it is a flag. One in brackets is a
    folder: behind `=`, or the next word when that is one."""

    __slots__ = ("choices", "help", "many", "names", "value")

    def __init__(self, names: str, help: str, value: str = "", *, many: bool = False, choices: str = "") -> None:
        self.names = names.split()
        self.help = help
        self.value = value
        self.many = many
        self.choices = choices.split()

    @property
    def key(self) -> str:
        return self.names[0].lstrip("-")

    @property
    def needs_value(self) -> bool:
        return bool(self.value) and not self.value.startswith("[")


class Command:
    """`words` is what it takes, as in a usage line; `least` and `most` (None: any number) how many of them. `rest` is
    what it takes behind `--`. `module` is under oxmgr.cli. `complete` says what the words are: targets, files, choices
    of `words_from`."""

    __slots__ = (
        "aliases",
        "complete",
        "examples",
        "help",
        "least",
        "module",
        "most",
        "name",
        "options",
        "rest",
        "words",
    )

    def __init__(
        self,
        name: str,
        help: str,
        *,
        words: str = "",
        least: int = 0,
        most: int | None = 0,
        options: "Iterable[Option]" = (),
        module: str = "",
        aliases: str = "",
        complete: str = "",
        examples: "Iterable[str]" = (),
        rest: str = "",
    ) -> None:
        self.name = name
        self.help = help
        self.words = words
        self.least = least
        self.most = most
        self.options = [*options, HELP]
        self.module = module or name
        self.aliases = aliases.split()
        self.complete = complete
        self.examples = list(examples)
        self.rest = rest


HELP = Option("--help -h", "show this and end")


class Usage(Exception):
    """The words are wrong; the text says how, and what was meant perhaps."""


class Args:
    """What was typed: `words`, and behind `--` the `rest`."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.words: list[str] = []
        self.rest: list[str] = []
        self._given: dict[str, list[str]] = {}

    def give(self, option: Option, value: str) -> None:
        known = self._given.setdefault(option.key, [])
        if known and not option.many and option.value:
            raise Usage(f"{option.names[0]} was given twice")
        known.append(value)

    def flag(self, key: str) -> bool:
        return key in self._given

    def one(self, key: str) -> str | None:
        return self._given[key][-1] if key in self._given else None

    def many(self, key: str) -> list[str]:
        return self._given.get(key, [])

    def number(self, key: str, default: int) -> int:
        text = self.one(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()):
            raise Usage(f"--{key} takes a number, not {text!r}")
        if len(text) > DIGITS:
            raise Usage(f"--{key} takes a number of at most {DIGITS} digits")
        return int(text)


def find_command(word: str, commands: "Iterable[Command]") -> Command:
    for command in commands:
        if word == command.name or word in command.aliases:
            return command
    known = [name for command in commands for name in (command.name, *command.aliases)]
    raise Usage(f"there is no command {word}{nearest(word, known) or ': oxmgr --help lists them'}")


def parse(command: Command, argv: list[str]) -> Args:
    """Options may stand anywhere before `--`. Raises Usage."""
    args = Args(command)
    options = {name: option for option in command.options for name in option.names}
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            if not command.rest:
                args.words += argv[at:]
            else:
                args.rest = argv[at:]
            break
        if not word.startswith("-") or word == "-" or _is_number(word):
            args.words.append(word)
            continue
        for name, value in _split(word, options):
            option = options.get(name)
            if option is None:
                meant = nearest(name, list(options))
                if not meant and command.rest:
                    meant = ": an app's own options come behind --"
                raise Usage(f"{command.name} has no option {name}{meant}")
            if not option.value:
                if value:
                    raise Usage(f"{name} takes no value")
                args.give(option, "")
                continue
            if value is None and not option.needs_value:
                value = ""
                if at < len(argv) and os.path.isdir(argv[at]):
                    value = argv[at]
                    at += 1
            if value is None:
                if at >= len(argv):
                    raise Usage(f"{name} needs a value: {option.value}")
                value = argv[at]
                at += 1
            if option.choices and value not in option.choices:
                raise Usage(f"{name} is one of {', '.join(option.choices)}, not {value!r}")
            args.give(option, value)
    if args.flag("help"):
        return args
    if len(args.words) < command.least:
        raise Usage(f"{command.name} needs {command.words}")
    if command.most is not None and len(args.words) > command.most:
        raise Usage(f"{command.name} does not know what to do with {args.words[command.most]!r}")
    return args


def _is_number(word: str) -> bool:
    """`-2`, as in `scale api -2`, is a word."""
    return word[1:].isascii() and word[1:].isdigit()


def _split(word: str, options: dict[str, Option]) -> list[tuple[str, str | None]]:
    """`--a=b`, `-n5` and `-fn` as (name, value) pairs."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return [(name, value if equals else None)]
    found: list[tuple[str, str | None]] = []
    for at in range(1, len(word)):
        name = f"-{word[at]}"
        option = options.get(name)
        if option is not None and option.value:
            found.append((name, word[at + 1 :].removeprefix("=") or None))
            break
        found.append((name, None))
    return found


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the known word with the smallest edit distance, if it is small."""
    best = min(known, key=lambda one: _distance(word, one), default="")
    return f"; did you mean {best}?" if best and _distance(word, best) <= max(1, len(word) // 3) else ""


def _distance(a: str, b: str) -> int:
    """Letters to put in, take out, change, or swap with the next one."""
    rows = [list(range(len(b) + 1))]
    for i, left in enumerate(a, 1):
        rows.append([i])
        for j, right in enumerate(b, 1):
            best = min(rows[-2][j] + 1, rows[-1][j - 1] + 1, rows[-2][j - 1] + (left != right))
            if i > 1 and j > 1 and left == b[j - 2] and a[i - 2] == right:
                best = min(best, rows[-3][j - 2] + 1)
            rows[-1].append(best)
    return rows[-1][-1]


# --- help ---


def usage_line(command: Command) -> str:
    words = f" {command.words}" if command.words else ""
    return f"oxmgr {command.name}{words}" + (f" [-- {command.rest}]" if command.rest else "")


def command_help(command: Command) -> str:
    lines = [f"Usage: {usage_line(command)}", "", command.help + "."]
    if command.aliases:
        lines += ["", f"Also: {', '.join(command.aliases)}"]
    lines += ["", "Options:"]
    names = [_option_names(option) for option in command.options]
    width = max(map(len, names))
    lines += [f"  {name:{width}}  {option.help}" for name, option in zip(names, command.options, strict=True)]
    if command.examples:
        lines += ["", "Examples:", *(f"  {example}" for example in command.examples)]
    return "\n".join(lines) + "\n"


def _option_names(option: Option) -> str:
    return ", ".join(option.names[::-1]) + (f" {option.value}" if option.value else "")


def overview(commands: "Iterable[Command]", version: str) -> str:
    width = max(len(command.name) for command in commands)
    lines = [f"oxmgr {version}: keeps programs running", "", "Usage: oxmgr COMMAND …", ""]
    lines += [f"  {command.name:{width}}  {command.help}" for command in commands]
    lines += ["", "oxmgr help COMMAND, or oxmgr COMMAND --help, says more. --version shows the version."]
    return "\n".join(lines) + "\n"

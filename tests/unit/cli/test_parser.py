"""Words → a command and its options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.cli.parser import Args, Command, Option, Usage, command_help, find_command, nearest, overview, parse
from oxmgr.cli.table import COMMANDS

MADE = Command(
    "make",
    "Make it",
    words="[WORD…]",
    most=3,
    rest="ARGS…",
    options=[
        Option("--name -n", "what to call it", "NAME"),
        Option("--set -e", "again and again", "K=V", many=True),
        Option("--when", "when", "WHEN", choices="now later"),
        Option("--force -f", "no question"),
    ],
)
PLAIN = Command("plain", "No rest", least=1, most=2, words="A [B]")


def made(*argv: str) -> Args:
    return parse(MADE, list(argv))


def refused(command: Command, *argv: str) -> str:
    with pytest.raises(Usage) as raised:
        parse(command, list(argv))
    return str(raised.value)


@pytest.mark.parametrize(
    "argv", [["--name", "x"], ["--name=x"], ["-n", "x"], ["-nx"], ["-n=x"], ["-fn", "x"], ["-fnx"]]
)
def test_every_spelling_of_an_option_means_the_same(argv: list[str]) -> None:
    args = made("a", *argv, "b")
    assert (args.one("name"), args.words) == ("x", ["a", "b"])
    assert args.flag("force") == ("f" in argv[0])


def test_an_option_takes_the_next_word_whatever_it_looks_like() -> None:
    assert made("--name", "--force").one("name") == "--force"
    assert made("--name=").one("name") == ""
    assert made("-e", "A=1", "--set=B=2=3").many("set") == ["A=1", "B=2=3"]


def test_numbers_and_a_dash_are_words() -> None:
    assert made("-2", "-", "+1").words == ["-2", "-", "+1"]


def test_what_is_behind_two_dashes_is_left_alone() -> None:
    args = made("a", "--", "--name", "--")
    assert (args.words, args.rest, args.flag("name")) == (["a"], ["--name", "--"], False)
    args = parse(PLAIN, ["--", "--help"])
    assert (args.words, args.rest) == (["--help"], [])


def test_what_is_wrong_is_named() -> None:
    assert "no option --nam; did you mean --name?" in refused(MADE, "--nam", "x")
    assert "own options come behind --" in refused(MADE, "--port", "1")
    assert "behind --" not in refused(PLAIN, "--port", "1")
    assert "needs a value: NAME" in refused(MADE, "--name")
    assert "given twice" in refused(MADE, "-n", "a", "-n", "b")
    assert "takes no value" in refused(MADE, "--force=1")
    assert "now, later" in refused(MADE, "--when", "never")
    assert "'d'" in refused(MADE, "a", "b", "c", "d")
    assert "plain needs A [B]" in refused(PLAIN)


def test_help_wants_nothing_else() -> None:
    assert parse(PLAIN, ["--help"]).flag("help")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "²", "٣", "1" * 10, "9" * 5000])
def test_a_number_is_a_number(text: str) -> None:
    with pytest.raises(Usage, match="takes a number"):
        made("--name", text).number("name", 0)


def test_a_number_has_a_default() -> None:
    assert (made().number("name", 7), made("-n", "0").number("name", 7)) == (7, 0)


@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_words_are_taken_or_refused_in_a_sentence(argv: list[str]) -> None:
    for command in (MADE, PLAIN):
        try:
            parse(command, argv)
        except Usage as error:
            assert str(error).startswith((command.name, "-"))


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lst", "list"), ("lits", "list"), ("sotp", "stop"), ("delte", "delete"), ("stauts", "status"), ("lgos", "logs")],
)
def test_a_wrong_command_suggests_the_nearest(word: str, meant: str) -> None:
    with pytest.raises(Usage, match=f"no command {word}; did you mean {meant}\\?"):
        find_command(word, COMMANDS)


def test_what_is_near_nothing_suggests_nothing() -> None:
    assert nearest("frobnicate", ["list", "stop"]) == ""
    assert nearest("x", []) == ""
    with pytest.raises(Usage, match="oxmgr --help lists them"):
        find_command("frobnicate", COMMANDS)


def test_aliases_find_their_command() -> None:
    for alias, name in {
        "ls": "list",
        "ps": "list",
        "rm": "delete",
        "rs": "restart",
        "show": "status",
        "log": "logs",
    }.items():
        assert find_command(alias, COMMANDS).name == name


# --- the table of commands ---


def test_no_two_commands_or_options_share_a_name() -> None:
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    for command in COMMANDS:
        options = [name for option in command.options for name in option.names]
        assert len(options) == len(set(options)), command.name
        assert all(option.names[0].startswith("--") for option in command.options)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_module_and_says_what_it_does(command: Command) -> None:
    module = __import__(f"oxmgr.cli.cmd_{command.module}", fromlist=["run"])
    assert callable(module.run)
    shown = command_help(command)
    assert shown.startswith(f"Usage: oxmgr {command.name}") and command.help in shown
    assert all(name in shown for option in command.options for name in option.names)
    assert max(map(len, shown.splitlines())) <= 100


def test_the_overview_names_every_command() -> None:
    shown = overview(COMMANDS, "1.2.3")
    assert "1.2.3" in shown and all(f"  {command.name} " in shown for command in COMMANDS)

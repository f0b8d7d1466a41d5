"""`oxmgr completion`: a shell's completion script, made from the table of commands."""

import sys

from oxmgr.cli.parser import Args, Command, Option, Usage, nearest
from oxmgr.cli.table import COMMANDS
from oxmgr.model.messages import DONE

# Names for TARGET words come from a running daemon or the state folder, by the shell itself calling this.
_NAMES = 'oxmgr list --json 2>/dev/null | sed -n \'s/^ *"\\(name\\|app\\)": "\\(.*\\)",$/\\2/p\' | sort -u'
_NO_WORDS = ("targets", "files")


def run(args: Args) -> int:
    shells = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    make = shells.get(args.words[0])
    if make is None:
        known = ", ".join(shells)
        raise Usage(f"completion is there for {known}, not for {args.words[0]!r}{nearest(args.words[0], list(shells))}")
    sys.stdout.write(make())
    return DONE


def _words(command: Command) -> str:
    return " ".join(word for word in command.complete.split() if word not in _NO_WORDS)


def _names(command: Command) -> list[str]:
    return [command.name, *command.aliases]


# --- bash, and zsh by way of it ---

_BASH = """\
# bash completion of oxmgr
_oxmgr_add() {{
    local line
    # A line a reply, so that names with blanks stay whole.
    while IFS= read -r line; do COMPREPLY+=("${{line#"$cut"}}"); done
}}
_oxmgr_names() {{
    {names}
}}
_oxmgr() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" cut=""
    COMPREPLY=()
    # To bash a colon ends a word, and it replaces only what is behind it.
    if [[ "$word" == : ]]; then
        cut="$before:" word="$before:" before=""
    elif [[ "$before" == : && "$COMP_CWORD" -gt 2 ]]; then
        cut="${{COMP_WORDS[COMP_CWORD-2]}}:" word="${{COMP_WORDS[COMP_CWORD-2]}}:$word" before=""
    fi
    if [[ "$COMP_CWORD" -eq 1 ]]; then
        _oxmgr_add < <(compgen -W "{commands} help" -- "$word")
        return
    fi
    case "${{COMP_WORDS[1]}} $before" in
{values}
    esac
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
}}
complete -o filenames -F _oxmgr oxmgr
"""


def _bash() -> str:
    values: list[str] = []
    cases = [f'        help)\n            _oxmgr_add < <(compgen -W "{_all_names()}" -- "$word") ;;']
    for command in COMMANDS:
        for option in command.options:
            if option.needs_value:
                patterns = "|".join(f'"{name} {flag}"' for name in _names(command) for flag in option.names)
                values.append(f"        {patterns})\n            {_bash_value(option)}return ;;")
        options = " ".join(name for option in command.options for name in option.names)
        lines = [f'_oxmgr_add < <(compgen -W "{f"{options} {_words(command)}".strip()}" -- "$word")']
        if "targets" in command.complete.split():
            lines.append('_oxmgr_add < <(compgen -W "$(_oxmgr_names)" -- "$word")')
        if "files" in command.complete.split():
            lines.append('_oxmgr_add < <(compgen -f -- "$word")')
        cases.append(f"        {'|'.join(_names(command))})\n            " + "\n            ".join(lines) + " ;;")
    return _BASH.format(names=_NAMES, commands=_all_names(), values="\n".join(values), cases="\n".join(cases))


def _bash_value(option: Option) -> str:
    if option.choices:
        return f'_oxmgr_add < <(compgen -W "{" ".join(option.choices)}" -- "$word"); '
    kind = {"FILE": "-f", "FOLDER": "-d"}.get(option.value)
    return f'_oxmgr_add < <(compgen {kind} -- "$word"); ' if kind else ""


def _all_names() -> str:
    return " ".join(command.name for command in COMMANDS)


def _zsh() -> str:
    return (
        "#compdef oxmgr\n# zsh completion of oxmgr, by way of the one for bash\n"
        "autoload -U +X bashcompinit && bashcompinit\n" + _bash()
    )


# --- fish ---


def _fish() -> str:
    lines = ["# fish completion of oxmgr", "complete -c oxmgr -f"]
    lines.append("complete -c oxmgr -n __fish_use_subcommand -a help -d 'Say more of a command'")
    lines.append(f'complete -c oxmgr -n "__fish_seen_subcommand_from help" -a {_quote(_all_names())}')
    for command in COMMANDS:
        lines.append(f"complete -c oxmgr -n __fish_use_subcommand -a {command.name} -d {_quote(command.help)}")
        seen = f'-n "__fish_seen_subcommand_from {" ".join(_names(command))}"'
        for option in command.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            lines.append(f"complete -c oxmgr {seen} {names}{_fish_value(option)} -d {_quote(option.help)}")
        kinds = command.complete.split()
        if "targets" in kinds:
            lines.append(f"complete -c oxmgr {seen} -a {_quote('(' + _NAMES + ')')}")
        if "files" in kinds:
            lines.append(f"complete -c oxmgr {seen} -F")
        if _words(command):
            lines.append(f"complete -c oxmgr {seen} -a {_quote(_words(command))}")
    return "\n".join(lines) + "\n"


def _fish_value(option: Option) -> str:
    if option.choices:
        return f" -x -a {_quote(' '.join(option.choices))}"
    if not option.needs_value:
        return ""
    return " -r -F" if option.value in ("FILE", "FOLDER") else " -x"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

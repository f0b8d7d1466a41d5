"""`oxmgr completion`: a shell's completion script, made from the table of commands."""

import sys

from oxmgr.cli.parser import Args, Usage
from oxmgr.cli.table import COMMANDS
from oxmgr.model.messages import DONE

# Names for TARGET words come from a running daemon or the state folder, by the shell itself calling this.
_NAMES = 'oxmgr list --json 2>/dev/null | sed -n \'s/^ *"\\(name\\|app\\)": "\\(.*\\)",$/\\2/p\' | sort -u'


def run(args: Args) -> int:
    shells = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    make = shells.get(args.words[0])
    if make is None:
        raise Usage(f"completion is there for {', '.join(shells)}, not for {args.words[0]!r}")
    sys.stdout.write(make())
    return DONE


def _words(complete: str) -> str:
    return " ".join(word for word in complete.split() if word not in ("targets", "files"))


def _bash() -> str:
    names = " ".join(command.name for command in COMMANDS)
    cases: list[str] = []
    for command in COMMANDS:
        options = " ".join(name for option in command.options for name in option.names)
        kinds = command.complete.split()
        words = _words(command.complete)
        targets = f" $({_NAMES})" if "targets" in kinds else ""
        files = '\n            COMPREPLY+=($(compgen -f -- "$word"))' if "files" in kinds else ""
        cases.append(
            f"        {'|'.join([command.name, *command.aliases])})\n"
            f'            COMPREPLY=($(compgen -W "{options} {words}{targets}" -- "$word")){files} ;;'
        )
    return (
        "# bash completion of oxmgr\n_oxmgr() {\n"
        '    local word="${COMP_WORDS[COMP_CWORD]}"\n'
        '    if [ "$COMP_CWORD" -eq 1 ]; then\n'
        f'        COMPREPLY=($(compgen -W "{names} help" -- "$word"))\n'
        "        return\n    fi\n"
        '    case "${COMP_WORDS[1]}" in\n' + "\n".join(cases) + "\n    esac\n}\ncomplete -F _oxmgr oxmgr\n"
    )


def _zsh() -> str:
    return (
        "#compdef oxmgr\n# zsh completion of oxmgr, by way of the one for bash\n"
        "autoload -U +X bashcompinit && bashcompinit\n" + _bash()
    )


def _fish() -> str:
    lines = ["# fish completion of oxmgr", "complete -c oxmgr -f"]
    for command in COMMANDS:
        lines.append(f"complete -c oxmgr -n __fish_use_subcommand -a {command.name} -d {_quote(command.help)}")
        seen = f'-n "__fish_seen_subcommand_from {" ".join([command.name, *command.aliases])}"'
        for option in command.options:
            kinds = {len(name) > 2: name.lstrip("-") for name in option.names}
            names = " ".join(f"{'-l' if long else '-s'} {name}" for long, name in kinds.items())
            lines.append(f"complete -c oxmgr {seen} {names}{' -r' if option.value else ''} -d {_quote(option.help)}")
        kinds_of_words = command.complete.split()
        if "targets" in kinds_of_words:
            lines.append(f"complete -c oxmgr {seen} -a {_quote('(' + _NAMES + ')')}")
        if "files" in kinds_of_words:
            lines.append(f"complete -c oxmgr {seen} -F")
        if _words(command.complete):
            lines.append(f"complete -c oxmgr {seen} -a {_quote(_words(command.complete))}")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

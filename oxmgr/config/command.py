"""A command as a user writes it → what is executed."""

import os
import shlex

SHELL = "/bin/sh"

# Words that are part of the shell itself (POSIX, Shell Command Language).
_BUILTINS = frozenset(". : break cd continue eval exec exit export readonly return set shift source times trap".split())
_BUILTINS |= frozenset("umask ulimit unset wait alias bg command fg getopts hash jobs read type unalias".split())
_BUILTINS |= frozenset("if for while until case function { ! [[ time".split())
_SYNTAX = frozenset("|&;<>()$`\n*?[#~")


def needs_shell(text: str) -> bool:
    """Whether the text, by POSIX quoting rules, is more than words."""
    quote = ""
    at = 0
    word_start = True
    while at < len(text):
        char = text[at]
        if quote == "'":
            quote = "" if char == "'" else quote
        elif quote == '"':
            if char == "\\":
                at += 1
            elif char in "$`":
                return True
            elif char == '"':
                quote = ""
        elif char == "\\":
            at += 1
        elif char in "'\"":
            quote = char
        elif char in "#~":
            # Only at a word's start; `~` behind `=` or `:` only in assignments, which are found below.
            if word_start:
                return True
        elif char in _SYNTAX:
            return True
        word_start = char in " \t" and not quote
        at += 1
    first = text.split(None, 1)[0] if text.strip() else ""
    name, equals, _ = first.partition("=")
    return first in _BUILTINS or (bool(equals) and name.isascii() and name.isidentifier())


def parse_command(value: str | list[str]) -> tuple[list[str], str]:
    """(argv, the command as people read it). ValueError, as a sentence, when it is none."""
    if isinstance(value, list):
        if not value or not value[0]:
            raise ValueError("names no program")
        argv, shown = value, shlex.join(value)
    else:
        if not value.strip():
            raise ValueError("is empty")
        shown = value.strip()
        if needs_shell(shown):
            argv = [SHELL, "-c", shown]
        else:
            try:
                argv = shlex.split(shown)
            except ValueError as error:
                raise ValueError(f"cannot be split into words: {str(error).lower()}") from None
            if not argv or not argv[0]:
                raise ValueError("names no program")
    if any("\0" in word for word in argv):
        raise ValueError("holds a NUL, which no program can be given")
    return argv, shown


def program_error(argv: list[str], working_dir: str, path: str) -> str | None:
    """Why argv[0] will not run, or None. `path` is the PATH that the app will have."""
    program = argv[0]
    if "/" not in program:
        if which(program, path):
            return None
        return f"there is no program {program} in its PATH ({path})"
    full = os.path.join(working_dir, program)
    if os.path.isdir(full):
        return f"{full} is a folder"
    if not os.path.exists(full):
        return f"{full} does not exist"
    if not os.access(full, os.X_OK):
        return f"{full} is not executable: chmod +x it"
    return None


def which(program: str, path: str) -> str | None:
    """The file that execvp(3) would find."""
    for folder in path.split(":"):
        full = os.path.join(folder or ".", program)
        if os.path.isfile(full) and os.access(full, os.X_OK):
            return full
    return None

"""A command as a user writes it → what is executed."""

import os
import shlex

SHELL = "/bin/sh"
FOLDERS_SHOWN = 3
LINE_READ = 256
"""So much of a script's first line the kernel reads (BINPRM_BUF_SIZE)."""

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
        found = which(program, path)
        if found is None:
            return f"there is no program {program} in its PATH ({_short(path)})"
        return _interpreter_error(found, working_dir, path)
    full = os.path.join(working_dir, program)
    if os.path.isdir(full):
        return f"{full} is a folder"
    if not os.path.exists(full):
        return f"{full} does not exist"
    if not os.access(full, os.X_OK):
        return f"{full} is not executable: chmod +x it"
    return _interpreter_error(full, working_dir, path)


def _short(path: str) -> str:
    """The first folders of a PATH, for many are no help to who has mistyped a name."""
    folders = path.split(":")
    more = len(folders) - FOLDERS_SHOWN
    return path if more <= 0 else f"{':'.join(folders[:FOLDERS_SHOWN])} and {more} more"


def _interpreter_error(file: str, working_dir: str, path: str) -> str | None:
    """Why what a script's first line names cannot run it (execve(2), Interpreter scripts), or None."""
    try:
        with open(file, "rb") as opened:
            first = os.fsdecode(opened.read(LINE_READ).partition(b"\n")[0])
    except OSError:
        return None  # it may be run and not read
    words = first.removeprefix("#!").split(None, 1) if first.startswith("#!") else []
    if not words:
        return None
    if first.endswith("\r"):
        return f"the first line of {file} ends with a carriage return, which belongs to it for the kernel: take it out"
    interpreter = os.path.join(working_dir, words[0])
    if not (os.path.isfile(interpreter) and os.access(interpreter, os.X_OK)):
        return f"{file} is to be run by {words[0]}, as its first line says, and there is no such program"
    wanted = _program_of_env(words[1].strip()) if os.path.basename(interpreter) == "env" and words[1:] else None
    if wanted and "/" not in wanted and not which(wanted, path):
        return f"{file} is to be run by {wanted}, as its first line says, and that is not in its PATH ({_short(path)})"
    return None


def _program_of_env(words: str) -> str | None:
    """What env(1) is to run. None where options say more than this understands."""
    if not words.startswith("-"):
        # All behind the interpreter is one word to it.
        return words
    if not words.startswith("-S"):
        return None
    rest = [word for word in words.removeprefix("-S").split() if "=" not in word]
    return rest[0] if rest and not rest[0].startswith("-") else None


def which(program: str, path: str) -> str | None:
    """The file that execvp(3) would find."""
    for folder in path.split(":"):
        full = os.path.join(folder or ".", program)
        if os.path.isfile(full) and os.access(full, os.X_OK):
            return full
    return None

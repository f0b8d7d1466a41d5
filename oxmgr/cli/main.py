"""From the words to a command's end: which one, and what is said when it fails."""

import errno
import os
import sys
from _io import TextIOWrapper

from oxmgr import __version__
from oxmgr.cli.context import warn_of_aside
from oxmgr.cli.parser import Usage, command_help, find_command, overview, parse
from oxmgr.cli.table import COMMANDS
from oxmgr.client.connection import NoDaemon, NotRunning, Refused
from oxmgr.model.messages import DONE, FAILED, NO_DAEMON, WRONG

INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """The exit code."""
    _open_standard_files()
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except Usage as error:
        return _fail(str(error), WRONG)
    except NotRunning as error:
        return _fail(f"{error}: oxmgr start starts one", NO_DAEMON)
    except NoDaemon as error:
        return _fail(str(error), NO_DAEMON)
    except Refused as error:
        return _fail(str(error), error.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, and would not read why.
        _drop_unread()
        return FAILED
    except UnicodeEncodeError:
        return _fail("what was typed, or the environment, holds bytes that are not UTF-8: oxmgr keeps text only", WRONG)
    except OSError as error:
        if error.filename is None and _folder_is_gone():
            return _fail("the folder that this runs in has been removed: cd to another one", FAILED)
        where = f"{error.filename}: " if error.filename else ""
        what = "; raise the limit with `ulimit -n 4096`" if error.errno == errno.EMFILE else ""
        return _fail(f"{where}{error.strerror or error}{what}", FAILED)
    except Exception as error:
        # Imported only now: oxmgr.config is heavy, and only who has imported it can raise this.
        if "oxmgr.config.errors" in sys.modules:
            from oxmgr.config.errors import ConfigError

            if isinstance(error, ConfigError):
                return _fail(str(error), WRONG)
        raise


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h") or argv == ["help"]:
        sys.stdout.write(overview(COMMANDS, __version__))
        return DONE
    if argv[0] in ("--version", "-V"):
        sys.stdout.write(f"oxmgr {__version__}\n")
        return DONE
    if argv[0].startswith("-"):
        raise Usage(f"{argv[0]} stands before the command: options come behind it")
    if argv[0] == "help":
        sys.stdout.write(command_help(find_command(argv[1], COMMANDS)))
        return DONE
    command = find_command(argv[0], COMMANDS)
    args = parse(command, argv[1:])
    if args.flag("help"):
        sys.stdout.write(command_help(command))
        return DONE
    module = f"oxmgr.cli.cmd_{command.module}"
    __import__(module)
    try:
        code: int = sys.modules[module].run(args)
    finally:
        # Completion's words are a shell's to read, and doctor has it among its findings.
        if command.name not in ("completion", "doctor"):
            warn_of_aside()
    return code


def _fail(text: str, code: int) -> int:
    try:
        for line in text.splitlines():
            sys.stderr.write(f"oxmgr: {line}\n")
    except BrokenPipeError:
        _drop_unread()
    return code


def _folder_is_gone() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _drop_unread() -> None:
    """What nobody reads of our errors goes nowhere, so that the last flush does not fail on it again."""
    try:
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)


def _open_standard_files() -> None:
    """What we were started without reads as empty and takes what is written; and no other file gets its number."""
    for fd, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(fd)
            except OSError:
                # Also for what we become.
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", closefd=False))
    for file in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding has not is no reason to fail.
        if isinstance(file, TextIOWrapper):
            file.reconfigure(errors="replace")

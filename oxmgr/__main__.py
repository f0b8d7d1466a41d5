"""`oxmgr`, `python -m oxmgr`: the command line. With DAEMON as the first word, the daemon; with one of HELPERS, that.

None of them imports another. Daemon and helpers are this file run by its path in a bare interpreter (`python -I -S`),
so that it has no site hooks and nobody's environment decides what it loads; the folders of the libraries are the
second word, and the daemon's options follow as KEY=VALUE.
"""

import gc
import os
import sys

DAEMON = "supervise"
HELPERS = ("alert", "compress", "match", "network", "schedule")
INTERRUPTED = 130


def main() -> int:
    words = sys.argv[1:]
    if __package__ or not words or words[0] not in (DAEMON, *HELPERS):
        # A command lives for milliseconds: what it leaves is the kernel's to clean up, so nothing is collected and
        # nothing torn down. That is a fifth of the time of `oxmgr list`.
        gc.disable()
        try:
            from oxmgr.cli.main import main as run_cli

            code = run_cli(words)
            sys.stderr.flush()
        except KeyboardInterrupt:
            # Before the command line could take care of it.
            code = INTERRUPTED
        os._exit(code)
    sys.path[1:1] = words[1].split(":")
    if words[0] in HELPERS:
        module = f"oxmgr.helpers.{words[0]}"
        __import__(module)
        return int(sys.modules[module].main())
    from oxmgr.supervisor.daemon import main as run_daemon

    return run_daemon(dict(word.split("=", 1) for word in words[2:]))


if __name__ == "__main__":
    if not __package__:
        # Run by its path: the folder on sys.path is that of this file, the one above it is wanted.
        sys.path.insert(0, __file__.rpartition("/")[0].rpartition("/")[0])
    sys.exit(main())

"""`make test`'s last step: the suite of this machine, and beside it the one of the VM, whose output follows when both are
done. The last line is the summary of this machine's."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent


def leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, leave)
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(
            [sys.executable, "-m", "tests.kernel"], cwd=REPOSITORY, stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        try:
            code, last = run([sys.executable, "-m", "pytest", *sys.argv[1:]])
            print("\nin the VM:", flush=True)
            kernel_code = beside.wait()
        finally:
            # It ends its VM itself.
            beside.terminate()
            beside.wait()
        said.seek(0)
        sys.stdout.flush()
        os.write(1, said.read())
    if kernel_code:
        print(f"the tests in the VM have failed: {kernel_code}", flush=True)
    print(last, flush=True)
    return code or abs(kernel_code)


def run(words: list[str]) -> tuple[int, str]:
    """The exit code, and the last line that it printed; all of it is passed on as it comes."""
    last = ""
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, errors="replace") as ran:
        assert ran.stdout is not None
        for line in iter(ran.stdout.readline, ""):
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line.rstrip("\n") or last
        return ran.wait(), last


if __name__ == "__main__":
    sys.exit(main())

"""Two dozen apps of many kinds that are witnesses: each numbers its lines, and writes in a ledger of its own when it starts
and when it ends.

A ledger is a file of lines: `start PID`, `end PID CODE LINES` (LINES of the run on its stdout), and `double PID` from one
that has found the run before it alive. A run prints `RUN N`: the number of its start, counted by the ledger, and of the
line.
"""

import gzip
import json
import os
import re
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from oxmgr.model.logpaths import log_paths
from oxmgr.model.spec import NEVER, Hooks, Logs, Spec, instance_name
from tests.conftest import Home
from tests.unit.logs import rotated_files

PRELUDE = """
ledger=$LEDGER/$OXMGR_APP.$OXMGR_INSTANCE_ID
last=$(sed -n 's/^start //p' $ledger 2>/dev/null | tail -n 1)
last=${last:-none}
case "$(cat /proc/$last/stat 2>/dev/null)" in
"" | *") Z "* | *") X "*) ;;
*)
    mine=$(grep -czx -e "LEDGER=$LEDGER" -e "OXMGR_APP=$OXMGR_APP" -e "OXMGR_INSTANCE_ID=$OXMGR_INSTANCE_ID" \\
        /proc/$last/environ)
    test "$mine" != 3 || echo double $last >> $ledger ;;
esac
echo start $$ >> $ledger
run=$(grep -c start $ledger)
n=0
say() { echo $run $n; n=$((n+1)); }
leave() { echo end $$ $1 $n >> $ledger; exit $1; }
"""
"""Of every shell script. A number may be somebody else's by now, so it is asked whose it is. A trap runs between two commands, so a line that is printed is counted or the trap has not come:
`on_term` is looked at where that holds."""
STOPS = "stop=; trap stop=1 TERM; "
LOOP = STOPS + 'while [ -z "$stop" ]; do say; sleep {pause}; done; leave {code}'
PYTHON = """
import os, signal, sys, time
ledger = f"{os.environ['LEDGER']}/{os.environ['OXMGR_APP']}.{os.environ['OXMGR_INSTANCE_ID']}"
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def note(text):
    with open(ledger, "a") as file: file.write(text + "\\n")
try: lines = open(ledger).read().split("\\n")
except FileNotFoundError: lines = []
last = [line.split()[1] for line in lines if line.startswith("start")][-1:]
own = [f"{name}={os.environ[name]}".encode() for name in ("LEDGER", "OXMGR_APP", "OXMGR_INSTANCE_ID")]
try:
    alive = bool(last) and ") Z " not in open(f"/proc/{last[0]}/stat").read()
    alive = alive and set(own) <= set(open(f"/proc/{last[0]}/environ", "rb").read().split(b"\\0"))
except OSError: alive = False
if alive: note(f"double {last[0]}")
note(f"start {os.getpid()}")
run = 1 + sum(line.startswith("start") for line in lines)
n = 0
def say(to=sys.stdout, extra=""):
    global n
    to.write(f"{run} {n}{extra}\\n")
    to.flush()
    n += 1
def leave(code):
    note(f"end {os.getpid()} {code} {n}")
    os._exit(code)
"""
NOTIFY = """
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
    told.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
"""
BESIDE = """
echo start $$ >> $LEDGER/reloaded.0
trap 'exit 0' TERM
echo ready
while :; do sleep 0.05; done
"""


class Kind(NamedTuple):
    spec: Spec
    restarts: bool = False
    """It ends by itself again and again."""
    told: bool = True
    """Every line of it is in its log; else some may be missing, where a notice says so."""
    code: int | None = None
    """How its one run ends."""
    replaced: bool = False
    """Two of it may run beside each other, as long as one replaces the other."""


def zoo(home: Home) -> dict[str, Kind]:
    ledger = home.folder / "ledger"
    ledger.mkdir(exist_ok=True)
    small = {"max_size_mb": 0.02, "max_files": 100_000}

    def sh(name: str, script: str, **keys: object) -> Spec:
        return home.sh(name, PRELUDE + script, env={"LEDGER": str(ledger)}, **keys)

    def python(name: str, script: str, **keys: object) -> Spec:
        argv = [sys.executable, "-I", "-S", "-u", "-c", PYTHON + script]
        return Spec(name, "python", argv, str(home.folder), env={"LEDGER": str(ledger)}, **keys)  # type: ignore[arg-type]

    steady = LOOP.format(pause=0.05, code=0)
    hooks = Hooks(pre_start="echo pre_start >> $LEDGER/hooks", pre_stop="echo pre_stop >> $LEDGER/hooks")
    py = "while not stop:\n    say()\n    time.sleep({pause})\nleave({code})\n"
    again = {"restart": "always", "restart_delay_ms": 100, "restart_delay_max_ms": 100}
    kinds = [
        Kind(sh("shell", steady)),
        Kind(sh("rotates", steady, logs=Logs(**small))),  # type: ignore[arg-type]
        Kind(sh("cri", steady, logs=Logs(format="cri", **small))),  # type: ignore[arg-type]
        Kind(sh("json", steady, logs=Logs(format="json"))),
        Kind(python("python", py.format(pause=0.02, code=0), logs=Logs(**small))),  # type: ignore[arg-type]
        Kind(
            python(
                "long",
                "while not stop:\n    say(extra=' ' + 'x' * 900)\n    time.sleep(0.05)\nleave(0)\n",
                logs=Logs(**small),  # type: ignore[arg-type]
            )
        ),
        Kind(python("pair", py.format(pause=0.1, code=0), instances=2)),
        Kind(sh("db", steady)),
        Kind(sh("needs-db", steady, depends_on={"db": "started"})),
        Kind(sh("children", "(trap '' TERM; while :; do sleep 0.1; done) & " + steady, stop_timeout_ms=300)),
        Kind(
            python(
                "daemonizes",
                "if os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
                "    while True: time.sleep(60)\nos.wait()\n" + py.format(pause=0.1, code=0),
                stop_timeout_ms=300,
            )
        ),
        Kind(sh("limited", LOOP.format(pause=0.02, code=0), logs=Logs(rate_limit=10)), told=False),
        Kind(sh("one-file", steady, log_file=f"{home.folder}/both.log", error_log_file=f"{home.folder}/both.log")),
        Kind(sh("code-3", "say; say; say; sleep 0.3; leave 3", **again), restarts=True),
        Kind(sh("code-0", "say; sleep 0.5; leave 0", **again), restarts=True),
        Kind(python("code-7", "say(); time.sleep(0.4); leave(7)\n", **again), restarts=True),
        Kind(sh("job-0", "say; leave 0", restart=NEVER), code=0),
        Kind(sh("job-5", "for i in 1 2 3 4 5 6 7 8 9 10; do say; sleep 0.1; done; leave 5", restart=NEVER), code=5),
        Kind(sh("stopped-and-started", steady)),
        Kind(sh("restarted", steady)),
        Kind(sh("hooked", "echo >&5; " + steady, ready="fd:5", hooks=hooks)),
        Kind(python("notifies", NOTIFY + py.format(pause=0.1, code=0), ready="notify")),
        Kind(sh("listens", steady, listen=[f"unix:{ledger}/listens.sock"])),
        Kind(home.sh("reloaded", BESIDE, env={"LEDGER": str(ledger)}, ready="log:^ready$"), told=False, replaced=True),
    ]
    return {kind.spec.name: kind for kind in kinds}


HANDLED = ("stopped-and-started", "restarted", "hooked", "notifies", "reloaded")
"""Those that commands end and start."""


class Run(NamedTuple):
    pid: int
    code: int | None
    lines: int | None
    """None: it was killed."""


def runs(home: Home, name: str, index: int) -> list[Run]:
    """By the ledger. Fails on one that was started beside another."""
    found: list[Run] = []
    path = home.folder / "ledger" / f"{name}.{index}"
    if not path.exists():
        return []
    # A write over the end of a page is there in two steps.
    for line in path.read_text().rpartition("\n")[0].splitlines():
        word, pid, *rest = line.split()
        assert word != "double", f"{name}: a second copy beside {pid}"
        if word == "start":
            found.append(Run(int(pid), None, None))
        else:
            assert found and found[-1].pid == int(pid), (name, line)
            found[-1] = Run(int(pid), int(rest[0]), int(rest[1]))
    return found


_LINE = re.compile(r"(\d+) (\d+)( x{900})?")


class Lines(NamedTuple):
    number: int
    dropped: int
    """Bytes that a notice in the log tells of."""


def printed(path: str, format: str) -> Iterator[str]:
    for one in [*rotated_files(path), path]:
        if not os.path.exists(one):
            continue
        with gzip.open(one, "rt") if one.endswith(".gz") else open(one) as file:
            for line in file:
                if format == "cri":
                    yield line.split(" ", 3)[3]
                else:
                    yield json.loads(line)["message"] if format == "json" else line


def check_lines(home: Home, kind: Kind, index: int, cut: Container[int] = ()) -> Lines:
    """Every line of every run once and in order; of a run that was killed those up to its last, and of those in `cut`
    those up to some line."""
    spec = kind.spec
    name = instance_name(spec.name, index, spec.instances)
    path = log_paths(spec, index, home.places.logs)[0]
    count = dropped = 0
    at = (1, 0)
    history = runs(home, spec.name, index)
    told_loss = not kind.told
    for text in printed(path, spec.logs.format):
        notice = re.match(r"oxmgr: (\d+) ", text)
        if notice:
            dropped += int(notice[1])
            told_loss = True
            continue
        found = _LINE.fullmatch(text.rstrip("\n"))
        if text == "Terminated\n":
            continue  # what a shell says of a child
        if found is None:
            assert told_loss, (name, text)
            continue
        here = int(found[1]), int(found[2])
        if here != at:
            run = history[at[0] - 1]
            whole = run.lines in (None, at[1]) or at[0] in cut
            ended = here == (at[0] + 1, 0) and whole
            skipped = [one for number, one in enumerate(history, 1) if at[0] < number < here[0] and number not in cut]
            killed = here[0] > at[0] and here[1] == 0 and whole and not any(one.lines for one in skipped)
            assert ended or killed or (told_loss and here > at), (
                f"{name}: line {here} where {at} was to come, {run}, those cut {cut}"
            )
        at = here[0], here[1] + 1
        count += 1
        told_loss = not kind.told
    last = history[-1]
    if last.lines and kind.told:
        assert at == (len(history), last.lines) or told_loss or len(history) in cut, (
            f"{name}: its last line is {at}, of {last}"
        )
    return Lines(count, dropped)


def check_runs(home: Home, kind: Kind, index: int) -> int:
    """Nobody who ran was started again; the number of runs."""
    history = runs(home, kind.spec.name, index)
    assert history, kind.spec.name
    if kind.code is not None:
        assert len(history) == 1, f"{kind.spec.name} was run again: {history}"
    elif not kind.restarts and kind.spec.name not in HANDLED:
        assert len(history) == 1, f"{kind.spec.name} was started again: {history}"
    return len(history)


def alive(home: Home, name: str) -> list[int]:
    """The runs of an app of one instance that have not ended."""
    found = []
    for run in runs(home, name, 0):
        try:
            state = Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()[0]
            born = Path(f"/proc/{run.pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The number may be another's by now.
        if state != "Z" and f"LEDGER={home.folder}/ledger".encode() in born and f"OXMGR_APP={name}".encode() in born:
            found.append(run.pid)
    return found


def check_hooks(home: Home) -> None:
    """None was left out, but those that were told of as failed: each start has had its own, and each end too, for nobody
    ends but who is stopped."""
    path = home.folder / "ledger" / "hooks"
    words = path.read_text().split() if path.exists() else []
    history = runs(home, "hooked", 0)
    ends = sum(run.code is not None for run in history)
    told = Path(home.places.daemon_log).read_text()
    starts, stops = (
        words.count(hook) + told.count(f"hooked hook-failed {hook}: ") for hook in ("pre_start", "pre_stop")
    )
    assert starts >= len(history) and stops >= ends, (starts, stops, len(history), ends)


def cut_short(home: Home, kind: Kind, index: int) -> int:
    """Runs that were killed although nobody asked for it: those that a daemon had started, and died before it could
    write down. The next one ends what it finds of them, and starts anew."""
    return sum(run.code is None for run in runs(home, kind.spec.name, index)[:-1])


def clean_up_names(folder: Path) -> list[str]:
    """Temporary files of ours below it."""
    ends = (".new", ".part", "~next", ".tmp")
    return [str(path) for path in folder.rglob("*") if path.name.endswith(ends)]

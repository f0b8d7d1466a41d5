"""What an instance is, what can happen to it, and what its lifecycle asks to be done: the words of the table in
oxmgr/lifecycle/machine.py."""

from oxmgr.model import status as is_
from oxmgr.model.codec import Struct

GATE = "gate"
SPAWN = "spawn"
SIGNAL = "signal"
KILL = "kill"
END_REST = "end rest"

START = "start"
RUN = "run"
DECIDE = "decide"
FAIL = "fail"


class Note(Struct, frozen=True, gc=False):
    """An effect: `kind` is one of the kinds of oxmgr.model.messages.Event."""

    kind: str
    reason: str = ""


class State(Struct, frozen=True, gc=False):
    """Where an instance stands.

    `then` is what follows a stop: nothing, START, RUN (START, and a job does not wait), DECIDE (its main process had
    ended by itself and the rest of its tree is being ended), or FAIL (it is ended because it does not do its work:
    `cause` says what is wrong). `stopping` is when its stop began; `killed`: its tree was sent SIGKILL. `crashes`
    counts failures in a row, `streak` restarts in a row, `restarts` and `oom_kills` those since the last reset.
    `exit_code`, `signal` and `cause` (what more is known of it) are the last main process's, which ended at `ended`.
    `reason` says why it is so. `scheduled`: a job's time has come.
    """

    status: str = is_.STOPPED
    desired: bool = False
    pid: int = 0
    started: float = 0.0
    deadline: float | None = None
    then: str = ""
    killed: bool = False
    stopping: float = 0.0
    restarts: int = 0
    crashes: int = 0
    streak: int = 0
    exit_code: int | None = None
    signal: int | None = None
    cause: str = ""
    oom_kills: int = 0
    ended: float = 0.0
    reason: str = ""
    scheduled: bool = False


class Start(Struct, frozen=True, gc=False):
    """A user or a new daemon wants it to run."""


class Hold(Struct, frozen=True, gc=False):
    """A dependency is not there yet; the reason names it."""

    reason: str


class Go(Struct, frozen=True, gc=False):
    """Nothing has to be waited for any more."""


class Stop(Struct, frozen=True, gc=False):
    """It shall not run. `keep`: only for now (the daemon is ending); what is desired stays. `signalled`: because the
    daemon was sent a signal, and perhaps everybody else with it."""

    keep: bool = False
    signalled: bool = False


class Restart(Struct, frozen=True, gc=False):
    """`run`: a job is run now, and does not wait for its time."""

    run: bool = False


class Planned(Struct, frozen=True, gc=False):
    """It is known for when a job waits: the reason says so."""

    reason: str


class Due(Struct, frozen=True, gc=False):
    """A time of its schedule has come; the reason names it."""

    reason: str


class Changed(Struct, frozen=True, gc=False):
    """Something that is watched has changed; the reason says what."""

    reason: str


class Spawned(Struct, frozen=True, gc=False):
    pid: int


class SpawnFailed(Struct, frozen=True, gc=False):
    """`final`: there is no use in trying again."""

    reason: str
    final: bool = False


class Adopted(Struct, frozen=True, gc=False):
    """An earlier daemon's process was found alive; it began `age` seconds ago, and has said that it is `ready`."""

    pid: int
    age: float
    ready: bool = True


class Exited(Struct, frozen=True, gc=False):
    """The main process has ended; both None: how is not known. `empty`: nothing is left of its tree. `oom_kills` is
    1 when the kernel has killed it because memory ran out, and `cause` says whose."""

    exit_code: int | None
    signal: int | None
    empty: bool = True
    oom_kills: int = 0
    cause: str = ""


class Remains(Struct, frozen=True, gc=False):
    """Something of it was found alive, but not its main process."""


class Exceeded(Struct, frozen=True, gc=False):
    """It is above a soft limit; the reason says above which."""

    reason: str


class Ready(Struct, frozen=True, gc=False):
    """It does its work from now on."""


class Failing(Struct, frozen=True, gc=False):
    """It runs and does not do its work: the reason says what is wrong. It is restarted as after a crash."""

    reason: str


class Extended(Struct, frozen=True, gc=False):
    """It asks for this many more seconds, from now on, to get ready or to end."""

    seconds: float


class Emptied(Struct, frozen=True, gc=False):
    pass


class Tick(Struct, frozen=True, gc=False):
    """The deadline has come. `missing`: what it was asked last and how that went, if it was to get ready."""

    missing: str = ""


class Reset(Struct, frozen=True, gc=False):
    """Counters back to zero."""


EVENTS = (
    *(Start, Hold, Go, Stop, Restart, Planned, Due, Changed, Spawned, SpawnFailed, Adopted, Remains),
    *(Exited, Emptied, Exceeded, Ready, Failing, Extended, Tick, Reset),
)
Event = (
    Start
    | Hold
    | Go
    | Stop
    | Restart
    | Planned
    | Due
    | Changed
    | Spawned
    | SpawnFailed
    | Adopted
    | Remains
    | Exited
    | Emptied
    | Exceeded
    | Ready
    | Failing
    | Extended
    | Tick
    | Reset
)

Effect = str | Note

"""What is known of an app and of each of its copies. Only data: who changes it is said at each part."""

from oxmgr.lifecycle.alerts import NOTHING
from oxmgr.lifecycle.events import State
from oxmgr.model import status as is_
from oxmgr.model.spec import NO_LIMITS, Spec, instance_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.endpoints import Ends

    Owner = tuple[str, int, int]
    """An app's name, an instance's number, and its run: what a process is born with."""

    from oxmgr.supervisor.loop import Timer
    from oxmgr.supervisor.native import Child
    from oxmgr.supervisor.output import Direct, Output
    from oxmgr.supervisor.process import Process
    from oxmgr.supervisor.sockets import Held


NO_MARKS: dict[str, int] = {}


class Instance:
    """One copy of an app. `run` tells those apart that replace each other.

    Trees': `session` is the number of its last main process, whose session its tree is in; `foreign`: that process was
    an earlier daemon's child. The launcher's: `cgroup` is its folder or "", `limited` what that folder has of limits,
    `worn`: it is to be made anew before the next start, under a number (`generation`) when the old one will not go,
    `ooms` what its memory.events said last, `network` an fd of its private namespace or -1, `pending`: a start is being
    prepared, `prepared`: what is run before it has been, `spawning` is the child that a thread makes, `outputs` what
    its fds 1 and 2 go to, one for both or one each (`wired`: by that spec), `unstarted` the exit code that stands for a
    start that failed, or 0, `warnings` what of its spec this host does not hold, `marks` where in its log files this
    run begins, `born` the spec that this run was started by (None: an earlier one than its app's, which is not known
    any more) and `made` its fingerprint (oxmgr.supervisor.plan), `ends` our ends of what else it was born with,
    `status_text` its last STATUS (oxmgr.supervisor.notify). The fleet's: the others; `extra`: it is not the one that
    users see, but one that it has replaced, or that is to replace it; `gone`: it was removed; `stuck` is why it cannot
    be killed, or ""; `failures` are those of its health check in a row; `untold`: it is to stop, and has not had the
    stop signal yet.
    """

    __slots__ = (
        *(
            "app",
            "born",
            "cgroup",
            "ends",
            "foreign",
            "generation",
            "gone",
            "index",
            "leaving",
            "limited",
            "marks",
            "network",
        ),
        *("ooms", "outputs", "pending", "process", "session", "spawning", "started_at", "state", "stuck", "ticks"),
        *("extra", "failures", "made", "prepared", "run", "status_text", "timer", "unstarted", "untold", "warnings"),
        *("wired", "worn"),
    )

    def __init__(self, app: "App", index: int, run: int = 0) -> None:
        self.app = app
        self.index = index
        self.run = run
        self.extra = False
        self.state = State()
        self.process: Process | None = None
        self.session = 0
        self.foreign = False
        self.cgroup = ""
        self.limited = NO_LIMITS
        self.worn = False
        self.generation = 0
        self.ooms = (0, 0)
        self.network = -1
        self.pending = False
        self.prepared = False
        self.spawning: Child | None = None
        self.stuck = ""
        self.ends: Ends | None = None
        self.status_text = ""
        self.outputs: tuple[Output | Direct, ...] = ()
        self.wired: Spec | None = None
        self.born: Spec | None = None
        self.made = 0
        self.unstarted = 0
        self.warnings: list[str] = []
        self.marks: dict[str, int] = NO_MARKS
        self.started_at = 0.0
        self.ticks = 0
        self.timer: Timer | None = None
        self.leaving = False
        self.untold = False
        self.failures = 0
        self.gone = False

    @property
    def name(self) -> str:
        return instance_name(self.app.spec.name, self.index, self.app.spec.instances)

    @property
    def folder(self) -> str:
        """The name of its cgroup and of its FIFO: with a colon, which no app's name has. Its own also while it replaces
        another of the same number, or is replaced."""
        return f"{self.pipes}+{self.run}" if self.run else self.pipes

    @property
    def pipes(self) -> str:
        """The name of the pipes that it prints to: those of the one that it replaces."""
        return f"{self.app.spec.name}:{self.index}"

    @property
    def owner(self) -> "Owner":
        return self.app.spec.name, self.index, self.run

    @property
    def stale(self) -> bool:
        """Whether it runs by an earlier spec than its app's, which needs another process."""
        return self.state.pid > 0 and self.made != self.app.made

    @property
    def down(self) -> bool:
        return self.state.status in is_.DOWN


class App:
    """`environ` is what its starter had, as NUL-terminated `KEY=value`; `alerting` what was told of its troubles,
    `made` the fingerprint of its spec. `troubles`: what of its spec does not work now, by the key that asks for it. The
    schedules': `done_until` is the Unix time up to which its times are done (0: none yet), `next_run` the next one, as
    far as it is known. `sockets` are those that are held for it, by place and owner (oxmgr.supervisor.sockets), or
    None."""

    __slots__ = ("alerting", "done_until", "environ", "instances", "made", "next_run", "sockets", "spec", "troubles")

    def __init__(self, spec: Spec, environ: bytes) -> None:
        self.spec = spec
        self.environ = environ
        self.made = 0
        self.instances: dict[int, Instance] = {}
        self.alerting = NOTHING
        self.troubles: dict[str, str] = {}
        self.done_until = 0.0
        self.next_run: int | None = None
        self.sockets: dict[tuple[str, int], Held] | None = None

"""The commands that users want run around starts and stops: as children, each with its time."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.chores import Chore, Chores
    from oxmgr.supervisor.events import Events
    from oxmgr.supervisor.instance import Instance

FAILED = "hook-failed"


class HookRunner:
    """One at a time for an instance, and those of which only a failure is told."""

    def __init__(self, chores: "Chores", events: "Events") -> None:
        self.ended: Callable[[], object] = lambda: None
        """Called when one has ended that nobody waits for."""
        self._chores = chores
        self._events = events
        self._waited: dict[Instance, Chore] = {}
        self._aside = 0

    @property
    def idle(self) -> bool:
        """Whether none runs that nobody waits for."""
        return self._aside == 0

    def before(self, kind: str, instance: "Instance", go: "Callable[[str], object]") -> bool:
        """Whether there is such a hook. `go` is called when it has ended: with "", or with why it failed."""
        command = getattr(instance.app.spec.hooks, kind)
        if not command:
            return False

        def done(why: str) -> None:
            self._waited.pop(instance, None)
            if why:
                self._events.tell(FAILED, instance, instance.state, f"{kind}: {why}")
            go(why)

        self.drop(instance)
        self._waited[instance] = self._run(kind, instance, command, done)
        return True

    def drop(self, instance: "Instance") -> None:
        """What is run before something that is not to happen any more is ended."""
        chore = self._waited.pop(instance, None)
        if chore is not None:
            chore.close()

    def after(self, kind: str, instance: "Instance") -> None:
        command = getattr(instance.app.spec.hooks, kind)
        if not command:
            return

        def done(why: str) -> None:
            self._aside -= 1
            if why:
                self._events.tell(FAILED, instance, instance.state, f"{kind}: {why}")
            self.ended()

        self._run(kind, instance, command, done)
        self._aside += 1

    def _run(self, kind: str, instance: "Instance", command: str, done: "Callable[[str], object]") -> "Chore":
        env = {"OXMGR_HOOK": kind}
        if instance.state.pid:
            env["OXMGR_PID"] = str(instance.state.pid)
        return self._chores.run(instance, command, instance.app.spec.hooks.timeout_secs, done, **env)

"""An instance as others see it: in the journal, and in what clients are told."""

import time

from oxmgr.model import messages
from oxmgr.model import status as is_
from oxmgr.model.signals import signal_name
from oxmgr.supervisor.limits import wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.instance import Instance


def observed(instance: "Instance") -> messages.Observed:
    state = instance.state
    due = 0.0 if state.deadline is None else time.time() + state.deadline - time.monotonic()
    return messages.Observed(
        instance.app.spec.name,
        instance.index,
        state.status,
        state.pid,
        instance.ticks,
        instance.started_at,
        state.restarts,
        state.crashes,
        state.streak,
        state.exit_code,
        state.signal,
        state.reason,
        session=instance.session if state.status in is_.LIVE else 0,
        cgroup=instance.cgroup,
        oom_kills=state.oom_kills,
        due=due,
        then=state.then,
        ooms=instance.ooms,
    )


def view(instance: "Instance", files: tuple[str, str]) -> messages.InstanceView:
    """`files` are those of its stdout and stderr."""
    spec, state = instance.app.spec, instance.state
    alive = bool(state.pid)
    return messages.InstanceView(
        name=instance.name,
        app=spec.name,
        instance=instance.index,
        namespace=spec.namespace,
        status=state.status,
        desired=is_.RUNNING if state.desired else is_.STOPPED,
        pid=state.pid or None,
        restarts=state.restarts,
        exit_code=state.exit_code,
        signal=None if state.signal is None else signal_name(state.signal),
        reason=instance.stuck or state.reason,
        ready=state.status == is_.RUNNING,
        health=None,
        started_at=instance.started_at if alive else None,
        uptime_ms=int((time.monotonic() - state.started) * 1000) if alive else None,
        cpu_percent=None,
        memory_bytes=None,
        tasks=None,
        command=spec.command,
        working_dir=spec.working_dir,
        log_file=files[0],
        error_log_file=files[1],
        cgroup=instance.cgroup or None,
        oom_kills=state.oom_kills,
        limits=wanted(spec.limits),
        warnings=[
            *instance.warnings,
            *(output.trouble for output in dict.fromkeys(instance.outputs.values()) if output.trouble),
        ],
    )

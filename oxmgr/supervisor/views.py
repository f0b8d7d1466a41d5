"""An instance as others see it: in the journal, and in what clients are told."""

import time

from oxmgr.model import messages
from oxmgr.model import status as is_
from oxmgr.model.views import instance_view
from oxmgr.supervisor.instance import NO_MARKS
from oxmgr.supervisor.sockets import held_places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.instance import Instance


def observed(instance: "Instance") -> messages.Observed:
    state = instance.state
    untold = instance.untold and state.status == is_.STOPPING
    due = 0.0 if state.deadline is None or untold else time.time() + state.deadline - time.monotonic()
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
        run=instance.run,
        extra=instance.extra,
        done_until=_done_until(instance),
        marks=instance.marks if state.status == is_.STARTING else NO_MARKS,
        failures=instance.failures,
        made=instance.made,
        status_text=instance.status_text,
    )


def _done_until(instance: "Instance") -> float:
    """A run that has not begun is not done."""
    app, state = instance.app, instance.state
    begins = state.scheduled and state.status in (is_.WAITING, is_.STARTING)
    return app.done_until - 1 if begins and app.done_until else app.done_until


def view(instance: "Instance", files: tuple[str, str], health: str | None) -> messages.InstanceView:
    """`files` are those of its stdout and stderr."""
    state = instance.state
    made = instance_view(
        instance.app.spec,
        observed(instance),
        files,
        desired=state.desired,
        uptime_ms=int((time.monotonic() - state.started) * 1000) if state.pid else None,
    )
    made.health = health
    made.reason = instance.stuck or state.reason
    made.next_run = None if instance.down else instance.app.next_run
    made.warnings = [
        *instance.warnings,
        *instance.app.troubles.values(),
        *(output.trouble for output in instance.outputs if output.trouble),
    ]
    made.sockets = held_places(instance)
    made.status_text = instance.status_text
    return made

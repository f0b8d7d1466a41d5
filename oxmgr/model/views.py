"""An instance as it is shown, of what is wished for and what was seen of it: by the daemon, and by whoever reads its
files when none runs. Pure."""

from oxmgr.model import status as is_
from oxmgr.model.messages import InstanceView, Observed
from oxmgr.model.signals import signal_name
from oxmgr.model.spec import Limits, Spec, instance_name

NO_AMOUNTS = ("cpu_window_secs", "required")
AMOUNTS = tuple(key for key in Limits.__struct_fields__ if key not in NO_AMOUNTS)


def instance_view(
    spec: Spec, seen: Observed, files: tuple[str, str], *, desired: bool, uptime_ms: int | None
) -> InstanceView:
    """`files` are those of its stdout and stderr. `uptime_ms` None: it has no process."""
    alive = uptime_ms is not None
    return InstanceView(
        name=instance_name(spec.name, seen.index, spec.instances),
        app=spec.name,
        instance=seen.index,
        namespace=spec.namespace,
        status=seen.status,
        desired=is_.RUNNING if desired else is_.STOPPED,
        pid=seen.pid if alive else None,
        restarts=seen.restarts,
        exit_code=seen.exit_code,
        signal=None if seen.signal is None else signal_name(seen.signal),
        reason=seen.reason,
        ready=seen.status == is_.RUNNING,
        health=None,
        started_at=seen.started_at if alive else None,
        uptime_ms=uptime_ms,
        cpu_percent=None,
        memory_bytes=None,
        tasks=None,
        command=spec.command,
        working_dir=spec.working_dir,
        log_file=files[0],
        error_log_file=files[1],
        cgroup=seen.cgroup or None,
        oom_kills=seen.oom_kills,
        limits=set_limits(spec.limits),
    )


def set_limits(limits: Limits) -> dict[str, float | str]:
    """Those that are set, without what says how and not how much."""
    return {key: value for key in AMOUNTS if (value := getattr(limits, key)) is not None}

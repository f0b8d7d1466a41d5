"""`oxmgr status`: all there is to say of an instance."""

import sys

from oxmgr.cli.context import look, show_last_lines, show_views
from oxmgr.cli.output import STATUS_COLOURS, YELLOW, duration, moment, paint, print_json, printable, size, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.model.messages import DONE, InstanceView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.cli.details import Pressure, Usage

Pairs = list[tuple[str, str | None]]


def run(args: Args) -> int:
    views, code = look(args.words)
    if not args.words and not args.flag("json"):
        # Without a daemon and with nothing saved, that has been said.
        if views or code == DONE:
            show_views(views, args)
        return code
    from oxmgr.cli.details import look_closely

    usages = look_closely(views)
    if args.flag("json"):
        keys = InstanceView.__struct_fields__
        whole = [
            {key: getattr(view, key) for key in keys} | {"usage": usage}
            for view, usage in zip(views, usages, strict=True)
        ]
        print_json(whole)
        return code
    for number, (view, usage) in enumerate(zip(views, usages, strict=True)):
        sys.stdout.write(("\n" if number else "") + _block(view, usage))
        if view.status in ("backoff", "errored", "waiting") or (view.status == "exited" and view.exit_code):
            sys.stdout.flush()
            show_last_lines(view)
    return code


def _block(view: InstanceView, usage: "Usage") -> str:
    colour = wants_colour(1)
    status = paint(view.status, STATUS_COLOURS.get(view.status, ""), colour)
    up = None
    if view.uptime_ms is not None:
        up = f"{duration(view.uptime_ms / 1000)}, since {moment(view.started_at or 0)}"
    rows: Pairs = [
        ("status", status + (f", {printable(view.reason)}" if view.reason else "")),
        ("says", printable(view.status_text) or None),
        ("desired", view.desired),
        ("pid", None if view.pid is None else str(view.pid)),
        ("up", up),
        ("restarts", str(view.restarts)),
        ("next run", None if view.next_run is None else moment(view.next_run)),
        ("last exit", view.signal or (None if view.exit_code is None else f"exit code {view.exit_code}")),
        *_usage_rows(usage),
        *[("warning", paint(printable(text), YELLOW, colour)) for text in view.warnings],
        *[("listens at", printable(place)) for place in view.sockets],
        ("namespace", view.namespace),
        ("command", printable(view.command)),
        ("folder", printable(view.working_dir)),
        ("stdout", printable(view.log_file)),
        ("stderr", printable(view.error_log_file)),
        ("cgroup", view.cgroup),
    ]
    lines = [paint(view.name, "1", colour)]
    lines += [f"  {key:10} {value}" for key, value in rows if value is not None]
    return "\n".join(lines) + "\n"


def _usage_rows(usage: "Usage") -> Pairs:
    """What is known of it and worth a line."""
    now, average = usage.cpu_percent_now, usage.cpu_percent_since_start
    parts = [] if now is None else [f"{now:.1f}% of a core now"]
    parts += [] if average is None else [f"{average:.1f}%{'' if parts else ' of a core'} since its start"]
    rows: Pairs = [
        ("cpu", ", ".join(parts) or None),
        ("memory", None if usage.memory_bytes is None else size(usage.memory_bytes)),
        ("peak", None if usage.memory_peak_bytes is None else size(usage.memory_peak_bytes)),
        ("swap", size(usage.swap_bytes) if usage.swap_bytes else None),
        ("tasks", None if usage.tasks is None else str(usage.tasks)),
    ]
    if usage.throttled_periods:
        times = f"{usage.throttled_periods} time{'' if usage.throttled_periods == 1 else 's'}"
        rows.append(("throttled", f"{times}, {(usage.throttled_usec or 0) / 1e6:.1f} s in all"))
    named = {"memory": usage.memory_pressure, "cpu": usage.cpu_pressure, "io": usage.io_pressure}
    rows += [("pressure", f"{name}: {_pressure(one)}") for name, one in named.items() if one and _is_felt(one)]
    if usage.oom_kills:
        rows.append(("oom kills", str(usage.oom_kills)))
    for key, one in usage.limits.items():
        limit = one.limit if isinstance(one.limit, str) else f"{one.limit:.15g}"
        rows.append(("limit", f"{key} {limit}" + ("" if one.used is None else f", uses {one.used:.15g}")))
    return rows


def _is_felt(pressure: "Pressure") -> bool:
    return bool(pressure.some_avg10 or pressure.full_avg10)


def _pressure(pressure: "Pressure") -> str:
    parts = {"some": pressure.some_avg10, "full": pressure.full_avg10}
    told = ", ".join(f"{kind} {value:.2f}%" for kind, value in parts.items() if value is not None)
    return f"{told} of the last 10 s"

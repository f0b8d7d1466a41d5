"""`oxmgr status`: all there is to say of an instance."""

import sys

from oxmgr.cli.context import look, show_last_lines, show_views
from oxmgr.cli.output import STATUS_COLOURS, duration, moment, paint, printable, size, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.cli.usage import add_usage
from oxmgr.model.messages import DONE, InstanceView


def run(args: Args) -> int:
    views, code = look(args.words)
    if args.flag("json") or not args.words:
        # Without a daemon and with nothing saved, that has been said.
        if views or code == DONE or args.flag("json"):
            show_views(views, args)
        return code
    add_usage(views)
    for number, view in enumerate(views):
        sys.stdout.write(("\n" if number else "") + _block(view))
        if view.status in ("backoff", "errored", "waiting") or (view.status == "exited" and view.exit_code):
            sys.stdout.flush()
            show_last_lines(view)
    return code


def _block(view: InstanceView) -> str:
    colour = wants_colour(1)
    status = paint(view.status, STATUS_COLOURS.get(view.status, ""), colour)
    pairs: list[tuple[str, str | None]] = [
        ("status", status + (f", {printable(view.reason)}" if view.reason else "")),
        ("desired", view.desired),
        ("pid", None if view.pid is None else str(view.pid)),
        (
            "up",
            None
            if view.uptime_ms is None
            else f"{duration(view.uptime_ms / 1000)}, since {moment(view.started_at or 0)}",
        ),
        ("restarts", str(view.restarts)),
        ("last exit", view.signal or (None if view.exit_code is None else f"exit code {view.exit_code}")),
        ("cpu", None if view.cpu_percent is None else f"{view.cpu_percent:.1f}% of a core, since its start"),
        ("memory", None if view.memory_bytes is None else size(view.memory_bytes)),
        ("tasks", None if view.tasks is None else str(view.tasks)),
        ("namespace", view.namespace),
        ("command", printable(view.command)),
        ("folder", printable(view.working_dir)),
        ("stdout", printable(view.log_file)),
        ("stderr", printable(view.error_log_file)),
    ]
    lines = [paint(view.name, "1", colour)]
    lines += [f"  {key:10} {value}" for key, value in pairs if value is not None]
    return "\n".join(lines) + "\n"

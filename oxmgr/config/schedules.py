"""What the keys of schedules and watches mean together."""

from oxmgr.model.spec import ALWAYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Fail = Callable[[str, str], None]

_NEED = (
    ("timezone", ("schedule", "restart_schedule")),
    ("catch_up", ("schedule", "restart_schedule")),
    ("overlap", ("schedule",)),
    ("watch_extensions", ("watch",)),
    ("watch_ignore", ("watch",)),
    ("watch_delay_ms", ("watch",)),
)
"""(a key, those without which it says nothing)"""


def check_schedule(read: dict[str, object], own: "Callable[[str], bool]", fail: "Fail") -> None:
    """Of an app's values by their keys; `own` says of a key whether it stands in the app's own table and not in
    [defaults], where it may be meant for others. `fail` gets a key and what is wrong."""
    for key, needed in _NEED:
        if key in read and own(key) and not any(read.get(one) for one in needed):
            fail(key, f"says nothing without {' or '.join(needed)}")
    if not read.get("schedule"):
        read.pop("overlap", None)
        return
    if read.get("restart_schedule"):
        fail("restart_schedule", "there is a schedule as well: an app is either run at its times, or restarted")
    instances = read.get("instances", 1)
    if read.get("overlap") and isinstance(instances, int) and instances < 2:
        fail("overlap", "needs instances = 2 or more: as many runs may be at a time")
    if read["restart"] == ALWAYS:
        fail("schedule", 'a job that is always restarted has no end: write restart = "never" or "on-failure"')

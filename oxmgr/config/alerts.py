"""`[alerts]`, `[processes.NAME.alerts]` → Alerts."""

from oxmgr.config.sandbox import Caller, Tell
from oxmgr.model.spec import Alerts


def make_alerts(values: dict[str, object], caller: Caller, tell: Tell) -> Alerts:
    """From values that were read one by one; `tell` gets what is wrong with them together."""
    rest = dict(values)
    command = rest.pop("command", None)
    if "headers" in rest and "webhook" not in rest:
        tell("are for a webhook, and there is none", "headers")
    return Alerts(command=command[0] if isinstance(command, tuple) else [], **rest)  # type: ignore[arg-type]

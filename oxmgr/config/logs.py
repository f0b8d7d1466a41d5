"""`[processes.NAME.logs]` → Logs."""

from oxmgr.config.sandbox import Caller, Tell
from oxmgr.model.spec import Logs


def make_logs(values: dict[str, object], caller: Caller, tell: Tell) -> Logs:
    """From values that were read one by one; `tell` gets what is wrong with them together."""
    logs = Logs(**values)  # type: ignore[arg-type]
    if logs.sink != "file" and logs.format != "raw":
        tell(f'format = "{logs.format}" is for files, and sink is "{logs.sink}"', "format", "sink")
    if logs.sink in ("inherit", "none") and logs.rate_limit is not None:
        tell(f'rate_limit: with sink = "{logs.sink}" nothing passes through oxmgr', "rate_limit", "sink")
    return logs

"""`[processes.NAME.health_check]` → HealthCheck."""

from oxmgr.config.sandbox import Caller, Tell
from oxmgr.model.spec import HealthCheck

PROBES = ("endpoint", "tcp", "command")
ASKS_NOTHING = 'asks nothing: write endpoint = "http://…", tcp = PORT or command = "…"'


def make_health_check(values: dict[str, object], caller: Caller, tell: Tell) -> HealthCheck:
    """From values that were read one by one; `tell` gets what is wrong with them together."""
    given = [key for key in PROBES if key in values]
    if not given:
        tell(ASKS_NOTHING, *values)
    if len(given) > 1:
        tell(f"{' and '.join(given)}: write one of them", *given)
    return HealthCheck(**values)  # type: ignore[arg-type]

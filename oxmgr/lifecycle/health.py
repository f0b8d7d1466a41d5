"""Whether an app is healthy, from what its checks found. Pure."""

from oxmgr.model.codec import Struct

HEALTHY = "healthy"
UNHEALTHY = "unhealthy"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.spec import HealthCheck


class Health(Struct, frozen=True, gc=False):
    """`status` is "" as long as nothing is known, HEALTHY or UNHEALTHY; `row` counts the last results that were alike:
    successes when it is positive, failures when it is negative."""

    status: str = ""
    row: int = 0


def judge(health: Health, check: "HealthCheck", success: bool) -> Health:
    """After one more result."""
    row = max(health.row, 0) + 1 if success else min(health.row, 0) - 1
    status = health.status
    if row >= check.healthy_threshold:
        status = HEALTHY
    elif -row >= check.unhealthy_threshold:
        status = UNHEALTHY
    return Health(status, row)

"""`[processes.NAME.limits]` → Limits."""

from oxmgr.config.sandbox import Caller, Tell
from oxmgr.model.spec import Limits

_BELOW = (
    ("memory_high_mb", "memory_max_mb", "the kernel would kill before it slows down"),
    ("memory_mb", "memory_max_mb", "the kernel would kill before the graceful restart"),
)
"""(what must not be more, than what, why)"""


def make_limits(values: dict[str, object], caller: Caller, tell: Tell) -> Limits:
    """From values that were read one by one; `tell` gets what is wrong with them together."""
    limits = Limits(**values)  # type: ignore[arg-type]
    for lower, upper, why in _BELOW:
        low, high = getattr(limits, lower), getattr(limits, upper)
        if low is not None and high is not None and low > high:
            tell(f"{lower} ({low:.15g}) is above {upper} ({high:.15g}): {why}", lower, upper)
    return limits

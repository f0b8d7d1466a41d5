"""How long to wait before a restart."""

from oxmgr.model.spec import Spec

BASE_MS = 100
JITTER = 0.1


def restart_delay(spec: Spec, streak: int, roll: float) -> float:
    """Seconds before the restart that follows `streak` restarts in a row; `roll` in [0, 1) spreads them.

    Without `restart_delay_ms` the first is at once; each later one doubles, up to `restart_delay_max_ms`, of
    which 0 means that there is never a delay. A `restart_delay_ms` above the maximum is the maximum.
    """
    if spec.restart_delay_max_ms == 0:
        return 0.0
    base, doublings = spec.restart_delay_ms, streak
    if base is None:
        if streak == 0:
            return 0.0
        base, doublings = BASE_MS, streak - 1
    most = max(base, spec.restart_delay_max_ms)
    delay = min(base << min(doublings, 30), most)
    spread = delay * JITTER * roll
    # At the maximum it is spread downwards, or all that have come to it would start at the same moments.
    return (delay + spread if delay + spread <= most else max(base, delay - spread)) / 1000.0

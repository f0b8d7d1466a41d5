"""Who waits for whom. Pure."""

from oxmgr.model import status as is_
from oxmgr.model.spec import EXITED, READY, STARTED, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Dependency:
    """What `unmet` needs to know of an app that others depend on: one (status, exit code, whether it has a process) an
    instance."""

    __slots__ = ("instances", "spec")

    def __init__(self, spec: Spec, instances: list[tuple[str, int | None, bool]]) -> None:
        self.spec = spec
        self.instances = instances


def unmet(spec: Spec, find: dict[str, Dependency]) -> str | None:
    """Why an app may not start yet, as words, or None when it may.

    `started`: every instance runs, ready or not. `ready`: every instance is `running`. `exited`: every instance has
    finished with exit code 0 or one of its stop_exit_codes.
    """
    return next((why for why, _ in _obstacles(spec, find)), None)


def blocked_for_good(spec: Spec, find: dict[str, Dependency]) -> str | None:
    """The same, but only when what it waits for will not come by itself."""
    return next((why for why, final in _obstacles(spec, find) if final), None)


def _obstacles(spec: Spec, find: dict[str, Dependency]) -> "Iterator[tuple[str, bool]]":
    for name, condition in spec.depends_on.items():
        other = find.get(name)
        if other is None:
            yield f"waits for {name}, which is not there: start it, or take it out of depends_on", True
            continue
        for status, code, alive in other.instances:
            if condition == EXITED:
                yield from _until_exited(name, status, code, other.spec)
            elif status != is_.RUNNING and not (condition == STARTED and status == is_.STARTING and alive):
                final = status in is_.DOWN
                to_be = " to be ready" if condition == READY and not final else ""
                yield f"waits for {name}{to_be}" + (f", which is {status}" if final else ""), final


def _until_exited(name: str, status: str, code: int | None, spec: Spec) -> "Iterator[tuple[str, bool]]":
    if status == is_.EXITED:
        if code != 0 and code not in spec.stop_exit_codes:
            yield f"waits for {name} to succeed, but its exit code was {code}", True
    elif status in is_.DOWN:
        yield f"waits for {name} to finish, but it is {status}", True
    else:
        yield f"waits for {name} to finish", False

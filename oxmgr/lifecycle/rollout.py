"""In which order the instances of an app are replaced: pure.

So many at a time (`width`): a new one is started, and when it does its work the old one is stopped; when that is down
it is the next one's turn. The first that does not come to do its work ends it: what was not replaced yet goes on.
"""

from oxmgr.model.codec import Struct, replace

START = "start"
SWAP = "swap"
DROP = "drop"


class Rollout(Struct, frozen=True, gc=False):
    """The numbers of the instances whose turn comes, of those whose new one is `starting`, and of those whose old one
    is `stopping`. `failed` says which new one did not come to do its work, and why; `held`: nothing has begun yet."""

    todo: tuple[int, ...]
    starting: tuple[int, ...] = ()
    stopping: tuple[int, ...] = ()
    failed: tuple[int, str] | None = None
    held: bool = False

    @property
    def over(self) -> bool:
        """What is `todo` and did not fail was not replaced."""
        return not (self.starting or self.stopping or (self.todo and self.failed is None))


Effect = tuple[str, int]
"""START or SWAP or DROP the new one of that number. SWAP: it takes the place of the old one, which is stopped. DROP: it
is stopped."""

Step = tuple[Rollout, tuple[Effect, ...]]


def hold(numbers: "tuple[int, ...]") -> Rollout:
    """These are to be replaced, once something else is done."""
    return Rollout(numbers, held=True)


def begin(state: Rollout, width: int) -> Step:
    return _fill(replace(state, held=False), width)


def ready(state: Rollout, number: int, width: int) -> Step:
    """The new one of that number does its work."""
    if number not in state.starting:
        return state, ()
    starting = tuple(one for one in state.starting if one != number)
    return replace(state, starting=starting, stopping=(*state.stopping, number)), ((SWAP, number),)


def down(state: Rollout, number: int, width: int) -> Step:
    """The old one of that number is down."""
    return _fill(replace(state, stopping=tuple(one for one in state.stopping if one != number)), width)


def failed(state: Rollout, number: int, why: str) -> Step:
    """The new one of that number does not come to do its work."""
    if number not in state.starting:
        return state, ()
    return _end(state, number, why)


def give_up(state: Rollout, why: str) -> Step:
    """Somebody wants something else: what was replaced stays so."""
    left = (*state.starting, *state.todo)
    return _end(state, left[0], why) if left else (state, ())


def _end(state: Rollout, number: int, why: str) -> Step:
    drop = tuple((DROP, one) for one in state.starting)
    todo = (*state.starting, *state.todo)
    return replace(state, todo=todo, starting=(), failed=state.failed or (number, why), held=False), drop


def _fill(state: Rollout, width: int) -> Step:
    if state.failed is not None or state.held:
        return state, ()
    room = max(1, width) - len(state.starting) - len(state.stopping)
    now, later = state.todo[:room] if room > 0 else (), state.todo[max(0, room) :]
    return replace(state, todo=later, starting=(*state.starting, *now)), tuple((START, one) for one in now)

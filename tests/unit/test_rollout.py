"""In which order instances are replaced: any of them may fail, at any time."""

from hypothesis import given
from hypothesis import strategies as st

from oxmgr.lifecycle import rollout
from oxmgr.lifecycle.rollout import DROP, START, SWAP, Rollout


@given(
    count=st.integers(0, 8),
    width=st.integers(1, 4),
    choices=st.lists(
        st.tuples(st.sampled_from(["ready", "down", "failed", "give up"]), st.integers(0, 7)), max_size=60
    ),
)
def test_never_more_than_so_many_at_a_time_and_an_old_one_stays_until_its_new_one_works(
    count: int, width: int, choices: list[tuple[str, int]]
) -> None:
    state, effects = rollout.begin(rollout.hold(tuple(range(count))), width)
    started: list[int] = []
    swapped: list[int] = []
    dropped: list[int] = []

    def carry_out(effects: tuple[rollout.Effect, ...]) -> None:
        for effect, number in effects:
            {START: started, SWAP: swapped, DROP: dropped}[effect].append(number)

    carry_out(effects)
    for what, number in choices:
        before = state
        if what == "ready":
            state, effects = rollout.ready(state, number, width)
            assert (SWAP, number) not in effects or number in before.starting
        elif what == "down" and number in state.stopping:
            state, effects = rollout.down(state, number, width)
        elif what == "failed":
            state, effects = rollout.failed(state, number, "no")
        elif what == "give up" and number == 0:
            state, effects = rollout.give_up(state, "no")
        else:
            continue
        carry_out(effects)
        assert len(state.starting) + len(state.stopping) <= width
        assert len(set(started)) == len(started) and len(set(swapped)) == len(swapped)
        assert not set(swapped) & set(dropped)
        if before.failed is not None:
            assert not any(effect == START for effect, _ in effects), "nothing begins after a failure"
    assert started == list(range(len(started)))
    if state.over:
        assert set(started) == set(swapped) | set(dropped)
        assert {*state.todo} == {*range(count)} - {*swapped}, "whoever was not replaced is known"
        assert (state.failed is None) == (not state.todo)


def test_one_that_fails_ends_it_and_those_that_had_begun_beside_it() -> None:
    state, effects = rollout.begin(rollout.hold((0, 1, 2, 3)), 2)
    assert effects == ((START, 0), (START, 1))
    state, effects = rollout.failed(state, 1, "no database")
    assert effects == ((DROP, 0), (DROP, 1)) and state.over and state.failed == (1, "no database")
    assert state.todo == (0, 1, 2, 3)


def test_nothing_to_do_is_over_at_once() -> None:
    assert rollout.begin(rollout.hold(()), 1) == (Rollout(()), ()) and Rollout(()).over


def test_what_has_not_begun_is_not_over_and_can_be_given_up() -> None:
    state = rollout.hold((0, 1))
    assert not state.over
    state, effects = rollout.give_up(state, "it was stopped")
    assert state.over and state.failed == (0, "it was stopped") and not effects

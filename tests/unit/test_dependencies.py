"""When an app may start, by how those stand that it depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.lifecycle.dependencies import Dependency, blocked_for_good, unmet
from oxmgr.lifecycle.events import GATE, SPAWN, Event, Exited, Go, Hold, Ready, Spawned, Start, State
from oxmgr.lifecycle.machine import step
from oxmgr.model import status as is_
from oxmgr.model.spec import EXITED, NEVER, READY, STARTED, Spec

Standing = list[tuple[str, int | None, bool]]


def needs(condition: str, standing: Standing, **keys: object) -> tuple[str | None, str | None]:
    spec = Spec("app", "x", ["x"], "/", depends_on={"db": condition})
    found = {"db": Dependency(Spec("db", "x", ["x"], "/", **keys), standing)}  # type: ignore[arg-type]
    return unmet(spec, found), blocked_for_good(spec, found)


@pytest.mark.parametrize("status", is_.ALL)
def test_started_is_met_by_running_alone(status: str) -> None:
    why, final = needs(STARTED, [(status, None, False)])
    assert (why is None) == (status == is_.RUNNING)
    assert (final is not None) == (status in is_.DOWN)


def test_who_is_started_and_not_ready_yet_is_started() -> None:
    assert needs(STARTED, [("starting", None, True)]) == (None, None)
    assert needs(READY, [("starting", None, True)]) == ("waits for db to be ready", None)
    assert needs(READY, [("running", None, True)]) == (None, None)


@pytest.mark.parametrize("status", is_.ALL)
def test_exited_is_met_by_a_success_alone(status: str) -> None:
    for code in (0, 1, None):
        why, final = needs(EXITED, [(status, code, False)])
        assert (why is None) == (status == is_.EXITED and code == 0)
        assert (final is not None) == (status in is_.DOWN and why is not None)


def test_the_exit_codes_that_its_spec_calls_success_are_success() -> None:
    assert needs(EXITED, [("exited", 75, False)], stop_exit_codes=[75]) == (None, None)


@pytest.mark.parametrize("condition", [STARTED, READY, EXITED])
def test_every_instance_counts(condition: str) -> None:
    done = ("exited", 0, False) if condition == EXITED else ("running", None, True)
    assert needs(condition, [done, done]) == (None, None)
    assert needs(condition, [done, ("starting", None, False)])[0] is not None


def test_the_words_name_what_is_waited_for_and_how_it_stands() -> None:
    assert needs(STARTED, [("starting", None, False)]) == ("waits for db", None)
    assert needs(STARTED, [("errored", 1, False)])[0] == "waits for db, which is errored"
    assert needs(EXITED, [("running", None, True)]) == ("waits for db to finish", None)
    assert needs(EXITED, [("exited", 3, False)])[0] == "waits for db to succeed, but its exit code was 3"
    assert needs(EXITED, [("stopped", None, False)])[0] == "waits for db to finish, but it is stopped"


def test_one_that_is_not_there_is_told_with_what_to_do() -> None:
    spec = Spec("app", "x", ["x"], "/", depends_on={"db": STARTED})
    why = "waits for db, which is not there: start it, or take it out of depends_on"
    assert (unmet(spec, {}), blocked_for_good(spec, {})) == (why, why)


def test_a_final_obstacle_is_found_behind_one_that_will_pass() -> None:
    spec = Spec("app", "x", ["x"], "/", depends_on={"a": STARTED, "b": STARTED})
    found = {
        "a": Dependency(Spec("a", "x", ["x"], "/"), [("starting", None, False)]),
        "b": Dependency(Spec("b", "x", ["x"], "/"), [("errored", 1, False)]),
    }
    assert unmet(spec, found) == "waits for a"
    assert blocked_for_good(spec, found) == "waits for b, which is errored"


# --- many apps, at any moment ---

CONDITIONS = st.sampled_from([STARTED, READY, EXITED])


@st.composite
def apps(draw: st.DrawFn) -> list[Spec]:
    """Each may depend on those before it. Who is waited for until it has finished ends well or badly, and stays so."""
    made: list[Spec] = []
    for number in range(draw(st.integers(2, 6))):
        needed = draw(st.sets(st.integers(0, number - 1))) if number else set()
        ready = draw(st.sampled_from([STARTED, "notify"]))
        depends = {f"app{one}": draw(CONDITIONS) for one in sorted(needed)}
        made.append(Spec(f"app{number}", "x", ["x"], "/", depends_on=depends, ready=ready, restart=NEVER))
    return made


class World:
    """Apps of one instance each, by the lifecycle alone: a clock of its own, and processes that are only numbers."""

    def __init__(self, specs: list[Spec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.states = {spec.name: State() for spec in specs}
        self.now = 0.0
        self.pids = 0

    def standing(self, spec: Spec) -> dict[str, Dependency]:
        states = {name: self.states[name] for name in spec.depends_on}
        return {
            name: Dependency(self.specs[name], [(state.status, state.exit_code, state.pid > 0)])
            for name, state in states.items()
        }

    def is_met(self, spec: Spec) -> bool:
        """What the words of the config say, written once more."""
        for name, condition in spec.depends_on.items():
            state = self.states[name]
            runs, has_process = state.status == is_.RUNNING, state.pid > 0
            finished = state.status == is_.EXITED and state.exit_code == 0
            met = {STARTED: runs or (state.status == is_.STARTING and has_process), READY: runs, EXITED: finished}
            if not met[condition]:
                return False
        return True

    def send(self, name: str, event: Event) -> None:
        spec, following = self.specs[name], [event]
        while following:
            self.states[name], effects = step(self.states[name], following.pop(0), spec, self.now, 0.0)
            for effect in effects:
                if effect == GATE:
                    why = unmet(spec, self.standing(spec))
                    following.append(Go() if why is None else Hold(why))
                elif effect == SPAWN:
                    assert self.is_met(spec), f"{name} starts before what it needs"
                    self.pids += 1
                    following.append(Spawned(self.pids))
        for other, others in self.specs.items():
            state = self.states[other]
            if name in others.depends_on and state.status == is_.WAITING and state.deadline is None:
                why = unmet(others, self.standing(others))
                self.send(other, Go() if why is None else Hold(why))

    def blocked(self, name: str) -> bool:
        return blocked_for_good(self.specs[name], self.standing(self.specs[name])) is not None


@given(specs=apps(), choices=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["ready", 0, 3])), max_size=20))
def test_nobody_starts_before_what_it_needs_and_nobody_waits_for_what_has_come(
    specs: list[Spec], choices: list[tuple[int, str | int]]
) -> None:
    world = World(specs)
    for spec in specs:
        world.send(spec.name, Start())

    def happen(name: str, what: str | int) -> None:
        world.now += 1.0
        state = world.states[name]
        if what == "ready" and state.status == is_.STARTING:
            world.send(name, Ready())
        elif isinstance(what, int) and state.pid:
            world.send(name, Exited(what, None, True))

    def nobody_waits_in_vain() -> None:
        for name, state in world.states.items():
            if state.status == is_.WAITING:
                assert not world.is_met(world.specs[name]), f"{name} waits for what is there"

    for number, what in choices:
        if number < len(specs):
            happen(specs[number].name, what)
            nobody_waits_in_vain()
    # Whatever has happened: once all that runs is ready, who waits on waits for what will not come, or for an end.
    for spec in specs:
        happen(spec.name, "ready")
    for name, state in world.states.items():
        if state.status == is_.WAITING and not world.blocked(name):
            needs_end = [one for one, condition in world.specs[name].depends_on.items() if condition == EXITED]
            above = [one for one in world.specs[name].depends_on if world.states[one].status == is_.WAITING]
            assert needs_end or above

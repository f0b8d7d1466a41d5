"""When an app may start, by how those stand that it depends on."""

import pytest

from oxmgr.lifecycle.dependencies import Dependency, blocked_for_good, unmet
from oxmgr.model import status as is_
from oxmgr.model.spec import EXITED, READY, STARTED, Spec

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

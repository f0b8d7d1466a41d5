"""Which changes count."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.lifecycle.watching import Filter, describe
from oxmgr.model.spec import Spec
from oxmgr.model.targets import matches


def make(**keys: object) -> Filter:
    return Filter(Spec("app", "app", ["app"], "/srv", **keys))  # type: ignore[arg-type]


@given(st.text("ab*?/", max_size=8), st.text("ab/", max_size=10))
def test_a_pattern_means_what_it_means_elsewhere(pattern: str, text: str) -> None:
    assert matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


@given(st.lists(st.text("ab*?/", min_size=1, max_size=6)), st.text("ab/", min_size=1, max_size=8))
def test_a_path_is_ignored_by_any_pattern_that_fits(patterns: list[str], below: str) -> None:
    name = below.rpartition("/")[2]
    wanted = any(fnmatch.fnmatchcase(below.lstrip("/") if "/" in one else name, one) for one in patterns)
    assert make(watch_ignore=patterns).ignores("/srv", f"/srv/{below}") == wanted


@pytest.mark.parametrize(
    "name", [".git", "node_modules", "__pycache__", "logs", "main.py~", ".main.py.swp", ".#main.py", "4913"]
)
def test_what_is_never_meant_is_ignored_anywhere(name: str) -> None:
    assert make().ignores("/srv", f"/srv/{name}") and make(watch_ignore=["x"]).ignores("/srv", f"/srv/a/{name}")


@pytest.mark.parametrize("name", ["main.py", "gitignore", ".gitignore", "my-logs", "swp", ".env"])
def test_everything_else_counts(name: str) -> None:
    assert not make().ignores("/srv", f"/srv/{name}") and make().counts(f"/srv/{name}")


def test_names_and_paths() -> None:
    some = make(watch_ignore=["*.log", "tmp", "gen/*.py"])
    assert some.ignores("/srv", "/srv/a/b.log") and some.ignores("/srv", "/srv/a/tmp")
    assert some.ignores("/srv", "/srv/gen/a.py") and not some.ignores("/srv", "/srv/a/gen/a.py")
    assert some.ignores("/", "/gen/a.py")


def test_endings() -> None:
    some = make(watch_extensions=["py", "tar.gz"])
    assert some.counts("/srv/a.py") and some.counts("/srv/a.tar.gz")
    assert not some.counts("/srv/a.gz") and not some.counts("/srv/apy") and not some.counts("/srv/a.PY")


def test_what_has_changed_is_told_in_words() -> None:
    assert describe(["/srv/a.py"], "/srv", 100) == "a.py has changed"
    assert describe(["/etc/x", "/srv/a"], "/srv", 100) == "/etc/x and 1 other have changed"
    assert describe([f"/srv/{n}" for n in range(3)], "/", 3) == "srv/0 and 2 or more others have changed"

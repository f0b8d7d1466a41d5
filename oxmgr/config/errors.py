"""What is wrong with what a user wrote."""

from difflib import get_close_matches
from typing import NamedTuple


class Problem(NamedTuple):
    """`place` is `FILE:LINE` or `FILE:LINE:COLUMN` or only a file, or '' for a command line; `key` may be ''."""

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


class ConfigError(Exception):
    """All problems that were found, a line each. Nothing was started."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def error(message: str, place: str = "", key: str = "") -> ConfigError:
    return ConfigError([Problem(place, key, message)])


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean X?`, or nothing when no known word is near."""
    found = get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {found[0]}?" if found else ""

"""The tables of keys: complete, and shown whole."""

from oxmgr.config.keys import ALIASES, KEYS, LATER, TABLES, find_key, markdown
from oxmgr.config.oxfile import MAKERS
from oxmgr.config.values import Reader

ALL = [*KEYS.values(), *(key for table in TABLES.values() for key in table.values())]


def test_each_key_has_a_way_to_be_read() -> None:
    never_read = ("table", "variables", "profiles")
    assert [key.name for key in ALL if key.kind not in never_read and not hasattr(Reader, f"_{key.kind}")] == []


def test_each_sub_table_is_a_key_and_makes_a_field() -> None:
    assert {key.name for key in KEYS.values() if key.kind == "table"} == set(TABLES) == set(MAKERS)


def test_each_other_spelling_means_a_key_and_is_none_itself() -> None:
    assert all(find_key(meant) is not None for meant in ALIASES.values())
    assert [alias for alias in ALIASES if find_key(alias) is not None] == []


def test_nothing_that_is_known_counts_as_of_a_later_version() -> None:
    assert LATER.isdisjoint({*KEYS, *TABLES, *(alias[0] for alias in ALIASES)})


def test_the_page_has_a_table_of_each_with_every_key() -> None:
    first, *others = markdown().split("\n### ")
    assert [line.split("`")[1] for line in first.splitlines() if line.startswith("| `")] == list(KEYS)
    for (name, keys), text in zip(TABLES.items(), others, strict=True):
        heading, blank, *rows = text.rstrip("\n").split("\n")
        assert (heading, blank) == (f"`[processes.NAME.{name}]`", "")
        assert [row.split("`")[1] for row in rows[2:]] == list(keys)
        assert all(row.replace("\\|", "").count("|") == 4 for row in rows)

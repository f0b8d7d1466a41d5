"""Where keys stand: what the scan finds is what tomllib reads."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oxmgr.config.lines import Path, find_lines, find_octals

TEXT = '''# a comment with [brackets] = "and quotes
top = 1
"quoted key" = "a # b"
a.b."c d" = 2
[one]
x = [
  1, # ]
  { y = "]" },
]
s = """
[not.a.table]
z = 1
"""
l = \'\'\'
"""\'\'\'
after = { k = 1, "m.n" = { o = 2 } }
[two."th.ree"]
e = "\\"[x]\\""
date = 1979-05-27 07:32:00
[[many]]
p = 1
[[many]]
p = 2
'''


def paths_of(value: Any, above: Path = ()) -> set[Path]:
    if isinstance(value, list):
        return {path for one in value for path in paths_of(one, above)}
    if not isinstance(value, dict):
        return set()
    return {path for key, one in value.items() for path in [(*above, key), *paths_of(one, (*above, key))]}


def test_every_key_has_its_line() -> None:
    lines = find_lines(TEXT)
    assert set(lines) == paths_of(tomllib.loads(TEXT))
    assert {".".join(path): line for path, line in lines.items()} == {
        "top": 2,
        "quoted key": 3,
        "a": 4,
        "a.b": 4,
        "a.b.c d": 4,
        "one": 5,
        "one.x": 6,
        "one.x.y": 8,
        "one.s": 10,
        "one.l": 14,
        "one.after": 16,
        "one.after.k": 16,
        "one.after.m.n": 16,
        "one.after.m.n.o": 16,
        "two": 17,
        "two.th.ree": 17,
        "two.th.ree.e": 18,
        "two.th.ree.date": 19,
        "many": 22,
        "many.p": 23,
    }


def test_which_numbers_are_written_in_octal() -> None:
    text = 'a = 0o27\nb = 23\nc = "0o27" # 0o1\n[t]\nd = {e = 0o7, f = 0x7}\ng.h = 0o0\n'
    assert find_octals(text) == {("a",), ("t", "d", "e"), ("t", "g", "h")}


words = st.text("ab-\"'\\#[]{}=., \néß\t", max_size=6)
values = st.recursive(
    st.integers() | st.booleans() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def to_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[\n" + ", # ]\n".join(map(to_toml, value)) + "\n]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {to_toml(one)}" for key, one in value.items()) + "}"
    return str(value)


def quoted(text: str) -> str:
    if "'" not in text and "\n" not in text and len(text) % 2:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


@given(st.dictionaries(words, st.dictionaries(words, values, max_size=4), max_size=4))
def test_whatever_is_written_no_key_is_missed_and_none_is_invented(data: dict[str, dict[str, Any]]) -> None:
    text, at = "", 1
    expected: dict[Path, int] = {}
    for table, pairs in data.items():
        expected[table,] = at
        text += f"[{quoted(table)}] # [x]\n"
        at += 1
        for key, value in pairs.items():
            expected[table, key] = at
            shown = to_toml(value)
            text += f"{quoted(key)} = {shown}\n"
            at += shown.count("\n") + 1
    assert tomllib.loads(text) == data
    lines = find_lines(text)
    assert set(lines) == paths_of(data)
    assert {path: lines[path] for path in expected} == expected

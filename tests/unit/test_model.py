"""The words of oxmgr, as pure functions."""

import os
import signal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.model.frames import frame
from oxmgr.model.graph import find_cycle, start_order
from oxmgr.model.logpaths import log_paths
from oxmgr.model.places import find_places
from oxmgr.model.records import MARK, Newer, file_header, read_records, record
from oxmgr.model.signals import signal_name, signal_names, signal_number
from oxmgr.model.spec import Spec, instance_name, name_error
from oxmgr.model.targets import matches, selects

# --- records ---

payloads = st.lists(st.binary(max_size=40) | st.just(MARK) | st.just(record(b"inner")), max_size=6)


def file_of(records: list[bytes]) -> bytes:
    return file_header("things") + b"".join(map(record, records))


@given(payloads)
def test_what_is_written_is_read(records: list[bytes]) -> None:
    data = file_of(records)
    assert read_records("things", data) == (records, None, len(data))


@given(payloads, st.data())
def test_a_file_that_is_cut_off_anywhere_gives_the_whole_records_before_the_cut(
    records: list[bytes], data: st.DataObject
) -> None:
    whole = file_of(records)
    cut = data.draw(st.integers(len(file_header("things")), len(whole)))
    found, wrong, good = read_records("things", whole[:cut])
    ends = [len(file_of(records[:count])) for count in range(len(records) + 1)]
    complete = max(count for count, end in enumerate(ends) if end <= cut)
    assert found[:complete] == records[:complete]
    assert (wrong is None) == (cut in ends)
    if MARK not in b"".join(records):
        assert len(found) == complete and good == ends[complete]


@given(st.lists(st.binary(max_size=40).filter(lambda one: MARK not in one), min_size=1, max_size=6), st.data())
def test_one_rotten_byte_costs_one_record_at_most(records: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(file_of(records))
    at = data.draw(st.integers(len(file_header("things")), len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found, wrong, _ = read_records("things", bytes(whole))
    assert wrong is not None
    assert any(found == records[:gone] + records[gone + 1 :] for gone in range(len(records)))


@given(st.binary(max_size=200))
def test_garbage_gives_nothing_and_says_so(garbage: bytes) -> None:
    assert read_records("things", garbage) == ([], "it does not start with 'oxmgr things'", 0)


def test_a_later_format_is_not_guessed_at() -> None:
    with pytest.raises(Newer, match="it has format 2, this version of oxmgr reads up to 1"):
        read_records("things", b"oxmgr things 2\n" + record(b"x"))


def test_a_file_of_another_kind_is_not_read() -> None:
    assert read_records("others", file_of([b"x"]))[0] == []


def test_a_frame_is_its_length_and_its_bytes() -> None:
    assert frame(b"abc") == b"\0\0\0\3abc"


# --- signals ---


def test_every_signal_of_this_system_has_its_name_and_the_name_its_number() -> None:
    for one in signal.valid_signals():
        name = signal_name(one)
        assert signal_number(name) == one
        if isinstance(one, signal.Signals):
            assert name == one.name
            assert signal_number(name.removeprefix("SIG").lower()) == one
        assert signal_number(str(int(one))) == one
    assert "SIGTERM" in signal_names()


@pytest.mark.parametrize(
    "text", ["", "SIG", "SIGNOPE", "0", "65", "-9", "9.0", "SIGRTMIN+99", "SIGRTMIN+", "SIGTERM+1", "²"]
)
def test_what_is_no_signal(text: str) -> None:
    assert signal_number(text) is None


def test_a_number_without_a_name_is_told_as_one() -> None:
    assert signal_name(32) == "signal 32"


# --- names and places ---


@given(st.text(max_size=70))
def test_a_name_that_is_accepted_is_harmless_in_paths_targets_and_files(name: str) -> None:
    if name_error(name) is not None:
        return
    assert name.isascii() and name == os.path.basename(name) and name not in (".", "..")
    assert not set(name) & set(":@*?[ \n\t\\\"'$")
    assert len(name) <= 64


def test_instances_are_numbered_when_there_are_several() -> None:
    assert instance_name("api", 0, 1) == "api"
    assert [instance_name("api", index, 2) for index in range(2)] == ["api:0", "api:1"]
    assert instance_name("api", 1, 1) == "api:1", "one that is on its way out is not taken for the first"


@pytest.mark.parametrize(
    ("keys", "index", "paths"),
    [
        ({}, 0, ("/logs/api.out.log", "/logs/api.err.log")),
        ({}, 2, ("/logs/api:2.out.log", "/logs/api:2.err.log")),
        ({"log_file": "/a/b.log"}, 0, ("/a/b.log", "/a/b.log")),
        ({"log_file": "/a/b.log"}, 1, ("/a/b:1.log", "/a/b:1.log")),
        ({"log_file": "/a/b.log", "error_log_file": "/a/c"}, 1, ("/a/b:1.log", "/a/c:1")),
        ({"error_log_file": "/a/c"}, 0, ("/logs/api.out.log", "/a/c")),
        ({"log_file": "/dev/null"}, 1, ("/dev/null", "/dev/null")),
    ],
)
def test_every_instance_has_its_own_log_files(keys: dict[str, str], index: int, paths: tuple[str, str]) -> None:
    assert log_paths(Spec("api", "x", ["x"], "/", **keys), index, "/logs") == paths  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "uid", "state", "run", "logs"),
    [
        ({}, 0, "/var/lib/oxmgr", "/run/oxmgr", "/var/log/oxmgr"),
        ({"OXMGR_HOME": "/x"}, 0, "/x/state", "/x/run", "/x/logs"),
        ({"OXMGR_HOME": "/x"}, 1000, "/x/state", "/x/run", "/x/logs"),
        (
            {"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/1000"},
            1000,
            "/home/me/.local/state/oxmgr",
            "/run/user/1000/oxmgr",
            "/home/me/.local/state/oxmgr/logs",
        ),
        (
            {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "relative"},
            1000,
            "/s/oxmgr",
            "/s/oxmgr/run",
            "/s/oxmgr/logs",
        ),
    ],
)
def test_where_things_are(environ: dict[str, str], uid: int, state: str, run: str, logs: str) -> None:
    places = find_places(environ, uid)
    assert (places.state, places.run, places.logs) == (state, run, logs)


def test_without_a_home_it_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="neither OXMGR_HOME nor HOME is set: set OXMGR_HOME"):
        find_places({}, 1000)


# --- targets ---


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        ("all", ["api:0", "api:1", "web-a", "web-b"]),
        ("api", ["api:0", "api:1"]),
        ("api:1", ["api:1"]),
        ("api:*", ["api:0", "api:1"]),
        ("*", ["api:0", "api:1", "web-a", "web-b"]),
        ("web-*", ["web-a", "web-b"]),
        ("web-?", ["web-a", "web-b"]),
        ("*:0", ["api:0", "web-a", "web-b"]),
        ("@front", ["web-a", "web-b"]),
        ("@*t", ["api:0", "api:1", "web-a", "web-b"]),
        ("ap", []),
        ("api:2", []),
        ("API", []),
        ("@none", []),
    ],
)
def test_what_a_target_means(target: str, chosen: list[str]) -> None:
    fleet = [("api", 0, "default"), ("api", 1, "default"), ("web-a", 0, "front"), ("web-b", 0, "front")]
    names = ["api:0", "api:1", "web-a", "web-b"]
    assert [name for name, one in zip(names, fleet, strict=True) if selects(target, *one)] == chosen


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_patterns_mean_what_they_mean_to_the_shell(pattern: str, text: str) -> None:
    import fnmatch

    assert matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


# --- graphs ---

nodes = st.sampled_from("abcdefg")
graphs = st.dictionaries(nodes, st.lists(nodes, max_size=3), max_size=7)


@given(graphs)
def test_an_order_has_everything_once_and_after_what_it_needs_or_there_is_a_cycle(graph: dict[str, list[str]]) -> None:
    cycle = find_cycle(graph)
    if cycle is not None:
        assert cycle[0] == cycle[-1] and all(b in graph[a] for a, b in pairwise(cycle))
        with pytest.raises(ValueError, match="→"):
            start_order(graph)
        return
    order = start_order(graph)
    assert sorted(order) == sorted(graph)
    for name in graph:
        assert all(order.index(other) < order.index(name) for other in graph[name] if other in graph)


def test_a_chain_of_ten_thousand_is_no_problem() -> None:
    graph = {str(number): [str(number + 1)] for number in range(10_000)}
    assert start_order(graph)[0] == "9999"

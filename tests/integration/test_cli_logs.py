"""`oxmgr logs`: what is shown of the files, with and without a daemon."""

import gzip
import json
import os
import re
import resource
import subprocess
import time
from pathlib import Path

import pytest

from oxmgr.model.logindex import pack_entry, pack_head
from oxmgr.model.spec import Logs, Spec
from oxmgr.supervisor.archive import Archive
from oxmgr.supervisor.rawlog import RawLog
from tests.conftest import DEADLINE, wait_until
from tests.integration.conftest import COMMAND, Ox

SECOND = 10**9


def write_log(path: Path, stretches: "list[tuple[float, bytes]]") -> None:
    """A log and its index: bytes, and the Unix time that they came at."""
    path.parent.mkdir(exist_ok=True)
    offset, entries = 0, b""
    for when, data in stretches:
        entries += pack_entry(offset, int(when * SECOND))
        offset += len(data)
    path.write_bytes(b"".join(data for _, data in stretches))
    Path(f"{path}.idx").write_bytes(pack_head(path.stat().st_ino) + entries)


def rotate(path: Path, when: float, *, compress: bool = False) -> None:
    """As the daemon names what it puts aside."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(when)) + ".000000000Z"
    aside = Path(f"{path}~{stamp}")
    path.rename(aside)
    Path(f"{path}.idx").rename(f"{aside}.idx")
    if compress:
        Path(f"{aside}.gz").write_bytes(gzip.compress(aside.read_bytes()))
        aside.unlink()


def logs_of(ox: Ox, name: str = "app") -> tuple[Path, Path]:
    folder = Path(ox.home.places.logs)
    return folder / f"{name}.out.log", folder / f"{name}.err.log"


# --- of a daemon's apps ---


def test_logs_show_the_last_lines_of_all_streams_together(ox: Ox) -> None:
    ox("start", "seq 1 30; read line; echo wrong >&2; exec sleep 1000", "--name", "a")
    wait_until(lambda: ox.home.log("a").endswith("30\n"), "the lines")
    ox("send", "a", "")
    wait_until(lambda: ox.home.log("a", "err"), "the last one")
    assert ox("logs", "a").stdout.split() == [*map(str, range(12, 31)), "wrong"]
    assert ox("logs", "a", "-n", "2").stdout == "30\nwrong\n"
    assert ox("logs", "a", "-n2", "--out").stdout == "29\n30\n"
    assert ox("logs", "a", "--lines=5", "--err").stdout == "wrong\n"
    assert ox("logs", "a", "-n", "0").stdout == ""
    assert ox("logs", "a", "-n", "all").stdout.split() == [*map(str, range(1, 31)), "wrong"]
    ox("start", "echo b; exec sleep 1000", "--name", "b")
    wait_until(lambda: ox.home.log("b"), "b's line")
    assert ox("logs", "-n", "3").stdout == "a | 30\na | wrong\nb | b\n"


def test_a_line_without_an_end_is_shown(ox: Ox) -> None:
    ox("start", "printf 'a\\nthe prompt> '; exec sleep 1000", "--name", "a")
    wait_until(lambda: "prompt" in ox.home.log("a"), "the prompt")
    assert ox("logs", "a", "-n", "1").stdout == "the prompt> \n"
    assert ox("logs", "a", "-n", "1", "--raw").stdout == "the prompt> "


def test_the_logs_of_a_deleted_app_can_still_be_read(ox: Ox) -> None:
    ox("start", "echo last words; exec sleep 1000", "--name", "a")
    wait_until(lambda: ox.home.log("a"), "the words")
    ox("delete", "a")
    assert ox("logs", "a").stdout == "last words\n"
    assert "there is no app or instance b" in ox("logs", "b", code=4).stderr


def test_a_failure_is_told_with_the_last_lines_of_both_streams_by_time(ox: Ox) -> None:
    done = ox("start", "echo told; sleep 0.02; echo wrong >&2; exit 3", "--name", "job", "--restart", "never", code=1)
    assert "--- the last lines of job, see oxmgr logs job\ntold\nwrong\n" in done.stderr


def test_who_prints_to_no_file_is_told(ox: Ox) -> None:
    ox.home.apply(Spec("app", "sleep", ["sleep", "1000"], "/", logs=Logs(sink="none")))
    done = ox("logs", "app")
    assert not done.stdout and "app prints to nothing: the sink of its logs is none" in done.stderr


def test_the_lines_of_a_file_that_somebody_else_writes_to_are_not_shown_as_the_apps(ox: Ox) -> None:
    path = ox.folder / "taken.log"
    path.write_text("another's\n")
    taken = RawLog(str(path), Logs(), Archive(lambda files: None))
    taken.open()
    ox.oxfile(
        '[processes.app]\ncommand = "echo mine; read line; echo later; exec sleep 1000"\nlog_file = "taken.log"\n'
    )
    ox("start")
    wait_until(lambda: ox.home.log("app"), "the line")
    assert ox("logs", "app").stdout == "mine\n"
    assert f"stdout     {logs_of(ox)[0]}\n" in ox("status", "app").stdout
    assert ox.json("list")[0]["log_file"] == str(logs_of(ox)[0])
    with ox.popen("logs", "app", "-f", stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        shown = [follower.stdout.readline()]
        taken.close()
        ox("logs", "app", "--reopen")
        ox("send", "app", "")
        wait_until(lambda: "later" in path.read_text(), "a line where it was wished")
        shown.append(follower.stdout.readline())
        follower.kill()
    assert shown == [b"mine\n", b"later\n"]


def test_a_log_that_cannot_be_opened_is_told_and_the_others_are_shown(empty: Ox) -> None:
    folder = Path(empty.home.places.logs)
    folder.mkdir()
    (folder / "app.out.log").symlink_to("app.out.log")
    write_log(folder / "app.err.log", [(1000, b"wrong\n")])
    done = empty("logs", "app", code=3)
    assert done.stdout == "wrong\n" and "app.out.log: Too many levels" in done.stderr


# --- of files ---


def test_streams_and_rotated_and_compressed_files_are_merged_by_time(empty: Ox) -> None:
    out, err = logs_of(empty)
    write_log(out, [(1000, b"1\n2\n"), (1004, b"4\n")])
    rotate(out, 1005, compress=True)
    write_log(out, [(1006, b"6\n"), (1007, b"7\n")])
    rotate(out, 1008)
    write_log(out, [(1010, b"10\n11\n")])
    write_log(
        err, [(1003, b"3\n"), (1005, b"5\n"), (1006.5, b"6b\n"), (1008, b"8\n9\n"), (1010, b"12\n"), (1013, b"13")]
    )
    want = "1 2 3 4 5 6 6b 7 8 9 10 11 12 13".split()
    for count in range(len(want) + 2):
        shown = empty("logs", "app", "-n", str(count), code=3).stdout.split()
        assert shown == want[len(want) - count :] if count < len(want) else want, count
    assert empty("logs", "app", "-n", "all", code=3).stdout.split() == want
    assert empty("logs", "app", "--since", "@1004", "--until", "@1008", code=3).stdout.split() == want[3:10]
    assert empty("logs", "app", "--until", "@1008", "-n", "3", code=3).stdout.split() == ["7", "8", "9"]
    assert empty("logs", "app", "--since", "@1010.5", code=3).stdout.split() == ["13"]
    timed = empty(
        "logs",
        "app",
        "--since",
        "@1010.5",
        "--time",
        code=3,
    )
    assert re.fullmatch(r"1970-01-01 \d\d:\d\d:13\.000 13\n|19(69|70)-\S+ \S+:53\.000 13\n", timed.stdout)


def test_json_has_every_key_and_the_time_to_the_nanosecond(empty: Ox) -> None:
    out, err = logs_of(empty, "app:1")
    write_log(out, [(1000.5, b'say "x"\n\xff\x00\n')])
    err.write_bytes(b"no index\n")
    shown = [json.loads(line) for line in empty("logs", "app:1", "--json", code=3).stdout.splitlines()]
    assert [list(one) for one in shown] == [["app", "instance", "stream", "time", "message"]] * 3
    assert shown[0] == {
        "app": "app",
        "instance": 1,
        "stream": "out",
        "time": "1970-01-01T00:16:40.500000000Z",
        "message": 'say "x"',
    }
    assert shown[1]["message"] == "\ufffd\0"
    assert (shown[2]["stream"], shown[2]["time"], shown[2]["message"]) == ("err", None, "no index")


@pytest.mark.parametrize("damage", ["gone", "torn", "noise", "empty", "ahead", "another's", "a folder"])
def test_a_log_is_read_whatever_has_become_of_its_index(empty: Ox, damage: str) -> None:
    out, _ = logs_of(empty)
    write_log(out, [(1000, b"1\n"), (1001, b"2\n"), (1002, b"3\n")])
    index = Path(f"{out}.idx")
    data = index.read_bytes()
    index.unlink()
    match damage:
        case "torn":
            index.write_bytes(data[:-7])
        case "noise":
            index.write_bytes(data[:16] + os.urandom(160))
        case "empty":
            index.write_bytes(b"")
        case "ahead":
            index.write_bytes(data + pack_entry(1 << 40, 2000 * SECOND))
        case "another's":
            index.write_bytes(pack_head(7) + data[16:])
        case "a folder":
            index.mkdir()
    for words in (["-n", "20"], ["-n", "all"], ["--raw"], ["-n", "3", "--time"]):
        assert [line.split()[-1] for line in empty("logs", "app", *words, code=3).stdout.splitlines()] == [
            "1",
            "2",
            "3",
        ]
    assert len(empty("logs", "app", "--json", code=3).stdout.splitlines()) == 3


def test_frames_are_taken_off_and_their_times_count(empty: Ox) -> None:
    out, err = logs_of(empty)
    write_log(err, [(1001, b"raw\n")])
    lines = [
        b"1970-01-01T00:16:40.5Z stdout F cri\n",
        b"1970-01-01T00:16:42Z stdout P lo\n",
        b"1970-01-01T00:16:42Z stdout F ng\n",
        b'{"time":"1970-01-01T00:16:43.000000001Z","stream":"stdout","message":"j\\u00e9 \\"x\\""}\n',
        b'{"time":"1970-01-01T00:16:44Z","stream":"stdout","partial":true,"message":"two "}\n',
        b'{"time":"1970-01-01T00:16:44Z","stream":"stderr","message":"kinds"}\n',
    ]
    out.write_bytes(b"".join(lines))
    assert empty("logs", "app", code=3).stdout == 'cri\nraw\nlong\njé "x"\ntwo \nkinds\n'
    assert empty("logs", "app", "--raw", code=3).stdout.encode() == b"".join([lines[0], b"raw\n", *lines[1:]])
    shown = [json.loads(line) for line in empty("logs", "app", "--json", code=3).stdout.splitlines()]
    assert [(one["message"], one["stream"], (one["time"] or "")[17:]) for one in shown] == [
        ("cri", "out", "40.500000000Z"),
        ("raw", "err", "41.000000000Z"),
        ("long", "out", "42.000000000Z"),
        ('jé "x"', "out", "43.000000001Z"),
        ("two ", "out", "44.000000000Z"),
        ("kinds", "err", "44.000000000Z"),
    ]
    assert empty("logs", "app", "--since", "@1002.5", code=3).stdout == 'jé "x"\ntwo \nkinds\n'


def test_any_bytes_come_out_as_they_went_in(empty: Ox) -> None:
    out, _ = logs_of(empty)
    data = bytes(range(256)) * 3 + b"\r\n\r\n\n\x00\n" + b"\xff" * 100
    write_log(out, [(1000, data)])
    done = subprocess.run(
        [COMMAND, "logs", "app", "--raw", "-n", "all"], env=empty.env, capture_output=True, check=False
    )
    assert done.stdout == data
    done = subprocess.run([COMMAND, "logs", "app", "-n", "all"], env=empty.env, capture_output=True, check=False)
    assert done.stdout == data + b"\n"


def test_a_line_of_100_mb_is_shown_in_bounded_memory(empty: Ox) -> None:
    out, _ = logs_of(empty)
    out.parent.mkdir()
    with out.open("wb") as file:
        file.write(b"before\n")
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b"needle\nbehind\n")
    size = out.stat().st_size
    for words, want in (
        (["-n", "2"], size - 7),
        (["-n", "all"], size),
        (["--grep", "xneedle$"], size - 14),
        (["--json"], None),
    ):
        script = 'ulimit -v 150000; exec "$@" | wc -c'
        done = subprocess.run(
            ["sh", "-c", script, "sh", COMMAND, "logs", "app", *words], env=empty.env, capture_output=True, check=True
        )
        assert want is None or int(done.stdout) == want, words
        assert want or int(done.stdout) > size


def test_grep_and_level_choose_lines(empty: Ox) -> None:
    out, err = logs_of(empty)
    text = b"INFO starts\n[ERROR] no table\n  at a.js:1\n  at b.js:2\nDEBUG x\nWARN slow\n"
    write_log(out, [(1000 + number, text) for number in range(50)])
    write_log(err, [(1000.5, b'{"level":50,"msg":"pino"}\n{"level":"info"}\n')])
    worse = ["[ERROR] no table", "  at a.js:1", "  at b.js:2"]
    assert empty("logs", "app", "--level", "error", "-n", "4", code=3).stdout.splitlines() == [worse[2], *worse]
    assert empty("logs", "app", "--level", "error", "-n", "all", code=3).stdout.splitlines() == [
        *worse,
        '{"level":50,"msg":"pino"}',
        *worse * 49,
    ]
    for words in (["-n", "all"], ["-n", "1000"]):
        assert empty("logs", "app", "--grep", "no T", *words, code=3).stdout == ""
        assert empty("logs", "app", "--grep", "no T", "-i", *words, code=3).stdout == "[ERROR] no table\n" * 50
        assert empty("logs", "app", "-g", "^WARN.*w$", *words, code=3).stdout == "WARN slow\n" * 50
        assert empty("logs", "app", "-g", r"x(?!\s*WARN)", *words, code=3).stdout == "DEBUG x\n" * 50
    assert empty("logs", "app", "--grep", "b.js", "--level", "error", "-n", "2", code=3).stdout == "  at b.js:2\n" * 2
    assert "at character 2 of 'a(b'" in empty("logs", "app", "--grep", "a(b", code=2).stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--since nonsense", "yesterday 14:00"),
        ("--level loud", "trace, debug, info, warn, error, fatal"),
        ("--until 1h -f", "--follow"),
        ("--raw --json", "leave one out"),
        ("-i", "--grep"),
    ],
)
def test_what_cannot_be_is_refused_and_said_how_it_can(empty: Ox, words: str, told: str) -> None:
    assert told in empty("logs", *words.split(), code=2).stderr


# --- at a terminal ---


def test_a_terminal_is_protected_but_from_raw(empty: Ox) -> None:
    out, _ = logs_of(empty)
    write_log(out, [(1000, b"\x1b[2J\xff\n")])
    for words, want in ((["logs", "app"], "^[[2J\\xff\n"), (["logs", "app", "--raw"], "\x1b[2J")):
        assert want in shown_at_terminal(empty, *words)


def test_the_pager_gets_all_lines_and_may_be_left_before_the_end(empty: Ox) -> None:
    out, _ = logs_of(empty)
    write_log(out, [(1000, b"".join(b"%d\n" % number for number in range(100_000)))])
    assert shown_at_terminal(empty, "logs", "app", "--pager", PAGER="tail -n 1; echo paged").endswith("99999\npaged\n")
    assert shown_at_terminal(empty, "logs", "app", "--pager", PAGER="head -n 1").endswith("0\n")
    assert "paged" not in empty("logs", "app", "--pager", "-n", "1", code=3).stdout


def shown_at_terminal(ox: Ox, *words: str, **env: str) -> str:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [COMMAND, *words], env={**ox.env, "TERM": "xterm", **env}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 65536):
            text += data
    except OSError:
        pass  # EIO: the last one that had it open has closed it (pty(7))
    os.close(ours)
    process.wait(DEADLINE)
    return text.decode("utf-8", "replace").replace("\r\n", "\n")


# --- speed ---


def test_a_large_log_is_answered_by_search_and_not_by_scan(empty: Ox) -> None:
    out, _ = logs_of(empty)
    block = b"".join(
        b"%07d some line of a service that has much to say, as they have\n" % number for number in range(1000)
    )
    for number in range(20):
        write_log(out, [(1000 + number, block)])
        rotate(out, 1000.5 + number, compress=number < 10)
    write_log(out, [(2000 + number, block) for number in range(2000)])
    assert out.stat().st_size > 100_000_000
    for words, lines in (
        (["-n", "20"], 20),
        (["--since", "@3998.5", "-n", "all"], 1000),
        (["--since", "@3000.5", "--until", "@3001.5"], 1000),
        (["--until", "@2500.5", "-n", "5"], 5),
    ):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert empty("logs", "app", *words, code=3).stdout.count("\n") == lines
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Far more than it takes, and far less than looking through it all.
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3, words

"""Forms and sinks: what an app prints, as lines for others."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.model.messages import Act
from oxmgr.model.spec import NEVER, Logs
from tests.conftest import Home, wait_until

NUMBERS = "i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); done"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_cri_is_what_kubernetes_agents_read(home: Home) -> None:
    home.apply(home.sh("app", "printf 'one\\ntwo'; echo err >&2; exit 0", logs=Logs(format="cri"), restart=NEVER))
    logs = Path(home.places.logs)
    wait_until(lambda: len(lines(logs / "app.out.log")) == 2 and lines(logs / "app.err.log"), "its lines")
    first, last = (line.split(" ", 3) for line in lines(logs / "app.out.log"))
    assert first[1:] == ["stdout", "F", "one"] and last[1:] == ["stdout", "F", "two"]
    assert len(first[0]) == len("2026-01-02T03:04:05.000000006Z") and first[0].endswith("Z")
    assert lines(logs / "app.err.log")[0].split(" ", 3)[1:] == ["stderr", "F", "err"]


def test_json_is_an_object_a_line_whatever_the_bytes(home: Home) -> None:
    script = r"""printf 'plain\n"quoted" \\ \t tab\nbad \377 byte\n\000\n'; exec sleep 1000"""
    home.apply(home.sh("app", script, logs=Logs(format="json")))
    path = Path(home.places.logs) / "app.out.log"
    wait_until(lambda: len(lines(path)) == 4, "its lines")
    found = [json.loads(line) for line in lines(path)]
    assert [one["message"] for one in found] == ["plain", '"quoted" \\ \t tab', "bad � byte", "\0"]
    assert {one["stream"] for one in found} == {"stdout"}


@pytest.mark.parametrize("form", ["raw", "cri", "json"])
def test_a_rate_limit_keeps_so_many_lines_a_second_and_tells_of_the_others(home: Home, form: str) -> None:
    home.apply(home.sh("app", NUMBERS.format(count=5000) + "; exec sleep 1000", logs=Logs(format=form, rate_limit=100)))
    path = Path(home.places.logs) / "app.out.log"
    wait_until(lambda: any("lines were dropped here: rate_limit is 100" in line for line in lines(path)), "the notice")
    kept = [line for line in lines(path) if "line " in line and "dropped" not in line]
    dropped = sum(int(line.partition("oxmgr: ")[2].split()[0]) for line in lines(path) if "dropped here" in line)
    wait_until(lambda: len(kept) + dropped == 5000, "each line to be kept or counted")
    assert len(kept) % 100 == 0


@pytest.mark.parametrize("form", ["cri", "json"])
def test_a_line_that_a_killed_daemon_had_begun_arrives_though_its_app_is_gone(home: Home, form: str) -> None:
    mark = home.folder / "mark"
    script = f"[ -e {mark} ] || {{ touch {mark}; echo one; printf two; }}; exec sleep 1000"
    home.apply(home.sh("app", script, logs=Logs(format=form)))
    path = Path(home.places.logs) / "app.out.log"
    spool = Path(f"{home.places.pipe('app:0', 'out')}.spool")
    wait_until(lambda: lines(path) and spool.stat().st_size == len("one\ntwo"), "all that it prints to be on its way")
    pid = home.pid("app")
    home.kill_daemon()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    home.start_daemon()
    wait_until(lambda: len(lines(path)) == 2, "the last line")
    assert ["one" in line for line in lines(path)] == [True, False] and "two" in lines(path)[1]
    home.apply(prune=True)
    assert not list(spool.parent.glob("app:*"))


def test_stdout_has_the_name_before_each_line_and_mixes_none(empty_home: Home) -> None:
    home = empty_home
    path = home.folder / "stdout"
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    home.wrap = ["sh", "-c", f'exec "$@" >{path}', "sh"]
    home.start_daemon()
    count = 3000
    script = NUMBERS.format(count=count) + "; exec sleep 1000"
    home.apply(home.sh("app", script, logs=Logs(sink="stdout"), instances=2), home.sh("quick", "exec sleep 1000"))
    # Nobody reads: the apps wait, and others do not wait for them.
    home.request(Act("restart", ["quick"]))
    data = b""

    def read() -> bool:
        nonlocal data
        try:
            while True:
                data += os.read(fifo, 65536)
        except BlockingIOError:
            pass
        return data.count(b"\n") >= 2 * count

    wait_until(read, "all lines")
    os.close(fifo)
    for name in ("app:0", "app:1"):
        own = [line for line in data.decode().splitlines() if line.startswith(f"{name} | ")]
        assert own == [f"{name} | line {number}" for number in range(count)]


# --- journald ---


class Journald:
    """What its native protocol says, from what came in."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.entries: list[dict[str, bytes]] = []
        self.as_files = 0

    def receive(self) -> list[dict[str, bytes]]:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
            except BlockingIOError:
                return self.entries
            if fds:
                self.as_files += 1
                data = os.pread(fds[0], 1 << 24, 0)
                os.close(fds[0])
            self.entries.append(self._parse(data))

    def _parse(self, data: bytes) -> dict[str, bytes]:
        entry = {}
        while data:
            line, _, data = data.partition(b"\n")
            key, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(data[:8], "little")
                value, data = data[8 : 8 + size], data[9 + size :]
            entry[key.decode()] = value
        return entry

    def messages(self) -> list[bytes]:
        return [entry["MESSAGE"] for entry in self.receive()]


JOURNAL = Path("/run/systemd/journal")


@pytest.fixture
def journald(empty_home: Home) -> Iterator[Journald]:
    """A journald of this test's own, in the place of the real one for the daemon alone."""
    home = empty_home
    folder = home.folder / "journal"
    folder.mkdir()
    made = Journald(folder / "socket")
    script = f'mkdir -p {JOURNAL} && mount --bind {folder} {JOURNAL} && exec "$@"'
    base = "mount -t tmpfs tmpfs /run/systemd 2>/dev/null || { mount -t tmpfs tmpfs /run && mkdir -p /run/systemd; }; "
    home.wrap = ["unshare", "--mount", "sh", "-c", base + script, "sh"]
    home.start_daemon()
    yield made
    made.socket.close()


def test_journald_gets_a_message_a_line_with_the_apps_fields(empty_home: Home, journald: Journald) -> None:
    home = empty_home
    home.apply(
        home.sh(
            "app",
            r"printf 'one\ntwo\377\nlast'; echo err >&2; exec sleep 1000",
            logs=Logs(sink="journald"),
            instances=2,
        )
    )
    wait_until(lambda: len(journald.receive()) == 6, "their lines")
    home.request(Act("stop", ["app"]))
    wait_until(lambda: len(journald.receive()) == 8, "the line without an end")
    by_stream: dict[tuple[bytes, bytes], list[bytes]] = {}
    for entry in journald.entries:
        assert (entry["SYSLOG_IDENTIFIER"], entry["OXMGR_APP"]) == (b"app", b"app")
        by_stream.setdefault((entry["OXMGR_INSTANCE"], entry["PRIORITY"]), []).append(entry["MESSAGE"])
    out = [b"one", b"two\xff", b"last"]
    assert by_stream == {
        (b"0", b"6"): out, (b"1", b"6"): out, (b"0", b"3"): [b"err"], (b"1", b"3"): [b"err"]
    }  # fmt: skip


def test_a_line_that_is_too_large_for_a_datagram_goes_as_a_file(empty_home: Home, journald: Journald) -> None:
    home = empty_home
    home.apply(
        home.sh(
            "app", "head -c 250000 /dev/zero | tr '\\0' x; echo; echo next; exec sleep 1000", logs=Logs(sink="journald")
        )
    )
    wait_until(lambda: journald.messages() == [b"x" * 250_000, b"next"], "both lines")
    assert journald.as_files == 1


def test_a_line_that_comes_in_pieces_says_of_each_but_the_last_that_it_goes_on(
    empty_home: Home, journald: Journald
) -> None:
    size, piece = 600_000, 256 * 1024
    script = f"head -c {size} /dev/zero | tr '\\0' x; echo; echo next; exec sleep 1000"
    empty_home.apply(empty_home.sh("app", script, logs=Logs(sink="journald")))
    wait_until(lambda: len(journald.messages()) == 4, "both lines")
    assert [(len(entry["MESSAGE"]), entry.get("OXMGR_PARTIAL")) for entry in journald.entries] == [
        *((piece, b"1"), (piece, b"1"), (size - 2 * piece, None), (4, None))
    ]


def test_while_journald_takes_no_more_the_app_waits_and_nothing_is_lost(empty_home: Home, journald: Journald) -> None:
    home = empty_home
    count = 20_000
    script = NUMBERS.format(count=count) + f"; touch {home.folder}/done; exec sleep 1000"
    home.apply(home.sh("app", script, logs=Logs(sink="journald")), home.sh("quick", "exec sleep 1000"))
    home.request(Act("restart", ["quick"]))
    assert not (home.folder / "done").exists()
    expected = [b"line %d" % number for number in range(count)]
    wait_until(lambda: len(journald.messages()) >= count, "all lines")
    assert journald.messages() == expected


def test_without_a_journald_the_lines_go_to_the_default_log_and_status_says_so(empty_home: Home) -> None:
    home = empty_home
    home.wrap = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh"]
    home.start_daemon()
    home.apply(home.sh("app", "echo here; exec sleep 1000", logs=Logs(sink="journald")))
    wait_until(lambda: lines(Path(home.places.logs) / "app.out.log") == ["here"], "the line")
    assert "journald cannot be its log" in home.views()["app"].warnings[0]

"""How bad a line is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.cli.levels import LEVELS, level_of


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('{"level":"error","msg":"x"}', "error"),
        ('{"time":1,"level":50,"pid":1,"msg":"pino"}', "error"),
        ('{"level":60}', "fatal"),
        ('{"severity":"WARNING","message":"gcp"}', "warn"),
        ('{"levelname":"CRITICAL"}', "fatal"),
        ('{"msg":"level","lvl":"info"}', "info"),
        ('{"ctx":{"level":"error"},"level":"debug"}', "debug"),
        ('{"msg":"\\"level\\":\\"error\\""}', None),
        ('{"log.level":"error"}', "error"),
        ('{"log":{"level":"error"}}', "error"),
        ('{"level":{"name":"warn"}}', "warn"),
        ('{"level":"erro', None),
        ("time=2026-11-24T08:00:00Z level=error msg=x", "error"),
        ('ts=1 lvl="warn" msg=y', "warn"),
        ("[ERROR] no", "error"),
        ("ERROR: no", "error"),
        ("ERROR no", "error"),
        ("error: no such file", "error"),
        ("WARN", "warn"),
        ("WARNING:root:x", "warn"),
        ("2026-11-24 08:01:25,123 WARN x", "warn"),
        ("2026-11-24T08:01:25.123Z  INFO app::x: y", "info"),
        ("2026-11-24 08:01:25.123 [main] ERROR com.x - y", "error"),
        ("2026-11-24 08:01:25 - app.module - ERROR - y", "error"),
        ("[2026-11-24 08:01:25] [warn] y", "warn"),
        ("[24/Nov/2026:08:01:25 +0000] [error] y", "error"),
        ("2026/11/24 08:01:25 [error] 7#7: nginx", "error"),
        ("Nov 24 08:01:25 err x", "error"),
        ("I, [2026-11-24T08:01:25.1 #7]  INFO -- : ruby", "info"),
        ("E1124 08:01:25.123456 7 klog.go:1] x", "error"),
        ("<3>of the kernel's kind", "error"),
        ("\x1b[31mERROR\x1b[0m x", "error"),
        ("DEBUG x", "debug"),
        ("trace: x", "trace"),
        ("FATAL x", "fatal"),
        ("panic: runtime error", "fatal"),
        ("Traceback (most recent call last):", "error"),
        ("ValueError: x", "error"),
        ("java.lang.NullPointerException: x", "error"),
        ("thread 'main' panicked at src/main.rs:1", "error"),
        ("  at a.js:1", None),
        ("\tat a.b.C(D.java:1)", None),
        ("errors were found", None),
        ("the error is here", None),
        ("no errors", None),
        ("information", "info"),
        ("informal", None),
        ("GET /error 200", None),
        ("", None),
        ("42", None),
    ],
)
def test_the_level_is_what_a_reader_would_say(line: str, level: str | None) -> None:
    assert level_of(line.encode() + b"\n") == (LEVELS[level] if level else None)


@given(st.binary(max_size=300) | st.text('{}[]":levl 0123456789,.-|<>ERROR', max_size=300).map(str.encode))
def test_nothing_makes_it_fall(line: bytes) -> None:
    assert level_of(line) in (None, *range(1000))


@pytest.mark.parametrize(
    "line", [b"[" * 10_000, b"a-" * 5000, b"2026-" * 2000, b"- " * 5000, b"{" * 100_000, b" " * 100_000]
)
def test_a_strange_line_takes_no_time(line: bytes) -> None:
    level_of(line)

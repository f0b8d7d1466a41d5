"""How bad a line is, by what it looks like: JSON, logfmt, and words at its beginning. Pure."""

import re

from oxmgr.model.codec import DecodeError, decode_json

LEVELS = {"trace": 10, "debug": 20, "info": 30, "warn": 40, "error": 50, "fatal": 60}
"""The numbers are those of pino and bunyan."""

WORDS = {
    word: LEVELS[level]
    for level, words in {
        "trace": "trace verbose silly finest finer trc",
        "debug": "debug dbg fine",
        "info": "info information inf notice log",
        "warn": "warn warning wrn",
        "error": "error err severe failure exception",
        "fatal": "fatal critical crit alert emerg emergency panic ftl",
    }.items()
    for word in words.split()
}
SHORT = {"T": 10, "V": 10, "D": 20, "I": 30, "N": 30, "W": 40, "E": 50, "C": 60, "F": 60}
KEYS = ("level", "severity", "lvl", "levelname", "loglevel", "log.level", "severity_text", "levelno")

_WORD = "|".join(sorted(WORDS, key=len, reverse=True)).encode()
_LOGFMT = re.compile(rb'(?:^|\s)(?:level|lvl|severity)="?(\w+)', re.IGNORECASE)
# A date, a time, a number, a name in brackets: what stands before the word in common formats.
_BEFORE = (
    rb"(?:[\[(<]?\d[\d\-:.,/TZ+]*[\])>]?\s+|[A-Z][a-z]{2}\s+(?=\d)|[\[(][^\])]{1,40}[\])]\s*"
    rb"|[\w.\-:/$@]{1,40}\s+[-|:]\s+|[-|]\s+){0,5}"
)
_TEXT = re.compile(rb"\s{0,2}" + _BEFORE + rb"[\[(<|*]?(" + _WORD + rb")(?:[\])>|*:,]|\s|$)", re.IGNORECASE)
_CAPITAL = re.compile(rb"\s{0,2}" + _BEFORE + rb"[\[(<|*]?([TVDIWEF])[\]|/,]")
_KLOG = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d")
_SYSLOG = re.compile(rb"<(\d{1,3})>")
_FALLS = (
    (b"Traceback (most recent call last)", 50),
    (b"Exception in thread", 50),
    (b"Uncaught ", 50),
    (b"Unhandled ", 50),
    (b"panic: ", 60),
    (b"fatal error: ", 60),
    (b"thread '", 50),
)
_ERROR_NAME = re.compile(rb"(?:[a-z]\w*\.)*[A-Z]\w*(?:Error|Exception)(?::|$)")
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
LOOKED_AT = 400


def level_of(line: bytes) -> int | None:
    """None when it has none of its own: then it goes with the line before it."""
    if line[:1] in (b" ", b"\t") and line.lstrip()[:1] != b"[":
        # Indented, it belongs to what is above it; JSON over several lines is not looked into.
        return None
    if line[:1] == b"{":
        found = _of_json(line)
        if found is not None:
            return found
    head = line[:LOOKED_AT]
    if b"\x1b" in head:
        head = _COLOURS.sub(b"", head)
    if b"=" in head and (match := _LOGFMT.search(head)):
        return _of_word(match[1].decode("ascii", "replace"))
    if match := _TEXT.match(head):
        return WORDS[match[1].decode().lower()]
    if match := _KLOG.match(head) or _CAPITAL.match(head):
        return SHORT[match[1].decode()]
    if match := _SYSLOG.match(head):
        return (60, 60, 60, 50, 40, 30, 30, 20)[int(match[1]) % 8]
    for begin, level in _FALLS:
        if head.startswith(begin) and (begin != b"thread '" or b" panicked at" in head):
            return level
    return 50 if _ERROR_NAME.match(head) else None


def _of_json(line: bytes) -> int | None:
    try:
        found = decode_json(line)
    except (DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict):
        return None
    for key in KEYS:
        value = found.get(key)
        if isinstance(value, dict):
            value = value.get("name") or value.get("level")
        if value is None and isinstance(found.get("log"), dict) and key == "log.level":
            value = found["log"].get("level")
        level = _of_word(str(value)) if isinstance(value, str | int | float) else None
        if level is not None:
            return level
    return None


def _of_word(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 4 else WORDS.get(word.lower())

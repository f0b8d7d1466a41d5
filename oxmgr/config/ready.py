"""`ready = "…"`: what it means, and what cannot be meant."""

import os
import re

from oxmgr.config.errors import nearest
from oxmgr.model.node import is_node
from oxmgr.model.spec import READY_FORMS, READY_WORDS
from oxmgr.model.urls import address, endpoint

FIRST_FD, LAST_FD = 3, 1023


def read_ready(text: str) -> str:
    """As the daemon takes it. ValueError, as a sentence, is what is wrong with it."""
    if text in READY_WORDS:
        return text
    form = next((form for form in READY_FORMS if text.startswith(form)), None)
    if form is None:
        if text.startswith("https://"):
            raise ValueError("https is not asked: use the app's http port, or command:curl …")
        known = [*READY_WORDS, *READY_FORMS]
        words = ", ".join(f'"{word}"' for word in known)
        raise ValueError(f'expected one of {words}, got "{text[:80]}"{nearest(text, known)}')
    rest = text.removeprefix(form)
    if form == "fd:" and not (rest.isascii() and rest.isdecimal() and FIRST_FD <= int(rest[:9]) <= LAST_FD):
        raise ValueError(
            f"fd: expected a number from {FIRST_FD} to {LAST_FD}, for the first three are in use, got {rest!r}"
        )
    if form == "tcp:":
        address(rest)
    if form == "http://":
        endpoint(text)
    if form == "log:":
        if not rest:
            raise ValueError("log: needs a regular expression behind it")
        try:
            re.compile(rest)
        except re.error as wrong:
            raise ValueError(f"{rest!r} is no regular expression: {wrong}") from None
    if form == "command:" and not rest.strip():
        raise ValueError("command: needs a command behind it")
    return text


def ready_error(ready: str, argv: list[str], command: str) -> str | None:
    """Why an app with this command cannot say so that way."""
    if ready != "node" or is_node(argv, command):
        return None
    return f'"node" is for Node apps, and {os.path.basename(argv[0])} is none: use "notify" or "fd:3"'

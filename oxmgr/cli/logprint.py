"""How lines of logs are shown: as they are, with a name and a time before each, or as JSON."""

import os
import sys
import time

from oxmgr.cli.output import BLUE, CYAN, DIM, GREEN, MAGENTA, YELLOW, paint
from oxmgr.client.logfile import Run, split_lines
from oxmgr.model.codec import encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

COLOURS = (CYAN, GREEN, YELLOW, BLUE, MAGENTA)
SECOND = 10**9
NO_TIME = " " * len("2026-11-24 08:01:25.123")
TEXT, RAW, JSON = "text", "raw", "json"


class Printer:
    """`mode` is TEXT, RAW or JSON. `protect`: the output is a terminal, which must not obey what an app prints."""

    def __init__(
        self, mode: str, out: "BinaryIO", *, times: bool = False, colour: bool = False, protect: bool = False
    ) -> None:
        self._mode = mode
        self._times = times
        self._colour = colour
        self._protect = protect and mode == TEXT
        self.names = False
        self._out = out
        # The name of whose line has no end yet, since it goes on in the next one of the same log.
        self._open: tuple[str, str] | None = None
        self._second = (0, "")

    def show(self, runs: "Iterable[Run]") -> None:
        show = {TEXT: self._text, RAW: self._raw, JSON: self._json}[self._mode]
        for run in runs:
            show(run)

    def flush(self) -> None:
        self._out.flush()

    def _raw(self, run: Run) -> None:
        for number, piece in enumerate(run.pieces()):
            self._out.write(run.data if number == 0 else piece)

    def _text(self, run: Run) -> None:
        who = run.file.source.name, run.kind
        goes_on = self._open == who and run.text is not None
        if self._open is not None and not goes_on:
            self._out.write(b"\n")
        self._open = who if run.partial else None
        prefix = self._prefix(run)
        if run.is_long:
            self._out.write(prefix)
            self._write_long(run)
            return
        data = run.shown
        if self._protect:
            data = protected(data)
        if not data.endswith(b"\n") and not run.partial:
            data += b"\n"
        if prefix and not run.partial:
            first = b"" if goes_on else prefix
            data = first + data[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
        elif prefix and not goes_on:
            data = prefix + data
        self._out.write(data)

    def _write_long(self, run: Run) -> None:
        last = b""
        for piece in run.pieces():
            self._out.write(protected(piece) if self._protect else piece)
            last = piece[-1:] or last
        if last != b"\n":
            self._out.write(b"\n")

    def _prefix(self, run: Run) -> bytes:
        parts = ""
        if self._times:
            parts = paint(self._local(run.time_ns) if run.known else NO_TIME, DIM, self._colour) + " "
        if self.names:
            name = run.file.source.name
            parts += paint(name, COLOURS[sum(name.encode()) % len(COLOURS)], self._colour) + " | "
        return parts.encode()

    def _local(self, time_ns: int) -> str:
        seconds, rest = divmod(time_ns, SECOND)
        if self._second[0] != seconds:
            self._second = seconds, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        return f"{self._second[1]}.{rest // 1_000_000:03}"

    # --- JSON ---

    def _json(self, run: Run) -> None:
        source = run.file.source
        fields = {
            "app": source.app,
            "instance": source.instance,
            "stream": run.kind or None,
            "time": self._utc(run.time_ns) if run.known else None,
        }
        head = encode_json(fields)[:-1] + b',"message":"'
        if self._open is not None and self._open != (source.name, run.kind):
            self._out.write(b'"}\n')
            self._open = None
        if run.is_long or run.text is not None:
            if self._open is None:
                self._out.write(head)
            self._write_json_pieces(run)
            self._open = (source.name, run.kind) if run.partial else None
            if not run.partial:
                self._out.write(b'"}\n')
            return
        lines = split_lines(run.data)
        for line in lines:
            text = line.removesuffix(b"\n").decode("utf-8", "replace")
            self._out.write(b"%s%s}\n" % (head[:-1], encode_json(text)))

    def _write_json_pieces(self, run: Run) -> None:
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        held = ""
        for piece in run.pieces():
            text = held + decoder.decode(piece)
            # The last newline of all is the line's end, and only the last piece tells where that is.
            held = text[-1:] if text.endswith("\n") else ""
            self._out.write(encode_json(text.removesuffix("\n"))[1:-1])
        self._out.write(encode_json(decoder.decode(b"", True))[1:-1])

    def close(self) -> None:
        """End the line that has no end, and hand all on."""
        if self._open is not None and self._mode != RAW:
            self._out.write(b'"}\n' if self._mode == JSON else b"\n")
            self._open = None
        self.flush()

    def _utc(self, time_ns: int) -> str:
        seconds, rest = divmod(time_ns, SECOND)
        if self._second[0] != seconds:
            self._second = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{self._second[1]}.{rest:09}Z"


def protected(data: bytes) -> bytes:
    """With what a terminal could obey made visible: `^[` for an escape, `\\xff` for what is no UTF-8."""
    text = data.decode("utf-8", "backslashreplace")
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text.encode()
    return "".join(char if char in "\n\t" or char.isprintable() else _visible(char) for char in text).encode()


def _visible(char: str) -> str:
    code = ord(char)
    if code < 0x20 or code == 0x7F:
        return "^" + chr(code ^ 0x40)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def through_pager() -> int:
    """Put $PAGER, or less, between our output and the terminal; its pid."""
    pager = os.environ.get("PAGER") or "less -R"
    env = {"LESS": "FRX", **os.environ}
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_CLOSE, writing)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", pager], env, file_actions=actions)
    os.close(reading)
    sys.stdout.flush()
    os.dup2(writing, 1)
    os.close(writing)
    return pid

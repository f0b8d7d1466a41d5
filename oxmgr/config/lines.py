"""Where each key of a TOML file stands; tomllib does not tell.

Only for a text that tomllib has accepted: nothing is checked here, and what this scan does not understand has no line.
"""

Path = tuple[str, ...]

_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


def find_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, of each table header and key, by its path. An array of tables has no numbers: the
    last table's lines count."""
    return _Scan(text).run()


def find_octals(text: str) -> set[Path]:
    """The keys whose number is written as `0o27`; of that, too, tomllib tells only what it comes to."""
    scan = _Scan(text)
    scan.run()
    return scan.octals


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.octals: set[Path] = set()
        self._line = 1
        self._counted = 0

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while True:
            self._skip(" \t\r\n")
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                self._skip("[")
                table = self._key()
                self._note(table)
                self._skip_line()
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = table + self._key()
        self._note(path)
        self._skip(" \t")
        if self._peek() != "=":
            self._skip_line()
            return
        self.at += 1
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(" \t")
        char = self._peek()
        if char in ('"', "'"):
            self._string()
        elif char == "[":
            self.at += 1
            while self._more("]"):
                self._value(path)
        elif char == "{":
            self.at += 1
            while self._more("}"):
                self._pair(path)
        else:
            if self.text.startswith("0o", self.at):
                self.octals.add(path)
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def _more(self, end: str) -> bool:
        """Whether another element of an array or inline table begins here; past the end if not."""
        self._skip(" \t\r\n,")
        if self._peek() in ("", end):
            self.at += 1
            return False
        return True

    def _key(self) -> Path:
        parts: list[str] = []
        while True:
            self._skip(" \t")
            if self._peek() in ('"', "'"):
                parts.append(self._string())
            else:
                start = self.at
                while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_-"):
                    self.at += 1
                parts.append(self.text[start : self.at])
            self._skip(" \t")
            if self._peek() != ".":
                return tuple(parts)
            self.at += 1

    def _string(self) -> str:
        quote = self.text[self.at]
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(fence)
        out: list[str] = []
        while self.at < len(self.text) and not self.text.startswith(fence, self.at):
            char = self.text[self.at]
            if char == "\\" and quote == '"':
                self.at += 1
                char = _ESCAPES.get(self._peek(), self._peek())
            out.append(char)
            self.at += 1
        self.at += len(fence)
        # A fence may have up to two more quotes before it, which belong to the text (TOML, "Strings").
        while len(fence) == 3 and self._peek() == quote:
            self.at += 1
        return "".join(out)

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self, chars: str) -> None:
        """Past these characters and, where they may stand before a new line, comments."""
        while self.at < len(self.text):
            if self.text[self.at] in chars:
                self.at += 1
            elif self.text[self.at] == "#" and "\n" in chars:
                self._skip_line()
            else:
                return

    def _skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _note(self, path: Path) -> None:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        self.lines[path] = self._line
        # `[a.b]` makes `a` as well.
        for end in range(1, len(path)):
            self.lines.setdefault(path[:end], self._line)

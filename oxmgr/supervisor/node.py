"""How a Node app gets oxmgr/node/preload.cjs, and what that is told."""

import os

from oxmgr.model.listen import Address
from oxmgr.model.spec import Spec
from oxmgr.supervisor.reach import is_hidden, is_readable, is_searchable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.model.places import Places

SPARE = 7
"""Further copies of each socket: a server that is closed takes its own with it, and the next one needs another."""
SPARE_MOST = 256
"""Of all sockets of an app together."""
OPTIONS = "NODE_OPTIONS"
FILE = "preload.cjs"


class Preload:
    def __init__(self, places: "Places") -> None:
        self._own = f"{__file__.rpartition('/supervisor/')[0]}/node/{FILE}"
        self._copy = f"{places.run}/{FILE}"

    def place(self, spec: Spec) -> tuple[str, str]:
        """The file where this app can read it; "" with why not. Where it is in an archive, or behind a folder that is
        not for its user, a copy in the run folder may be."""
        if is_readable(self._own, spec.sandbox):
            return self._own, ""
        if is_searchable(os.path.dirname(self._copy), spec.sandbox) and not is_hidden(self._copy, spec.sandbox):
            try:
                self._write_copy()
            except OSError as error:
                return "", f"{self._copy}: {error.strerror}"
            return self._copy, ""
        return "", f"neither {self._own} nor {self._copy} is its to read"

    def _write_copy(self) -> None:
        loader = globals().get("__loader__")
        data = loader.get_data(self._own) if loader is not None else b""
        fd = os.open(f"{self._copy}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(f"{self._copy}.new", self._copy)

    def options(self, path: str, spec: Spec, environ: bytes) -> str:
        """NODE_OPTIONS with what the user has in it."""
        given = spec.env.get(OPTIONS)
        if given is None:
            words = (word for word in environ.split(b"\0") if word.startswith(b"NODE_OPTIONS="))
            given = os.fsdecode(next(words, b"").partition(b"=")[2])
        quoted = path.replace("\\", "\\\\").replace('"', '\\"')
        ours = f'--require "{quoted}"'
        return given if ours in given else f"{given} {ours}".strip()

    def listen(self, rows: "list[tuple[list[int], int, Address]]", backlog: int) -> str:
        """OXMGR_LISTEN: `fd,fd,…:inode:backlog:address`, with | between them; % and | in a path are as in URLs."""
        return "|".join(
            f"{','.join(map(str, fds))}:{inode}:{backlog}:{one.place.replace('%', '%25').replace('|', '%7C')}"
            for fds, inode, one in rows
        )

"""How a Node app gets oxmgr/node/preload.cjs, and what that is told."""

import os

from oxmgr.model.listen import Address
from oxmgr.model.spec import Spec
from oxmgr.supervisor.reach import is_readable

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
        self._places = places
        self._own = f"{__file__.rpartition('/supervisor/')[0]}/node/{FILE}"

    def place(self, spec: Spec) -> tuple[str, str]:
        """The file as this app can read it; "" with why not."""
        if is_readable(self._own, spec.sandbox):
            return self._own, ""
        return "", f"{self._own} is not to be read by it"

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

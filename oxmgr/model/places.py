"""Where oxmgr keeps its things (file-hierarchy(7), XDG base directories). Computed; nothing is made or read here."""

import os

from oxmgr.model.codec import Struct
from oxmgr.model.logpaths import DAEMON_LOG


class Places(Struct, frozen=True):
    """Folders of one daemon, absolute. `home` is the OXMGR_HOME that gave them, or ''."""

    state: str
    run: str
    logs: str
    home: str = ""

    @property
    def socket(self) -> str:
        return f"{self.run}/oxmgr.sock"

    @property
    def locks(self) -> tuple[str, str]:
        """Of the run folder, and of the state folder, which may be one that cannot be written."""
        return f"{self.run}/lock", f"{self.state}/lock"

    @property
    def desired(self) -> str:
        return f"{self.state}/desired"

    @property
    def journal(self) -> str:
        return f"{self.state}/journal"

    @property
    def events(self) -> str:
        return f"{self.state}/events"

    @property
    def daemon_log(self) -> str:
        return f"{self.logs}/{DAEMON_LOG}"

    @property
    def notes(self) -> str:
        return f"{self.run}/notes"

    def stdin(self, instance: str) -> str:
        return f"{self.run}/{instance}.stdin"

    def pipe(self, instance: str, kind: str) -> str:
        """The FIFO of its standard output (`out`) or standard error (`err`)."""
        return f"{self.run}/{instance}.{kind}"


def places_in_memory(uid: int) -> Places:
    """Of a container that has nothing else to write to: read-only, or without a home."""
    home = f"/dev/shm/oxmgr-{uid}"
    return Places(f"{home}/state", f"{home}/run", f"{home}/logs", home)


def find_places(environ: dict[str, str], uid: int) -> Places:
    """The places of the user `uid` with this environment. ValueError when no home is known."""
    home = environ.get("OXMGR_HOME", "")
    if home:
        home = os.path.abspath(home)
        return Places(f"{home}/state", f"{home}/run", f"{home}/logs", home)
    if uid == 0:
        return Places("/var/lib/oxmgr", "/run/oxmgr", "/var/log/oxmgr")
    state = environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        user = environ.get("HOME", "")
        if not user.startswith("/"):
            raise ValueError("neither OXMGR_HOME nor HOME is set: set OXMGR_HOME to a folder of yours")
        state = f"{user}/.local/state"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    state = f"{state}/oxmgr"
    return Places(state, f"{runtime}/oxmgr" if runtime.startswith("/") else f"{state}/run", f"{state}/logs")

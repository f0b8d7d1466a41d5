"""What users want, on the disk before they are told "done". Owns `desired`, and `desired.1`, the snapshot before it.

A change is a function on a Draft. Changes that come while one is being written go to the disk together with the next.
The writing waits for the disk, so it is background work. What cannot be written is desired all the same: it is in
memory, the guard has a copy, and it goes to the disk as soon as it can.
"""

import time

from oxmgr.model.codec import replace
from oxmgr.model.messages import SavedApp
from oxmgr.model.records import Newer
from oxmgr.model.snapshot import Snapshot, choose, missing, pack, unpack
from oxmgr.model.spec import Spec
from oxmgr.supervisor.files import RETRY, write_safely
from oxmgr.supervisor.health import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.background import Background
    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.spare import Spare

UNSAVED = "what was changed is done, but it is lost if {who} before"

UNREAD = "what is desired is not known; to go by the change before the last one, move this file away"


class Draft:
    """What will be desired: apps by name, and the environments that they name, each kept once."""

    def __init__(self, apps: dict[str, SavedApp], environs: dict[str, bytes]) -> None:
        self.apps = dict(apps)
        self.environs = dict(environs)

    def put(self, spec: Spec, environ: bytes) -> None:
        """The app with this spec, every instance of it running."""
        self.apps[spec.name] = SavedApp(spec, self._named(environ))

    def environ(self, name: str, environ: bytes) -> None:
        """The app's next start gets this environment."""
        if name in self.apps:
            self.apps[name] = replace(self.apps[name], environ=self._named(environ))

    def _named(self, environ: bytes) -> str:
        for name, data in self.environs.items():
            if data == environ:
                return name
        name = next(str(n) for n in range(len(self.environs) + 1) if str(n) not in self.environs)
        self.environs[name] = environ
        return name

    def want(self, name: str, index: int, running: bool) -> None:
        app = self.apps.get(name)
        if app is not None:
            stopped = {*app.stopped, index} if not running else {*app.stopped} - {index}
            self.apps[name] = replace(app, stopped=sorted(stopped))

    def drop(self, name: str) -> None:
        self.apps.pop(name, None)

    def pack(self) -> bytes:
        """The bytes of the file, without the environments that no app names any more."""
        used = {app.environ for app in self.apps.values()}
        self.environs = {name: data for name, data in self.environs.items() if name in used}
        return pack(self.apps, self.environs)


class Desired:
    """`apps` and `environs` are what is desired; `saved` says whether the disk has it."""

    def __init__(self, path: str, loop: "Loop", background: "Background", health: "Health", spare: "Spare") -> None:
        self.apps: dict[str, SavedApp] = {}
        self.environs: dict[str, bytes] = {}
        self.saved = True
        self._path = path
        self._before = f"{path}.1"
        self._whole = True
        self._loop = loop
        self._background = background
        self._health = health
        self._spare = spare
        self._waiting: list[tuple[Callable[[Draft], None], Callable[[OSError | None], None]]] = []
        self._writing: list[Callable[[OSError | None], None]] = []
        self._busy = False
        self._retry: Timer | None = None
        self._draft = Draft({}, {})

    def load(self) -> bool:
        """Whether all of it could be read, so that what is not in it is not desired. When it is damaged or not there,
        the one before is taken, and written in its place. Raises Newer when a later version wrote it, and OSError when
        it cannot be read: it may be whole, and then the one before is not what is desired."""
        chosen = latest = self._read(self._path)
        self._whole = latest.wrong is None
        unwritten = self._unwritten()
        if unwritten is not None:
            chosen = unwritten
        elif not self._whole:
            before = self._read(self._before)
            chosen = choose(latest, before)
            if chosen is before:
                self._health.tell(
                    f"{self._path}: {latest.wrong}; what was desired before the last change is desired again"
                )
        self.apps, self.environs = chosen.apps, chosen.environs
        if chosen is unwritten or (not self._whole and chosen.apps):
            self._write_next()
        return chosen.wrong is None and chosen in (latest, unwritten) and not self._health.has_aside(self._path)

    def _unwritten(self) -> Snapshot | None:
        data = self._spare.claim()
        found = None if data is None else unpack(data)
        return found if found is not None and found.wrong is None else None

    def _read(self, path: str) -> Snapshot:
        try:
            data = self._health.read(path)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {UNREAD}", path) from None
        if data is None:
            return missing()
        try:
            found = unpack(data)
        except Newer as error:
            raise refusal(path, error) from None
        if found.wrong is not None:
            self._health.keep_aside(path, "damaged", found.wrong)
        return found

    def assume(self, change: "Callable[[Draft], None]") -> None:
        """What the change makes is desired from now on; to be followed by a commit of it."""
        draft = Draft(self.apps, self.environs)
        change(draft)
        self.apps, self.environs = draft.apps, draft.environs

    @property
    def idle(self) -> bool:
        """Whether nothing is being written now."""
        return not self._busy

    def commit(self, change: "Callable[[Draft], None]", done: "Callable[[OSError | None], None]") -> None:
        """Desire this as well, then call `done`: with None when it is on the disk, else with why it is not yet."""
        self._waiting.append((change, done))
        if not self._busy:
            self._write_next()

    def _write_next(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._draft = Draft(self.apps, self.environs)
        for change, done in self._waiting:
            change(self._draft)
            self._writing.append(done)
        self._waiting = []
        self._busy = True
        self.saved = False
        data = self._draft.pack()
        # A snapshot that is not whole must not take the place of the one before.
        before = self._health.due_aside(self._path) or (self._before if self._whole else "")
        self._background.run(
            lambda: write_safely(self._path, data, before), lambda error: self._on_written(error, data)
        )

    def _on_written(self, error: OSError | None, data: bytes) -> None:
        told, self._writing = self._writing, []
        self._busy = False
        self.apps, self.environs = self._draft.apps, self._draft.environs
        self.saved = error is None
        self._whole = self._whole or self.saved
        if self.saved:
            self._spare.drop()
        else:
            self._spare.put(data)
        self._health.note(self._path, error, UNSAVED.format(who=self._spare.who_ends))
        if self._waiting:
            self._write_next()
        elif error is not None:
            self._retry = self._loop.at(time.monotonic() + RETRY, self._write_next)
        for done in told:
            self._background.later(lambda done=done: done(error))  # type: ignore[misc]

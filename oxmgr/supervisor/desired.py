"""What users want, on the disk before they are told "done". Owns the file `desired`.

A change is a function on a Draft. Changes that come while one is being written go to the disk together with the next.
The writing waits for the disk, so it is background work; a change that could not be written has not happened.
"""

import os

from oxmgr.model.check import spec_error
from oxmgr.model.codec import DecodeError, Decoder, encode, replace
from oxmgr.model.messages import Saved, SavedApp, SavedEnviron
from oxmgr.model.records import file_header, record
from oxmgr.model.spec import NAME_LIMIT, Spec
from oxmgr.supervisor.files import Health, write_safely

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.background import Background


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
        parts = [file_header("desired")]
        parts += [record(encode(SavedEnviron(name, data))) for name, data in self.environs.items()]
        parts += [record(encode(app)) for app in self.apps.values()]
        return b"".join(parts)


class Desired:
    """`apps` and `environs` are what is on the disk."""

    def __init__(self, path: str, background: "Background", health: Health) -> None:
        self.apps: dict[str, SavedApp] = {}
        self.environs: dict[str, bytes] = {}
        self._path = path
        self._background = background
        self._health = health
        self._waiting: list[tuple[Callable[[Draft], None], Callable[[OSError | None], None]]] = []
        self._writing: list[Callable[[OSError | None], None]] = []
        self._draft = Draft({}, {})

    def load(self) -> bool:
        """Whether all of it could be read, so that what is not in it is not desired."""
        whole = True
        decoder = Decoder(Saved)
        for payload in self._health.read(self._path, "desired", appended=False):
            try:
                saved = decoder.decode(payload)
            except DecodeError as error:
                self._health.keep_aside(self._path, "damaged", str(error))
                whole = False
                continue
            if isinstance(saved, SavedApp):
                wrong = spec_error(saved.spec)
                if wrong:
                    self._health.keep_aside(self._path, "damaged", f"{saved.spec.name[:NAME_LIMIT]!r}: {wrong}")
                    whole = False
                    continue
                self.apps[saved.spec.name] = saved
            else:
                self.environs[saved.id] = saved.data
        return whole and os.path.exists(self._path) and not self._health.has_aside(self._path)

    @property
    def idle(self) -> bool:
        return not self._writing and not self._waiting

    def commit(self, change: "Callable[[Draft], None]", done: "Callable[[OSError | None], None]") -> None:
        """Have the change on the disk, then call `done`: with None when it is, else with why it is not."""
        self._waiting.append((change, done))
        if not self._writing:
            self._write_next()

    def _write_next(self) -> None:
        self._draft = Draft(self.apps, self.environs)
        for change, done in self._waiting:
            change(self._draft)
            self._writing.append(done)
        self._waiting = []
        data = self._draft.pack()
        self._background.run(lambda: write_safely(self._path, data), self._on_written)

    def _on_written(self, error: OSError | None) -> None:
        told, self._writing = self._writing, []
        if error is None:
            self.apps, self.environs = self._draft.apps, self._draft.environs
        self._health.note(self._path, error)
        if self._waiting:
            self._write_next()
        for done in told:
            self._background.later(lambda done=done: done(error))  # type: ignore[misc]

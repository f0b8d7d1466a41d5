"""How a file of the state folder is read and written. One function does each; everybody uses them."""

import os
import time

from oxmgr.model.records import MARK, Newer, read_records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.logfile import Log

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def write_safely(path: str, data: bytes) -> None:
    """Put the file there whole, or leave what was there; on return it is on the disk. OSError if it is not.

    Written aside, fsynced, renamed, the folder fsynced: the order of rename(2) and fsync(2) that a power cut
    at any point survives. Waits for the disk.
    """
    fd = write_aside(path, data)
    try:
        os.fsync(fd)
        os.rename(f"{path}.new", path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.close(fd)


def write_aside(path: str, data: bytes) -> int:
    """An fd that appends to `path.new`, which holds the data but is perhaps not on the disk yet."""
    fd = os.open(f"{path}.new", _APPEND | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        os.unlink(f"{path}.new")
        raise
    return fd


def append(fd: int, data: bytes) -> None:
    """All of it or, with an OSError, nothing: a short write is taken back."""
    written = os.write(fd, data)
    if written < len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(28, os.strerror(28))


def open_append(path: str) -> int:
    return os.open(path, _APPEND, 0o600)


def boot_id() -> str:
    """Differs from boot to boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


class Health:
    """What a user ought to know of the state folder: files that were kept aside, and files that fail."""

    def __init__(self, folder: str, log: "Log") -> None:
        names = sorted(name for name in os.listdir(folder) if ".damaged-" in name or ".newer-" in name)
        self._aside = [f"{folder}/{name}" for name in names]
        self._failing: dict[str, str] = {}
        self._told: list[str] = []
        self._log = log

    def warnings(self) -> list[str]:
        """A file kept aside is told of until it is removed."""
        self._aside = [path for path in self._aside if os.path.exists(path)]
        aside = [
            f"{path} was kept aside, for not all of it could be read: look at it, then remove it"
            for path in self._aside
        ]
        return aside + self._told + [f"{path} {why}" for path, why in self._failing.items()]

    def has_aside(self, path: str) -> bool:
        """Whether a file of that name was kept aside, and is still there."""
        return any(one.startswith(f"{path}.") and os.path.exists(one) for one in self._aside)

    def tell(self, text: str) -> None:
        """Something that stays true until the next daemon."""
        self._told.append(text)
        self._log(text)

    def note(self, path: str, error: OSError | None) -> None:
        """Writing it went well (None) or did not."""
        if error is None:
            self._failing.pop(path, None)
        elif path not in self._failing:
            self._failing[path] = f"cannot be written ({error.strerror}): what runs goes on, but is not recorded"
            self._log(f"{path} {self._failing[path]}")

    @property
    def failing(self) -> bool:
        return bool(self._failing)

    def read(self, path: str, kind: str, *, appended: bool) -> list[bytes]:
        """The good records of a file. One that is damaged is kept aside; a torn end of an appended one is what
        a kill leaves and no damage."""
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.keep_aside(path, "damaged", error.strerror or str(error))
            return []
        try:
            payloads, wrong, good = read_records(kind, data)
        except Newer as error:
            self.keep_aside(path, "newer", str(error))
            return []
        torn = appended and good > 0 and data.find(MARK, good + 1) < 0
        if wrong and not torn:
            self.keep_aside(path, "damaged", wrong)
        return payloads

    def keep_aside(self, path: str, how: str, why: str) -> None:
        if any(one.startswith(f"{path}.{how}-") and _is_same(path, one) for one in self._aside):
            return
        kept = f"{path}.{how}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            _link_or_copy(path, kept)
        except FileExistsError:
            pass
        except OSError as error:
            self._log(f"cannot keep {path} aside as {kept}: {error.strerror}")
            return
        self._aside.append(kept)
        self._log(f"{path}: {why}; kept aside as {kept}")


def _link_or_copy(path: str, kept: str) -> None:
    """FileExistsError when there is one of that name. Some file systems, and some rules of the kernel
    (fs.protected_hardlinks), know no second name for a file."""
    try:
        os.link(path, kept)
    except FileExistsError:
        raise
    except OSError:
        if os.path.exists(kept):
            raise
        with open(path, "rb") as file:
            write_safely(kept, file.read())


def _is_same(path: str, kept: str) -> bool:
    try:
        if os.path.samefile(path, kept):
            return True
        with open(path, "rb") as one, open(kept, "rb") as other:
            return one.read() == other.read()
    except OSError:
        return False

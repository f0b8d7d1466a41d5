"""Where the lines of an app go, by its spec: names of files, and who would write to which. Pure."""

from oxmgr.model.logindex import ROTATED, SUFFIX
from oxmgr.model.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Claim = tuple[str, str]
    """Who would write to a file, and the key of its spec that says so, or ""."""

DAEMON_LOG = "oxmgr.log"
DAEMON = "the daemon itself"
KEYS = ("log_file", "error_log_file")


def log_paths(spec: Spec, index: int, logs: str) -> tuple[str, str]:
    """The files that are wished for to hold stdout and stderr of an instance; `logs` is the log folder.

    The first instance's files carry the app's name alone, so that they stay the same when the app is scaled;
    the others add `:N`, which no app's name can contain.
    """
    out, err = default_log_paths(spec.name, 0, logs)
    out, err = spec.log_file or out, spec.error_log_file or spec.log_file or err
    return _numbered(out, index), _numbered(err, index)


def default_log_paths(app: str, index: int, logs: str) -> tuple[str, str]:
    """Those of an app that wishes for none, and of one whose wish cannot be fulfilled."""
    return _numbered(f"{logs}/{app}.out.log", index), _numbered(f"{logs}/{app}.err.log", index)


def _numbered(path: str, index: int) -> str:
    if index == 0 or path.startswith("/dev/"):
        return path
    folder, _, file = path.rpartition("/")
    stem, dot, ending = file.partition(".")
    return f"{folder}/{stem}:{index}{dot}{ending}"


def log_name_error(path: str) -> str | None:
    """Why no log can be called so: what stands beside a log would be taken for one of its own files, or a file of
    another log's for this. None when it can."""
    name = path.rpartition("/")[2]
    if ROTATED in name:
        return f"a log's name cannot have a {ROTATED}, which rotated files have"
    if name.endswith(SUFFIX):
        return f"a log's name cannot end in {SUFFIX}, which the index beside a log does"
    return None


def shared_logs(specs: list[Spec], logs: str, real: "Callable[[str], str]") -> "Iterator[tuple[str, Claim, Claim]]":
    """Files that two apps, or an app and the daemon, would write to. `real` gives a folder's name without symbolic
    links; a file that is a link itself is no log."""
    if not any(spec.log_file or spec.error_log_file for spec in specs):
        return
    known: dict[str, str] = {}
    owners: dict[str, Claim] = {}

    def meant(path: str) -> str:
        folder, _, name = path.rpartition("/")
        if folder not in known:
            known[folder] = real(folder or "/")
        return f"{known[folder]}/{name}"

    for path in (f"{logs}/{DAEMON_LOG}", f"{logs}/{DAEMON_LOG}.1"):
        owners[meant(path)] = DAEMON, ""
    for spec in specs:
        for index in range(spec.instances if spec.logs.sink == "file" else 0):
            for number, path in enumerate(log_paths(spec, index, logs)):
                key = KEYS[number] if spec.error_log_file else KEYS[0]
                claim = spec.name, key if getattr(spec, key) else ""
                if not path.startswith("/dev/"):
                    owner = owners.setdefault(meant(path), claim)
                    if owner[0] != spec.name:
                        yield path, owner, claim

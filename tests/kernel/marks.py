"""Where the guest tries to write, and the host looks whether it came through."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MARKED = [
    REPOSITORY,
    REPOSITORY / "tests",
    *(Path(folder) for folder in ("/", "/etc", "/home", "/opt", "/root", "/tmp", "/usr", "/var", "/var/tmp")),
]

"""How the files of the state folder are kept aside."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxmgr.supervisor.health import Health
from oxmgr.supervisor.logfile import Log


@pytest.fixture
def health(tmp_path: Path) -> Health:
    return Health(str(tmp_path), Log(str(tmp_path / "log")))


@pytest.fixture(params=["links", "no links"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file, and one that is a mount of its own, which link(2) does not take (EXDEV)."""
    found = tmp_path / "desired"
    found.write_bytes(b"rotten")
    if request.param == "links":
        yield found
        return
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"rotten")
    subprocess.run(["mount", "--bind", elsewhere, found], check=True)
    yield found
    subprocess.run(["umount", found], check=True)


def test_a_file_is_kept_aside_once_and_told_of_until_it_is_removed(path: Path, health: Health) -> None:
    health.keep_aside(str(path), "damaged", "rotten")
    (kept,) = path.parent.glob("desired.damaged-*")
    assert kept.read_bytes() == b"rotten" and str(kept) in health.warnings()[0]
    # The next daemon, which may come in another second, finds the same.
    kept = kept.rename(path.parent / "desired.damaged-20000101-000000")
    again = Health(str(path.parent), Log(str(path.parent / "log")))
    again.keep_aside(str(path), "damaged", "rotten")
    assert list(path.parent.glob("desired.damaged-*")) == [kept]
    kept.unlink()
    assert again.warnings() == []

"""What root opens where others may write is what stands there, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oxmgr.client.logchain import open_live
from oxmgr.client.logfile import Source, open_regular
from oxmgr.folders import open_to_read
from oxmgr.helpers.alert import last_lines
from oxmgr.model.logindex import SUFFIX

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="of root's rights")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of another user's, in which `app.log` is."""
    folder = tmp_path / "own"
    folder.mkdir()
    (tmp_path / "secret").write_text("a secret\n")
    (folder / "app.log").write_text("a line\n")
    os.chown(folder, 65534, 65534)
    return folder


def by_link(own: Path) -> Path:
    (own / "app.log").unlink()
    (own / "app.log").symlink_to(own.parent / "secret")
    return own / "app.log"


def by_hard_link(own: Path) -> Path:
    (own / "app.log").unlink()
    (own / "app.log").hardlink_to(own.parent / "secret")
    return own / "app.log"


def by_folder(own: Path) -> Path:
    (own / "logs").symlink_to(own.parent)
    return own / "logs" / "secret"


@pytest.mark.parametrize("put", [by_link, by_hard_link, by_folder])
def test_another_file_in_its_place_is_not_read(own: Path, put: Callable[[Path], Path]) -> None:
    path = str(put(own))
    assert Path(path).read_text() == "a secret\n"
    with pytest.raises(OSError):
        open_to_read(path)
    assert open_regular(path) == -1 and open_live(path, Source("")) is None
    assert last_lines([path, path], 1 << 62) == ([], [])


def test_nor_is_its_index(own: Path) -> None:
    (own / f"app.log{SUFFIX}").symlink_to(own.parent / "secret")
    assert last_lines([str(own / "app.log")] * 2, 1 << 62) == (["a line"], [])
    with pytest.raises(OSError):
        open_to_read(str(own / f"app.log{SUFFIX}"))


def test_what_is_its_own_is_read(own: Path) -> None:
    assert last_lines([str(own / "app.log")] * 2, 1 << 62) == (["a line"], [])


def test_a_link_that_only_root_can_change_is_followed(tmp_path: Path, own: Path) -> None:
    tmp_path.chmod(0o755)
    link = tmp_path / "log"
    link.symlink_to(own / "app.log")
    fd = open_to_read(str(link))
    assert os.read(fd, 100) == b"a line\n"
    os.close(fd)

"""What a daemon that takes over makes of what it cannot find out."""

import errno
import os
from pathlib import Path

import pytest

from oxmgr.supervisor import cgroup, native
from oxmgr.supervisor.locks import _is_lock
from oxmgr.supervisor.takeover import _is_there


def test_a_folder_that_cannot_be_looked_at_is_not_taken_for_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _is_there(str(tmp_path)) and not _is_there(f"{tmp_path}/none")

    def fails(path: str) -> os.stat_result:
        raise OSError(errno.ENOMEM, "not now")

    monkeypatch.setattr(os, "stat", fails)
    with pytest.raises(OSError, match="not now"):
        _is_there(str(tmp_path))


def test_a_cgroup_that_cannot_be_looked_at_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> bytes:
        raise OSError(errno.EMFILE, "not now")

    monkeypatch.setattr(native, "read_whole", fails)
    with pytest.raises(OSError, match="not now"):
        cgroup.folder_of(os.getpid(), "/")


def test_a_lock_that_cannot_be_looked_at_is_not_taken_for_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open(path, "wb") as file:
        assert _is_lock(file.fileno(), str(path)) and not _is_lock(file.fileno(), f"{path}.none")

        def fails(fd: int) -> os.stat_result:
            raise OSError(errno.ENOMEM, "not now")

        monkeypatch.setattr(os, "fstat", fails)
        with pytest.raises(OSError, match="not now"):
            _is_lock(file.fileno(), str(path))
        monkeypatch.undo()

"""A folder with programs in it, and oxfiles read from it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oxmgr.config.errors import ConfigError
from oxmgr.config.oxfile import load_oxfile
from oxmgr.model.spec import Spec

Load = Callable[..., dict[str, Spec]]
Problems = Callable[..., list[str]]


def program(folder: Path, name: str, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """PATH has `node`, `python3`, `sleep` and `sh`, none of which does anything."""
    for name in ("node", "python3", "sleep", "sh", "npm"):
        program(tmp_path / "bin", name)
    return {"PATH": str(tmp_path / "bin"), "HOME": "/home/someone"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def load(folder: Path, environ: dict[str, str]) -> Load:
    """The specs of an oxfile with this text, by their names, in the file's order of starts."""

    def loaded(text: str, **options: object) -> dict[str, Spec]:
        path = folder / "oxfile.toml"
        path.write_text(text)
        return {spec.name: spec for spec in load_oxfile(str(path), environ=environ, **options)}  # type: ignore[arg-type]

    return loaded


@pytest.fixture
def problems(load: Load, folder: Path) -> Problems:
    """What is said of an oxfile with this text, each as `LINE: KEY: MESSAGE`."""

    def told(text: str, **options: object) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text, **options)
        prefix = f"{folder / 'oxfile.toml'}:"
        lines = str(raised.value).splitlines()
        assert all(line.startswith(prefix) for line in lines), lines
        return [line.removeprefix(prefix).strip() for line in lines]

    return told


__all__ = ["Load", "Problems", "os", "program"]

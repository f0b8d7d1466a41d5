"""The short form of the campaign, and programs that print and are gone."""

import shutil
import sys
from pathlib import Path

import pytest

from oxmgr.model.spec import NEVER, Logs, Spec
from tests.conftest import Home, wait_until
from tests.faults.campaign import FORMS, build_printer, campaign, check

COUNT = 20_000


@pytest.mark.parametrize("form", FORMS)
def test_kills_rotations_and_a_full_disk_neither_lose_nor_double_a_line(empty_home: Home, form: str) -> None:
    assert campaign(empty_home, form, lines=120_000, kills=12, pause=2000, size_mb=0.25) > 10


PROGRAMS = {
    "node": [
        "node",
        "-e",
        f"for (let i = 0; i < {COUNT}; i++) console.log(String(i).padStart(10, '0')); process.exit()",
    ],
    "python": [sys.executable, "-c", f"for i in range({COUNT}): print('%010d' % i)"],
    "sh": ["sh", "-c", f'i=0; while [ $i -lt {COUNT} ]; do printf "%010d\\n" $i; i=$((i+1)); done'],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("language", [*PROGRAMS, "c"])
def test_who_prints_20000_lines_and_exits_has_printed_20000_lines(home: Home, language: str, form: str) -> None:
    argv = PROGRAMS.get(language) or [build_printer(home.folder), str(COUNT)]
    assert shutil.which(argv[0])
    home.apply(Spec("app", language, argv, str(home.folder), restart=NEVER, logs=Logs(format=form)))
    view = home.until("app", lambda view: view.status == "exited", "its end")
    assert view.exit_code == 0
    # What it printed is in its log before anybody is told of its end.
    check(f"{home.places.logs}/app.out.log", form, COUNT)


def test_two_floods_share_a_file_line_by_line(home: Home) -> None:
    path = Path(home.folder) / "both.log"
    script = f"{build_printer(home.folder)} 5000 & {build_printer(home.folder)} 5000 >&2; wait"
    home.apply(home.sh("app", script, log_file=str(path), restart=NEVER))
    home.until("app", lambda view: view.status == "exited", "its end")
    wait_until(lambda: path.read_bytes().count(b"\n") == 10_000, "all of both")

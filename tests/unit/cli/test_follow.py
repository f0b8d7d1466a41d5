"""Following where the kernel is of less help than usual."""

import io
import os
import threading
from pathlib import Path

import pytest

from oxmgr.cli import follow
from oxmgr.cli.follow import Follow
from oxmgr.cli.logprint import TEXT, Printer
from oxmgr.cli.logsources import Sources
from oxmgr.client.inotify import CHANGES, CREATE, MODIFY, FolderWatch, Inotify
from oxmgr.model.places import Places
from tests.conftest import wait_until


def test_without_inotify_files_are_looked_at_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_left() -> FolderWatch:
        raise OSError(24, "Too many open files: more of fs.inotify.max_user_instances are needed")

    monkeypatch.setattr(follow, "FolderWatch", none_left)
    places = Places(str(tmp_path / "state"), str(tmp_path / "run"), str(tmp_path))
    sources, out = Sources(places), io.BytesIO()
    log = tmp_path / "app.out.log"
    log.write_bytes(b"before\n")
    sources.add(str(log), "app", "app", 0, "out")
    following = Follow(places, sources, Printer(TEXT, out))
    for chain in sources.chains():
        following.add(chain)
    until, ended = os.pipe()
    thread = threading.Thread(target=following.run, args=(until,))
    thread.start()
    with log.open("ab") as file:
        file.write(b"1\n2")
    wait_until(lambda: out.getvalue() == b"1\n", "the line")
    os.close(ended)
    thread.join()
    os.close(until)
    assert out.getvalue() == b"1\n2\n"
    assert "max_user_instances" in capsys.readouterr().err


def test_a_folder_is_watched_as_soon_as_it_comes_and_comes_again(tmp_path: Path) -> None:
    watch = FolderWatch()
    wanted = tmp_path / "a" / "b"
    watch.want(str(wanted))
    for _ in range(2):
        wanted.mkdir(parents=True)
        assert watch.look()
        (wanted / "file").write_bytes(b"x")
        found = watch.look()
        assert (str(wanted), "file", CREATE) in found and (str(wanted), "file", MODIFY) in found
        held = (wanted / "file").open()
        (wanted / "file").unlink()
        watch.look()
        # As who hears that a log was removed does: the folder itself would not tell while the file is held open.
        watch.suspect(str(wanted))
        wanted.rmdir()
        wanted.parent.rmdir()
        assert any(not folder for folder, _, _ in watch.look())
        held.close()
    os.close(watch.fd)


def test_lost_events_are_told_as_anything_may_have_happened(tmp_path: Path) -> None:
    inotify = Inotify()
    assert inotify.watch(str(tmp_path), CHANGES) and not inotify.watch(str(tmp_path / "none"), CHANGES)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit // 2 + 1):
        os.mkdir(tmp_path / f"{number}")
        os.rmdir(tmp_path / f"{number}")
    found = []
    while more := inotify.read():
        found += more
    assert found[-1][:2] == ("", "") and len(found) <= limit + 1
    os.close(inotify.fd)

"""Restarts when files change, by inotify, with a daemon and real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oxmgr.client.saved import read_saved_events
from oxmgr.model.codec import replace
from oxmgr.model.messages import Act, Apply, Done, Event
from oxmgr.model.spec import Spec
from tests.conftest import Home, no_more_files, wait_until


@pytest.fixture
def project(home: Home) -> Path:
    folder = home.folder / "project"
    folder.mkdir()
    (folder / "main.py").write_text("1\n")
    return folder


def watched(home: Home, project: Path, **keys: object) -> Spec:
    keys = {"watch": [str(project)], "watch_delay_ms": 50, "working_dir": str(project), **keys}
    return home.sh("app", "exec sleep 600", **keys)


def seen(home: Home, app: str = "app") -> list[Event]:
    return [event for event in read_saved_events(home.places) if event.app == app and event.kind == "watch"]


def start(home: Home, spec: Spec) -> int:
    """The pid, once all that it asks for is watched."""
    home.apply(spec)
    daemon = home.daemon.pid if home.daemon else 0
    wait_until(lambda: is_watching(daemon, len(spec.watch)), "its folders are watched")
    return home.pid(spec.name)


def inotify_fds(daemon: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{daemon}/fd"):
        try:
            if os.readlink(f"/proc/{daemon}/fd/{fd}") == "anon_inode:inotify":
                found.append(fd)
        except FileNotFoundError:
            continue
    return found


def fdinfo(daemon: int, fd: str) -> str:
    """What the kernel says of it (proc(5))."""
    try:
        return Path(f"/proc/{daemon}/fdinfo/{fd}").read_text()
    except FileNotFoundError:
        return ""


def is_watching(daemon: int, at_least: int) -> bool:
    """It has so many watches, and its epoll set has EPOLLIN for each inotify fd: no walk is under way."""
    fds = inotify_fds(daemon)
    lines = [line.split() for fd in os.listdir(f"/proc/{daemon}/fdinfo") for line in fdinfo(daemon, fd).splitlines()]
    armed = {words[1] for words in lines if words[:1] == ["tfd:"] and int(words[3], 16) & 1}
    return bool(fds) and set(fds) <= armed and sum(words[:1] == ["inotify"] for words in lines) >= at_least


def next_pid(home: Home, before: int, why: str) -> int:
    view = home.until("app", lambda view: view.pid not in (None, before) and view.status == "running", why)
    assert view.pid is not None
    return view.pid


def test_a_change_restarts_it_once_and_the_event_names_the_file(home: Home, project: Path) -> None:
    first = start(home, watched(home, project))
    for number in range(5):
        (project / "main.py").write_text(f"{number}\n")
    second = next_pid(home, first, "a file was written")
    assert [event.reason for event in seen(home)] == ["main.py has changed"]
    (project / "other.py").write_text("x\n")
    next_pid(home, second, "a file was made")
    assert [event.reason for event in seen(home)][1:] == ["other.py has changed"]
    assert home.views()["app"].restarts == 2


def test_what_an_editor_does_to_save_a_file_is_one_change(home: Home, project: Path) -> None:
    first = start(home, watched(home, project))
    (project / "4913").write_text("")
    (project / "4913").unlink()
    (project / "main.py").rename(project / "main.py~")
    (project / "main.py").write_text("2\n")
    (project / "main.py~").unlink()
    second = next_pid(home, first, "saved as Vim does it")
    (project / ".main.py.new").write_text("3\n")
    (project / ".main.py.new").rename(project / "main.py")
    next_pid(home, second, "saved by rename")
    reasons = [event.reason for event in seen(home)]
    assert reasons[0] == "main.py has changed" and reasons[1].startswith("main.py and 1 other")


def test_a_new_folder_is_watched_with_what_was_made_in_it_at_once(home: Home, project: Path) -> None:
    pid = start(home, watched(home, project, watch_extensions=["py"]))
    (project / "a/b/c").mkdir(parents=True)
    (project / "a/b/c/new.py").write_text("1\n")
    pid = next_pid(home, pid, "a file in a new folder")
    (project / "a/b/c/new.py").write_text("2\n")
    pid = next_pid(home, pid, "the same again")
    (project / "a").rename(project / "z")
    pid = next_pid(home, pid, "a folder has another name")
    wait_until(lambda: is_watching(home.daemon.pid if home.daemon else 0, 4), "it is watched by its name")
    (project / "z/b/c/new.py").write_text("3\n")
    next_pid(home, pid, "and is watched under it")
    assert seen(home)[-1].reason == "z/b/c/new.py has changed"


def test_what_is_ignored_and_other_endings_restart_nothing(home: Home, project: Path) -> None:
    (project / "node_modules").mkdir()
    first = start(home, watched(home, project, watch_extensions=["py"], watch_ignore=["gen", "*_test.py"]))
    for path in ("node_modules/x.py", "gen", "main_test.py", "notes.txt", ".git"):
        if path == ".git" or path == "gen":
            (project / path).mkdir()
            (project / path / "x.py").write_text("1\n")
        else:
            (project / path).write_text("1\n")
    (project / "last.py").write_text("1\n")
    next_pid(home, first, "the one that counts")
    assert [event.reason for event in seen(home)] == ["last.py has changed"]


def test_its_own_logs_and_state_are_no_change(home: Home) -> None:
    """Although all of oxmgr is in the folder."""
    log = str(home.folder / "chatty.txt")
    script = "while :; do echo x; read -t 0.02 line; done"
    spec = Spec(
        "app",
        script,
        ["/bin/bash", "-c", script],
        str(home.folder),
        watch=[str(home.folder)],
        watch_delay_ms=0,
        log_file=log,
    )
    first = start(home, spec)
    wait_until(lambda: os.path.getsize(log) > 20, "it prints")
    (home.folder / "main.py").write_text("1\n")
    next_pid(home, first, "a file of its own")
    assert [event.reason for event in seen(home)] == ["main.py has changed"]


def test_what_an_app_does_as_it_ends_does_not_end_it_again(home: Home, project: Path) -> None:
    """It removes its pid file, as many do."""
    script = "trap 'rm -f app.pid; exit 0' TERM; touch ready; while :; do sleep 0.01; done"
    (project / "app.pid").write_text("1\n")
    start(
        home,
        home.sh(
            "app", script, watch=[str(project)], working_dir=str(project), watch_ignore=["ready"], watch_delay_ms=100
        ),
    )
    wait_until((project / "ready").exists, "it has begun")
    (project / "main.py").write_text("2\n")
    wait_until(lambda: not (project / "app.pid").exists() and home.views()["app"].status == "running", "a restart")
    (project / "main.py").write_text("3\n")
    wait_until(lambda: len(seen(home)) == 2, "the next change")
    assert [event.reason.split()[0] for event in seen(home)] == ["main.py", "main.py"]


def test_files_by_name_and_folders_that_go_and_come(home: Home, project: Path) -> None:
    (project / "dist").mkdir()
    (project / "dist/a.js").write_text("1\n")
    (project / "app.toml").write_text("1\n")
    pid = start(home, watched(home, project, watch=[str(project / "dist"), str(project / "app.toml")]))
    daemon = home.daemon.pid if home.daemon else 0
    (project / "app.new").write_text("2\n")
    (project / "app.new").rename(project / "app.toml")
    pid = next_pid(home, pid, "a file that is watched by name was replaced")
    assert seen(home)[-1].reason == "app.toml has changed"
    (project / "dist/a.js").unlink()
    (project / "dist").rmdir()
    pid = next_pid(home, pid, "the folder was removed")
    wait_until(lambda: is_watching(daemon, 1), "all is watched anew")
    (project / "dist").mkdir()
    (project / "dist/a.js").write_text("2\n")
    pid = next_pid(home, pid, "it is there again")
    wait_until(lambda: is_watching(daemon, 2), "all is watched anew")
    (project / "dist/b.js").write_text("2\n")
    next_pid(home, pid, "and watched")


def test_a_symbolic_link_that_leads_elsewhere_is_a_change(home: Home, project: Path) -> None:
    for number in (1, 2):
        (project / f"releases/{number}").mkdir(parents=True)
    (project / "current").symlink_to("releases/1")
    pid = start(home, watched(home, project, watch=[str(project / "current")]))
    (project / "next").symlink_to("releases/2")
    (project / "next").rename(project / "current")
    pid = next_pid(home, pid, "the link leads to another folder")
    wait_until(lambda: is_watching(home.daemon.pid if home.daemon else 0, 2), "it is watched")
    (project / "releases/2/main.py").write_text("1\n")
    next_pid(home, pid, "what it leads to is watched")


def test_a_stopped_app_is_not_started_by_a_change_and_costs_nothing(home: Home, project: Path) -> None:
    start(home, watched(home, project))
    daemon = home.daemon.pid if home.daemon else 0
    home.request(Act("stop", ["app"]))
    wait_until(lambda: not inotify_fds(daemon), "nothing is watched")
    (project / "main.py").write_text("2\n")
    assert home.views()["app"].status == "stopped"
    home.request(Act("start", ["app"]))
    wait_until(lambda: is_watching(daemon, 1), "it is watched again")
    assert not seen(home), "what was changed while it was stopped is no change"


def test_an_app_that_has_given_up_is_started_by_a_change(home: Home, project: Path) -> None:
    (project / "main.sh").write_text("exit 1\n")
    home.apply(
        home.sh(
            "app", "exec sh main.sh", watch=[str(project)], working_dir=str(project), watch_delay_ms=0, max_restarts=1
        )
    )
    home.until("app", lambda view: view.status == "errored")
    wait_until(lambda: is_watching(home.daemon.pid if home.daemon else 0, 1), "it is watched")
    (project / "main.sh").write_text("exec sleep 600\n")
    home.until("app", lambda view: view.status == "running")


def test_apply_changes_what_is_watched_without_a_restart(home: Home, project: Path) -> None:
    other = home.folder / "other"
    other.mkdir()
    spec = watched(home, project)
    pid = start(home, spec)
    home.apply(watched(home, project, watch=[str(other)]))
    daemon = home.daemon.pid if home.daemon else 0
    wait_until(lambda: is_watching(daemon, 1) and len(inotify_fds(daemon)) == 1, "the other folder is watched alone")
    assert home.pid("app") == pid
    (project / "main.py").write_text("2\n")
    (other / "x").write_text("1\n")
    next_pid(home, pid, "a change in the other")
    assert [event.reason for event in seen(home)] == [f"{other}/x has changed"]
    home.apply(watched(home, project, watch=[]))
    wait_until(lambda: not inotify_fds(daemon), "nothing is watched")


def test_a_daemon_that_takes_over_watches_too(home: Home, project: Path) -> None:
    pid = start(home, watched(home, project))
    home.kill_daemon()
    home.start_daemon()
    assert home.pid("app") == pid
    wait_until(lambda: is_watching(home.daemon.pid if home.daemon else 0, 1), "it is watched")
    (project / "main.py").write_text("2\n")
    next_pid(home, pid, "a change")


def test_events_that_were_lost_are_made_up_for(home: Home, project: Path) -> None:
    """The daemon stands still while more happens than the kernel keeps of it (fs.inotify.max_queued_events)."""
    pid = start(home, watched(home, project, watch_extensions=["py"]))
    daemon = home.daemon.pid if home.daemon else 0
    handle = os.pidfd_open(daemon)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    try:
        os.kill(daemon, 19)
        script = f"""
import os
for number in range({most // 2 + 100}):
    os.close(os.open("x.txt", os.O_WRONLY | os.O_CREAT))
    os.unlink("x.txt")
os.mkdir("late")
open("late/new.py", "w").close()
"""
        subprocess.run([sys.executable, "-c", script], cwd=project, check=True, timeout=60)
    finally:
        os.kill(daemon, 18)
        os.close(handle)
    pid = next_pid(home, pid, "a file that was made after the queue was full")
    # What was made just before the start may be among it.
    assert seen(home)[-1].reason in ("late/new.py has changed", "main.py and 1 other have changed")
    wait_until(lambda: is_watching(daemon, 2), "the new folder is watched")
    (project / "late/more.py").write_text("1\n")
    next_pid(home, pid, "what is changed in it")


def test_a_large_tree_keeps_nobody_waiting(home: Home, project: Path) -> None:
    for number in range(2000):
        (project / f"d{number % 40}/e{number}").mkdir(parents=True)
    pid = start(home, watched(home, project))
    wait_until(lambda: is_watching(home.daemon.pid if home.daemon else 0, 2041), "all of it is watched")
    (project / "d7/e7/deep").write_text("1\n")
    next_pid(home, pid, "deep in it")


def limited(limit: str) -> list[str]:
    """What starts a daemon in a user namespace that has few of something (namespaces(7), /proc/sys/user)."""
    return ["unshare", "--user", "--map-root-user", "sh", "-c", f'echo {limit} && exec "$@"', "sh"]


def test_too_few_watches_are_a_warning_and_what_is_watched_works(empty_home: Home) -> None:
    home = empty_home
    home.wrap = limited("3 > /proc/sys/user/max_inotify_watches")
    home.start_daemon()
    project = home.folder / "project"
    for number in range(6):
        (project / f"d{number}").mkdir(parents=True)
    home.apply(watched(home, project))
    view = home.until("app", lambda view: view.warnings)
    assert "watch: 4 folders are not watched: fs.inotify.max_user_watches is " in view.warnings[0]
    assert view.pid is not None
    (project / "main.py").write_text("1\n")
    next_pid(home, view.pid, "the folder itself is watched")


def test_no_inotify_at_all_is_a_warning(empty_home: Home) -> None:
    home = empty_home
    home.wrap = limited("0 > /proc/sys/user/max_inotify_instances")
    home.start_daemon()
    done = home.apply(watched(home, home.folder))
    view = done.instances[0]
    assert view.status == "running" and not done.failed
    assert "fs.inotify.max_user_instances is " in view.warnings[0]


def test_no_file_descriptors_of_the_daemons_own_are_told_from_that(home: Home) -> None:
    home.apply(replace(watched(home, home.folder), watch=()))
    connection = home.connect()
    with no_more_files(home):
        done = connection.request(Apply([watched(home, home.folder)]))
    assert isinstance(done, Done)
    why = "watch: nothing is watched: Too many open files: raise the daemon's limit of open files"
    assert any(why in text for text in done.instances[0].warnings)

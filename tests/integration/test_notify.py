"""sd_notify(3): what apps tell of themselves at NOTIFY_SOCKET, who is believed, and the fds that they leave with us."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from oxmgr.model.codec import replace
from oxmgr.model.messages import Act, Apply, InstanceView
from oxmgr.model.spec import NEVER, Sandbox, Spec
from tests.conftest import Home, wait_until

CLIENT = """
import array, os, socket, sys, time
place = os.environ["NOTIFY_SOCKET"]
place = "\\0" + place[1:] if place[0] == "@" else place
def say(text, *fds):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect(place)
    with_it = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    s.sendmsg([text.encode()], with_it)
    s.close()
def barrier():
    ours, theirs = os.pipe()
    say("BARRIER=1", theirs)
    os.close(theirs)
    assert os.read(ours, 1) == b""
    os.close(ours)
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.002)
"""
PYTHON = "/usr/bin/python3"
FOREVER = "\ntime.sleep(1000)\n"


@pytest.fixture
def home(each_home: Home) -> Home:
    return each_home


def app(home: Home, script: str, **keys: object) -> Spec:
    return home.python("app", CLIENT + script, **{"ready": "notify", **keys})


def later(home: Home, *specs: Spec) -> None:
    """Ask for them, and wait for no answer."""
    environ = "".join(f"{key}={value}\0" for key, value in home.env.items()).encode()
    home.connect()._send(Apply([*specs], environ))


def place_of(home: Home, pid: int) -> str:
    """The NOTIFY_SOCKET of a process."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(word.decode().partition("=")[2] for word in words if word.startswith(b"NOTIFY_SOCKET="))


def send(place: str, text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.connect(f"\0{place[1:]}" if place.startswith("@") else place)
        sending.send(text.encode())


def test_a_start_waits_for_ready(home: Home) -> None:
    go = home.folder / "go"
    done = home.apply(app(home, f"open({str(go)!r}, 'w'); say('READY=1\\nSTATUS=at work')" + FOREVER))
    assert not done.failed and go.exists()
    view = done.instances[0]
    assert (view.status, view.ready, view.status_text) == ("running", True, "at work")


def test_who_is_not_ready_in_time_is_stopped_and_may_ask_for_more_time(home: Home) -> None:
    done = home.apply(app(home, FOREVER, ready_timeout_ms=200, restart=NEVER))
    assert done.failed == {"app": "not ready 0.2 s after its start"}
    script = "say('EXTEND_TIMEOUT_USEC=8000000'); barrier(); time.sleep(0.5); say('READY=1')" + FOREVER
    assert not home.apply(app(home, script, ready_timeout_ms=300, restart=NEVER)).failed


def test_a_child_of_the_app_is_believed_and_a_stranger_is_not(home: Home) -> None:
    go = home.folder / "go"
    script = (
        f"wait_for({str(go)!r})\nif not os.fork():\n    os.setsid(); say('READY=1'); barrier(); os._exit(0)" + FOREVER
    )
    later(home, app(home, script))
    wait_until(lambda: "app" in home.views(), "it to be there")
    pid = home.until("app", lambda view: view.pid).pid
    assert pid is not None
    send(place_of(home, pid), "READY=1\nSTATUS=hello")
    view = home.until("app", lambda view: view.warnings)
    assert "none of its processes" in view.warnings[0] and view.status == "starting" and not view.status_text
    go.touch()
    home.until("app", lambda view: view.ready)


def test_a_watchdog_that_is_missed_is_a_crash(home: Home) -> None:
    silent = home.folder / "silent"
    script = f"""
say('READY=1')
assert os.environ["WATCHDOG_USEC"] == "300000"
while not os.path.exists({str(silent)!r}):
    say('WATCHDOG=1')
    time.sleep(0.05)
os.unlink({str(silent)!r})
"""
    home.apply(app(home, script + FOREVER, watchdog_secs=0.3))
    first = home.pid("app")
    wait_until(lambda: home.views()["app"].uptime_ms > 700, "it to be up longer than the watchdog")  # type: ignore[operator]
    assert home.pid("app") == first
    silent.touch()
    home.until("app", lambda view: view.restarts == 1 and view.pid not in (None, first))
    home.request(Act("stop", ["app"]))


def test_an_app_can_say_that_it_is_broken_and_set_its_watchdog(home: Home) -> None:
    script = "say('READY=1'); say('WATCHDOG=trigger')" + FOREVER
    home.apply(app(home, script, restart=NEVER))
    view = home.until("app", lambda view: view.status == "errored")
    assert "WATCHDOG=trigger" in view.reason
    script = "say('READY=1\\nWATCHDOG_USEC=100000')" + FOREVER
    home.apply(app(home, script, restart=NEVER))
    view = home.until("app", lambda view: view.status == "errored" and "WATCHDOG=1" in view.reason)
    assert view.reason == "no WATCHDOG=1 for 0.1 s"


def test_a_flood_is_bounded_and_told_once(home: Home) -> None:
    script = """
say('READY=1')
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(place)
while True:
    s.send(b'STATUS=x')
"""
    home.apply(app(home, script), home.sh("other", "exec sleep 1000"))
    view = home.until("app", lambda view: view.warnings)
    assert view.warnings == ["sends more to its NOTIFY_SOCKET than is read: it has to wait"]
    other = home.pid("other")
    os.kill(other, 9)
    home.until("other", lambda view: view.pid not in (None, other))
    assert len(home.views()["app"].warnings) == 1


def test_fds_that_an_app_leaves_come_back_at_its_next_start(home: Home) -> None:
    out = home.folder / "out"
    script = f"""
def names(): return [n for n in os.environ.get("LISTEN_FDNAMES", "").split(":") if n]
if names():
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    assert int(os.environ["LISTEN_FDS"]) == len(names())
    found = {{name: os.pread(3 + at, 99, 0).decode() for at, name in enumerate(names())}}
    open({str(out)!r} + ".new", "w").write(repr(found)); os.rename({str(out)!r} + ".new", {str(out)!r})
    say("FDSTOREREMOVE=1\\nFDNAME=b")
else:
    for name in "abc":
        fd = os.memfd_create(name)
        os.write(fd, name.encode() * 3)
        say(f"FDSTORE=1\\nFDNAME={{name}}", fd)
        say(f"FDSTORE=1\\nFDNAME={{name}}", fd)
barrier()
say("READY=1")
"""
    home.apply(app(home, script + FOREVER))
    home.request(Act("restart", ["app"]))
    assert out.read_text() == "{'a': 'aaa', 'b': 'bbb', 'c': 'ccc'}"
    out.unlink()
    os.kill(home.pid("app"), 9)
    wait_until(out.exists, "it to find its fds")
    assert out.read_text() == "{'a': 'aaa', 'c': 'ccc'}"
    home.until("app", lambda view: view.ready)
    out.unlink()
    home.request(Act("stop", ["app"]))
    home.request(Act("start", ["app"]))
    assert not out.exists(), "what was left is gone once it was stopped"


def test_files_that_share_an_inode_are_each_kept_and_the_same_one_once(home: Home) -> None:
    out = home.folder / "out"
    script = f"""
if "LISTEN_FDS" in os.environ:
    numbers = [number for number in range(3, 3 + int(os.environ["LISTEN_FDS"]))]
    found = sorted(os.eventfd_read(number) for number in numbers)
    open({str(out)!r} + ".new", "w").write(repr(found)); os.rename({str(out)!r} + ".new", {str(out)!r})
else:
    for count in (1, 2, 3):
        fd = os.eventfd(count)
        say("FDSTORE=1\\nFDNAME=e", fd)
        say("FDSTORE=1\\nFDNAME=e", os.dup(fd))
barrier()
say("READY=1")
"""
    home.apply(app(home, script + FOREVER))
    home.request(Act("restart", ["app"]))
    assert out.read_text() == "[1, 2, 3]"


def test_what_can_be_left_is_bounded(home: Home) -> None:
    script = """
for number in range(40):
    say(f"FDSTORE=1\\nFDNAME=n{number}", os.memfd_create(str(number)))
say("FDSTORE=1\\nFDNAME=a:b", os.memfd_create("x"))
barrier()
say("READY=1")
"""
    done = home.apply(app(home, script + FOREVER))
    assert [text for text in done.warnings if "32 are the most" in text]


@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists(PYTHON), reason="needs root, and a Python for all users")
def test_another_user_can_reach_it(home: Home) -> None:
    spec = app(home, "say('READY=1')" + FOREVER)
    spec = replace(spec, argv=[PYTHON, *spec.argv[1:]], working_dir="/")
    os.chmod(home.folder, 0o711)
    nobody = Sandbox(uid=65534, gid=65534)
    for sandbox in (nobody, Sandbox(private_tmp=True), replace(nobody, private_tmp=True)):
        done = home.apply(replace(spec, sandbox=sandbox))
        assert not done.failed, (sandbox, done.failed, home.log("app", "err"))


@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists(PYTHON), reason="needs root, and a Python for all users")
@pytest.mark.parametrize("private_network", [False, True])
def test_nobody_but_its_user_and_root_can_send_to_it(home: Home, private_network: bool) -> None:
    spec = app(home, "say('READY=1')" + FOREVER, ready_timeout_ms=5000, restart=NEVER)
    sandbox = Sandbox(uid=65534, gid=65534, private_network=private_network)
    spec = replace(spec, argv=[PYTHON, *spec.argv[1:]], working_dir="/", sandbox=sandbox)
    done = home.apply(spec)
    assert not done.failed and not done.warnings
    place = place_of(home, home.pid("app"))
    other = f"""if 1:
        import os, socket
        os.setgroups([]); os.setgid(1); os.setuid(1)
        place = {place!r}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.sendto(b"WATCHDOG=trigger", "\\0" + place[1:] if place[0] == "@" else place)
    """
    sent = subprocess.run([PYTHON, "-c", other], capture_output=True, text=True, check=False)
    assert sent.returncode and "PermissionError" in sent.stderr
    send(place, "STATUS=from root")
    home.until("app", lambda view: view.warnings, "the word of root, which is none of it")
    home.apply(prune=True)
    assert not os.path.exists(os.path.dirname(place)), "a folder of its own is left"


def test_a_starting_app_is_waited_for_by_the_next_daemon(empty_home: Home) -> None:
    home, go = empty_home, empty_home.folder / "go"
    home.guarded = True
    home.start_daemon()
    later(home, app(home, f"wait_for({str(go)!r}); say('READY=1\\nSTATUS=late')" + FOREVER))
    wait_until(lambda: "app" in home.views(), "it to be there")
    pid = home.until("app", lambda view: view.pid).pid
    home.kill_guarded()
    assert home.views()["app"].status == "starting"
    go.touch()
    view = home.until("app", lambda view: view.ready)
    assert (view.pid, view.status_text) == (pid, "late")


def test_its_status_is_known_to_the_next_daemon(empty_home: Home) -> None:
    home = empty_home
    home.guarded = True
    home.start_daemon()
    home.apply(app(home, "say('READY=1\\nSTATUS=first'); say('STATUS=17 of 40 done')" + FOREVER))
    home.until("app", lambda view: view.status_text == "17 of 40 done")
    wait_until(lambda: b"17 of 40 done" in Path(home.places.journal).read_bytes(), "the journal to have it")
    home.kill_guarded()
    assert home.views()["app"].status_text == "17 of 40 done"
    # What it says next counts, and another process has said nothing yet.
    pid = home.pid("app")
    home.apply(home.sh("app", "exec sleep 1000"))
    view = home.views()["app"]
    assert view.pid != pid and view.status_text == ""
    home.kill_guarded()
    assert home.views()["app"].status_text == ""


def test_a_main_process_can_name_another_that_goes_on(home: Home) -> None:
    script = """
child = os.fork()
if child:
    say(f"MAINPID={child}\\nREADY=1"); barrier(); os._exit(0)
"""
    home.apply(app(home, script + FOREVER, restart=NEVER))

    def session(view: InstanceView) -> str:
        """Of its main process, which the first one is until it has ended: then it may be gone by now."""
        try:
            return Path(f"/proc/{view.pid}/stat").read_text().split()[5]
        except FileNotFoundError:
            return ""

    stat = home.until("app", lambda view: session(view) not in ("", str(view.pid)))
    view = home.views()["app"]
    assert (view.pid, view.status, view.restarts) == (stat.pid, "running", 0)
    os.kill(stat.pid or 0, 9)
    view = home.until("app", lambda view: view.status == "exited")
    assert view.signal == "SIGKILL"


def test_what_was_left_with_a_daemon_that_died_comes_back(empty_home: Home) -> None:
    home, out = empty_home, empty_home.folder / "out"
    home.guarded = True
    home.start_daemon()
    script = f"""
if "LISTEN_FDS" in os.environ:
    open({str(out)!r}, "w").write(os.pread(3, 99, 0).decode() + os.environ["LISTEN_FDNAMES"])
else:
    fd = os.memfd_create("x")
    os.write(fd, b"kept by ")
    say("FDSTORE=1\\nFDNAME=me", fd)
barrier()
say("READY=1")
"""
    home.apply(app(home, script + FOREVER))
    home.kill_guarded()
    os.kill(home.pid("app"), 9)
    home.until("app", lambda view: view.restarts == 1 and view.ready)
    assert out.read_text() == "kept by me"

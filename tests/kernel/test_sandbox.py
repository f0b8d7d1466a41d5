"""Each key of a sandbox, as it is seen from inside the app."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oxmgr.model.capabilities import capability_mask
from oxmgr.model.codec import replace
from oxmgr.model.spec import NEVER, Limits, Sandbox, Spec
from tests.conftest import Home, wait_until
from tests.integration.conftest import Ox, empty
from tests.kernel.looks import PYTHON_FOR_ALL, SLEEP, folder, is_alive, read, status, until_exited, until_said

__all__ = ["empty"]

NOBODY = Sandbox(user="nobody", uid=65534, gid=65534, groups=[7, 9])
BIND_80 = (
    "import socket\ntry: socket.create_server(('127.0.0.1', 80)); print('bound')\nexcept OSError as error: print(error)"
)


def of_nobody(spec: Spec, **rights: object) -> Spec:
    """It runs as nobody, with these rights."""
    return replace(spec, sandbox=replace(NOBODY, **rights))


def test_a_user_has_its_groups_and_its_umask_and_nothing_of_roots(home: Home) -> None:
    script = f"id -u; id -g; id -G; umask; ls {home.folder}; echo up; exec sleep 1000"
    home.apply(of_nobody(home.sh("app", script, working_dir="/"), umask=0o027))
    assert until_said(home, "app", "up").split() == ["65534", "65534", "65534", "7", "9", "0027", "up"]
    assert "Permission denied" in home.log("app", "err")
    seen = status(home.pid("app"))
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapAmb", "CapInh")} == {0}


def test_no_new_privileges_are_to_be_had_from_a_program_with_a_set_user_id(home: Home) -> None:
    # Where the home is, such bits count for nothing.
    program = Path("/usr/own-id")
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    try:
        for name, denied in (("may", False), ("may-not", True)):
            spec = home.sh(name, f"{program} -u", working_dir="/", restart=NEVER)
            home.apply(of_nobody(spec, no_new_privileges=denied))
        assert until_exited(home, "may") == "0\n" and until_exited(home, "may-not") == "65534\n"
    finally:
        program.unlink()


@pytest.fixture
def member() -> Iterator[str]:
    """A group that nobody is in besides its own."""
    groups = Path("/etc/group")
    before = groups.read_text()
    groups.write_text(f"{before}oxmembers:x:4321:root,nobody\n")
    yield "oxmembers"
    groups.write_text(before)


def test_what_is_written_in_an_oxfile_is_what_is_seen_inside(member: str, empty: Ox) -> None:
    ox = empty
    ox.oxfile(
        """
        [processes.app]
        command = "id -un; id -Gn; umask; cat /proc/self/oom_score_adj; pwd; ulimit -n; echo up; exec sleep 1000"
        working_dir = "/"
        [processes.app.limits]
        memory_max_mb = 64
        tasks_max = 12
        open_files = 77
        oom_score_adj = -250
        required = true
        [processes.app.sandbox]
        user = "nobody"
        umask = "077"
        capabilities = ["CAP_NET_BIND_SERVICE"]
        no_new_privileges = true
        """
    )
    ox("start")
    said = until_said(ox.home, "app", "\nup\n").split()
    assert said == ["nobody", "nogroup", member, "0077", "-250", "/", "77", "up"]
    [view] = ox.json("list")
    path, seen = folder(ox.home, "app"), status(view["pid"])
    assert (read(path, "memory.max"), read(path, "pids.max")) == (str(64 << 20), "12")
    assert seen["NoNewPrivs"] == "1" and int(seen["CapEff"], 16) == capability_mask(["CAP_NET_BIND_SERVICE"])


# --- capabilities ---


def test_nobody_binds_port_80_with_the_one_capability_for_it_and_not_without(home: Home) -> None:
    asked = {"with": ["CAP_NET_BIND_SERVICE"], "none": [], "other": ["CAP_CHOWN"], "unset": None}
    for name, capabilities in asked.items():
        spec = home.python(name, BIND_80, working_dir="/", restart=NEVER)
        spec = replace(spec, argv=[PYTHON_FOR_ALL, *spec.argv[1:]])
        home.apply(of_nobody(spec, capabilities=capabilities))
    said = {name: until_exited(home, name) for name in asked}
    assert said.pop("with") == "bound\n"
    assert all("Permission denied" in text for text in said.values()), said


def test_root_has_the_capabilities_that_were_given_and_can_get_no_others(home: Home) -> None:
    sandbox = Sandbox(capabilities=["CAP_CHOWN"])
    home.apply(
        home.python("bind", BIND_80, sandbox=sandbox, restart=NEVER),
        home.sh("app", "chown 7 . && echo chowned; chmod 0 . || :; echo up; exec sleep 1000", sandbox=sandbox),
    )
    assert "Permission denied" in until_exited(home, "bind")
    until_said(home, "app", "up")
    seen = status(home.pid("app"))
    assert home.log("app").split()[0] == "chowned"
    mask = capability_mask(["CAP_CHOWN"])
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {mask}


# --- files ---


def test_a_private_tmp_is_the_apps_alone(home: Home) -> None:
    ours, its = Path("/tmp/of-the-host"), Path("/tmp/of-the-app")
    ours.touch()
    try:
        script = "ls -A /tmp /var/tmp; stat -c %a /tmp; touch /tmp/of-the-app /var/tmp/x && echo up; exec sleep 1000"
        home.apply(home.sh("app", script, sandbox=Sandbox(private_tmp=True)))
        assert until_said(home, "app", "up").split() == ["/tmp:", "/var/tmp:", "1777", "up"]
        assert not its.exists() and not Path("/var/tmp/x").exists() and ours.exists()
    finally:
        ours.unlink()


def test_all_can_be_read_only_but_a_private_tmp(home: Home) -> None:
    """Also what is mounted below: the home is on a mount of its own, and so are the kernel's files."""
    places = [str(home.folder), "/usr", "/etc", "/dev/shm", "/sys/fs/cgroup", "/tmp"]
    script = "; ".join(f"touch {place}/written && echo {place}" for place in places)
    sandbox = Sandbox(private_tmp=True, read_only_paths=["/"])
    home.apply(home.sh("app", f"{script}; ls -A /tmp /../tmp", sandbox=sandbox, restart=NEVER))
    said = until_exited(home, "app").split()
    assert said == ["/tmp", "/../tmp:", "written", "/tmp:", "written"], "there is no way around it"
    assert home.log("app", "err").count("Read-only file system") == len(places) - 1
    assert not any(Path(place, "written").exists() for place in places)


@pytest.fixture
def gpus() -> Iterator[None]:
    """Devices with the names of GPUs: they give zeros to whoever may read them."""
    zero = os.makedev(1, 5)
    had_dri = os.path.isdir("/dev/dri")
    os.makedirs("/dev/dri", exist_ok=True)
    os.mknod("/dev/nvidia0", 0o666 | stat.S_IFCHR, zero)
    os.mknod("/dev/dri/card7", 0o666 | stat.S_IFCHR, zero)
    yield
    os.unlink("/dev/nvidia0")
    os.unlink("/dev/dri/card7")
    if not had_dri:
        os.rmdir("/dev/dri")


def test_gpus_that_are_denied_are_no_devices_inside_and_stay_devices_outside(gpus: None, home: Home) -> None:
    script = "head -c 4 /dev/nvidia0 | wc -c; ls /dev/dri | wc -l"
    home.apply(
        home.sh("denied", script, sandbox=Sandbox(deny_gpu=True), restart=NEVER),
        home.sh("not-denied", script, restart=NEVER),
    )
    assert until_exited(home, "denied").split() == ["0", "0"]
    assert until_exited(home, "not-denied").split()[0] == "4"
    assert home.views()["denied"].warnings == []


# --- network ---


def test_in_a_private_network_nobody_of_the_host_can_be_reached(home: Home) -> None:
    abstract = f"\0oxmgr-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(abstract)
        unix.listen()
        script = (
            "import socket\n"
            f"for family, address in ((2, {tcp.getsockname()!r}), (1, {abstract!r})):\n"
            "    try: socket.socket(family).connect(address); print('reached')\n"
            "    except OSError as error: print(error.strerror)\n"
        )
        home.apply(
            home.python("private", script, sandbox=Sandbox(private_network=True), restart=NEVER),
            home.python("host", script, restart=NEVER),
        )
        assert until_exited(home, "host").splitlines() == ["reached"] * 2
        assert until_exited(home, "private").splitlines() == ["Connection refused"] * 2


# --- limits that are a process's ---


def test_root_gives_more_than_it_has(empty_home: Home) -> None:
    home = empty_home
    home.start_daemon(nofile=256)
    limits = Limits(nice=-5, oom_score_adj=-500, open_files=4096)
    home.apply(home.sh("app", f"ulimit -n; nice; cat /proc/self/oom_score_adj; {SLEEP}", limits=limits))
    assert until_said(home, "app", "up").split() == ["4096", "-5", "-500", "up"]


# --- a step that fails ---

STEPS: dict[str, dict[str, Any]] = {
    "make a mount namespace: ": {"sandbox": Sandbox(private_tmp=True)},
    "make a private network: ": {"sandbox": Sandbox(private_network=True)},
    "change its groups: ": {"sandbox": Sandbox(gid=7, groups=[8])},
    "change its user nobody: ": {"sandbox": Sandbox(user="nobody", uid=65534)},
    "bound its capabilities: ": {"sandbox": Sandbox(capabilities=["CAP_CHOWN"])},
    "set its nice value: ": {"limits": Limits(nice=-5)},
    "set its oom_score_adj: ": {"limits": Limits(oom_score_adj=-500)},
    "set the resource limits: ": {"limits": Limits(open_files=4096)},
}


def test_a_step_that_the_daemon_has_no_right_to_take_is_named_with_its_error_and_nothing_runs(empty_home: Home) -> None:
    home = empty_home
    lost = ("sys_admin", "setgid", "setuid", "setpcap", "sys_nice", "sys_resource")
    home.wrap = ["setpriv", f"--bounding-set=-{',-'.join(lost)}"]
    home.start_daemon(nofile=256)
    done = home.apply(
        *(
            home.sh(f"app{number}", "touch ran; exec sleep 1000", restart=NEVER, **keys)
            for number, keys in enumerate(STEPS.values())
        )
    )
    for number, step in enumerate(STEPS):
        why = done.failed[f"app{number}"]
        assert f"cannot start app{number}: {step}" in why, why
        assert why.endswith(("Operation not permitted", "Permission denied")), why
        view = home.views()[f"app{number}"]
        assert (view.status, view.pid) == ("errored", None)
    assert not (home.folder / "ran").exists()
    home.apply(home.sh("plain", SLEEP))
    until_said(home, "plain", "up")
    pid = home.pid("plain")
    home.apply(prune=True)
    wait_until(lambda: not is_alive(pid), "its end")

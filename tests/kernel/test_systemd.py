"""The services of the `systemd` fixture are what the tests of delegation need."""

from pathlib import Path

from tests.conftest import wait_until
from tests.kernel.systemd import CONTROLLERS, Systemd

CONTROLLERS_OF_MINE = ["sh", "-c", 'cat "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cgroup.controllers"']


def test_a_command_runs_as_a_service_to_its_end(systemd: Systemd) -> None:
    ended = systemd.run(
        "sh", "-c", 'cat /proc/self/cgroup; echo "it\'s $1" >&2; exit 3', "sh", "$HOME %n", delegate=False
    )
    assert ended.code == 3
    assert ended.output == f"0::/system.slice/{ended.cgroup.name}\nit's $HOME %n\n"


def test_a_delegated_service_has_all_controllers(systemd: Systemd) -> None:
    delegated = systemd.run(*CONTROLLERS_OF_MINE, delegate=True)
    assert delegated.code == 0
    assert set(CONTROLLERS) <= set(delegated.output.split())


def test_a_delegated_service_may_divide_its_cgroup(systemd: Systemd) -> None:
    script = """set -e
    cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
    mkdir leaf app
    echo $$ >leaf/cgroup.procs
    echo '+cpu +memory +pids' >cgroup.subtree_control
    echo 7 >app/pids.max
    echo divided
    exec sleep 1000
    """
    service = systemd.start("sh", "-c", script, delegate=True)
    wait_until(lambda: service.output, "the cgroup is divided")
    assert service.output == "divided\n"
    assert (service.cgroup / "app" / "pids.max").read_text() == "7\n"
    [pid] = (service.cgroup / "leaf" / "cgroup.procs").read_text().split()
    assert service.show("ActiveState") == "active"
    assert Path(f"/proc/{pid}/cgroup").read_text().endswith(f"{service.name}/leaf\n")
    service.stop()
    assert not service.cgroup.exists()

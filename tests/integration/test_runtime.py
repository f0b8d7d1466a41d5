"""`oxmgr runtime` as process 1 of a pid namespace, as a container has it. As root, by unshare(1)."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, REPOSITORY, WITHOUT_CGROUPS, wait_until
from tests.containers import COMMAND, ORPHANS, Container

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

# The interpreter may be below a folder that is root's alone: this one right lets the user come there, and no more.
SEARCH = "dac_read_search"
USER = [
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    *("--inh-caps", f"+{SEARCH}", "--ambient-caps", f"+{SEARCH}"),
]
DENY = [sys.executable, str(REPOSITORY / "tests/kernel/deny.py")]
READ_ONLY = "mount -t tmpfs none /dev/shm && mount -o remount,bind,ro / && "


def sh(script: str) -> list[str]:
    return ["--", "/bin/sh", "-c", script]


def python(script: str) -> list[str]:
    return ["--", sys.executable, "-I", "-S", "-u", "-c", script]


def oxfile(container: Container, text: str) -> str:
    path = container.home.folder / "oxfile.toml"
    path.write_text(text)
    return str(path)


LOOP = "while :; do sleep 0.02; done"


# --- exit codes ---


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (sh("exit 0"), 0),
        (sh("exit 7"), 7),
        (sh("kill -9 $$"), 137),
        (sh("kill -11 $$"), 139),
        (["--", "no-such-program"], 127),
        (["--", "/no/such/program"], 127),
        (["--", "/etc/passwd"], 126),
        (["--", "/etc"], 126),
    ],
    ids=["0", "7", "KILL", "SEGV", "not in PATH", "not there", "not executable", "a folder"],
)
def test_the_exit_code_is_that_of_the_command(container: Container, words: list[str], code: int) -> None:
    container.start(*words)
    assert container.code() == code
    assert (code in (126, 127)) == (b"oxmgr: " in container.printed)


def test_what_cannot_be_executed_after_all_has_the_code_of_a_shell(container: Container) -> None:
    program = container.home.folder / "program"
    program.write_bytes(b"\x7fELF, but no more")
    program.chmod(0o755)
    container.start("--", str(program))
    assert container.code() == 126 and b"errored" in container.printed


def test_wrong_words_and_files_start_nothing(container: Container) -> None:
    for words in (["--rewrite", "TERM:NOSUCH", "--", "true"], ["--grace", "long", "--", "true"], ["nosuch.toml"]):
        again = Container(container.home).start(*words)
        assert again.code() == 2 and b"oxmgr: " in again.printed
        again.end()


# --- what a command gets ---


def test_a_command_gets_our_stdin_environment_folder_and_no_other_fd(container: Container) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from outside\n")
    os.close(writing)
    container.env["MY_OWN"] = "x y"
    container.wrap = ["sh", "-c", 'cd /etc; umask 27; exec "$@"', "sh"]
    container.start(
        *sh('cat; echo "$MY_OWN,$(pwd),$(umask)"; ls /proc/$$/fd | tr "\\n" " "; ls -l /proc/$$/fd/0'), stdin=reading
    )
    os.close(reading)
    assert container.code() == 0
    printed = container.printed.decode()
    assert printed.startswith("from outside\nx y,/etc,0027\n0 1 2 ") and "pipe:" in printed


# --- orphans ---


def test_a_thousand_orphans_are_reaped(each: Container) -> None:
    each.start(*python(ORPHANS))
    assert each.code() == 0
    assert each.printed == b"zombies 0\n"


def test_orphans_of_what_came_from_outside_are_reaped(container: Container) -> None:
    container.start(*sh(f"echo up; {LOOP}")).until("up")
    container.wait_until_up()
    assert container.run(sys.executable, "-I", "-S", "-c", ORPHANS) == "zombies 0\n"


# --- signals ---


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "RTMIN"])
def test_a_signal_comes_to_the_command(container: Container, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    container.start(
        *python(
            f"import os, signal; signal.signal({int(number)}, lambda n, f: os._exit(40)); print('up'); signal.pause()"
        )
    )
    container.until("up")
    container.kill(number)
    assert container.code() == 40


def test_signals_come_to_the_main_process_of_every_app(container: Container) -> None:
    script = f"'''trap 'echo heard' USR1; echo up; {LOOP}'''"
    file = oxfile(container, f"[processes.a]\ncommand = {script}\n[processes.b]\ncommand = {script}\ninstances = 2\n")
    container.start(file)
    for name in ("a", "b:0", "b:1"):
        container.until(f"{name} | up")
    container.kill(signal.SIGUSR1)
    for name in ("a", "b:0", "b:1"):
        container.until(f"{name} | heard")


def test_a_signal_is_rewritten_or_swallowed(container: Container) -> None:
    traps = "".join(f"trap 'echo {name}' {name};" for name in ("HUP", "USR1", "USR2"))
    container.start("--rewrite", "HUP:USR2", "--rewrite", "SIGUSR1:0", *sh(f"{traps} echo up; {LOOP}")).until("up")
    container.kill(signal.SIGUSR1)
    container.kill(signal.SIGHUP)
    assert container.until("USR2") == "up\nUSR2\n"


def test_a_rewritten_term_is_still_the_stop(container: Container) -> None:
    file = oxfile(container, f"[processes.a]\ncommand = \"trap 'echo quits; exit 3' QUIT; echo up; {LOOP}\"\n")
    container.start(file, "--rewrite", "TERM:QUIT", "--exit-when", "a").until("a | up")
    container.kill(signal.SIGTERM)
    assert container.code() == 3 and "a | quits" in container.printed.decode()


def test_a_signal_that_is_rewritten_to_term_stops(container: Container) -> None:
    container.start("--rewrite", "USR1:TERM", *sh(f"echo up; {LOOP}")).until("up")
    container.kill(signal.SIGUSR1)
    assert container.code() == 143


def test_a_term_that_comes_while_it_starts_is_not_lost(container: Container) -> None:
    container.start(*sh(LOOP))

    def blocks() -> bool:
        status = Path(f"/proc/{container.pid}/status").read_text()
        return bool(int(re.findall(r"^SigBlk:\s+(\w+)", status, re.MULTILINE)[0], 16) & 1 << signal.SIGUSR1 - 1)

    assert container.init >= 0
    wait_until(blocks, "it minds signals")
    container.kill(signal.SIGTERM)
    assert container.code() == 143


# --- the stop ---


def test_term_stops_in_reverse_dependency_order(container: Container) -> None:
    script = f"trap 'echo begins; sleep 0.1; echo ends; exit 0' TERM; echo up; {LOOP}"
    file = oxfile(
        container,
        f'[processes.db]\ncommand = "{script}"\n[processes.api]\ncommand = "{script}"\ndepends_on = ["db"]\n',
    )
    container.start(file).until("api | up")
    container.kill(signal.SIGTERM)
    assert container.code() == 0
    printed = container.printed.decode()
    assert [printed.index(one) for one in ("api | begins", "api | ends", "db | begins", "db | ends")] == sorted(
        printed.index(one) for one in ("api | begins", "api | ends", "db | begins", "db | ends")
    )


STUBBORN = f"trap '' TERM; echo up; {LOOP}"


def test_a_second_term_hurries(each: Container) -> None:
    each.start("--grace", "3600", *sh(STUBBORN)).until("up")
    each.kill(signal.SIGTERM)
    each.home.until("sh", lambda view: view.status == "stopping")
    each.kill(signal.SIGTERM)
    assert each.code() == 137


def test_what_lives_after_the_grace_is_killed(each: Container) -> None:
    file = oxfile(each, f'[processes.a]\ncommand = "{STUBBORN}"\nstop_timeout_ms = 3600000\n')
    each.start(file, "--grace", "0.3").until("a | up")
    each.kill(signal.SIGTERM)
    assert each.code() == 0


# --- what remains ---


REMAINS = """
import os, signal, sys, time
if os.fork() == 0:
    if not os.fork():
        {leave}
        signal.signal(signal.SIGTERM, lambda n, f: (print('asked to end', flush=True), os._exit(0)))
        os.write({ready}, b'x')
        os.kill(os.getpid(), signal.SIGSTOP)
        while True: signal.pause()
    os._exit(0)
"""
LEFT = (
    """
import os
reading, writing = os.pipe()
"""
    + REMAINS.format(leave="os.setsid()", ready="writing")
    + "os.read(reading, 1); os._exit(6)"
)


def test_what_remains_of_the_command_is_asked_to_end_even_if_it_is_stopped(each: Container) -> None:
    each.start(*python(LEFT))
    assert each.code() == 6
    assert each.printed == b"asked to end\n"


def test_what_does_not_end_is_killed_after_the_grace(each: Container) -> None:
    each.start("--grace", "0.3", *sh(f"(trap '' TERM; {LOOP}) & exit 4"))
    assert each.code() == 4


def test_what_is_no_apps_is_asked_to_end(container: Container) -> None:
    """What `docker exec` has started."""
    container.start("--rewrite", "USR1:0", *sh(f"echo up; {LOOP}")).until("up")
    container.wait_until_up()
    script = f"import os\nready = os.open('/dev/stdout', os.O_WRONLY)\n{REMAINS.format(leave='pass', ready=1)}"
    marks = ("OXMGR_APP", "OXMGR_INSTANCE_ID")
    env = {key: value for key, value in container.env.items() if key not in marks}
    out = container.home.folder / "out"
    with open(out, "wb") as file:
        argv = ["nsenter", "--target", str(container.pid), "--pid", "--mount", sys.executable, "-u", "-c", script]
        subprocess.run(argv, env=env, stdout=file, check=True, timeout=DEADLINE)
    wait_until(lambda: out.read_bytes() == b"x", "it is there")
    container.kill(signal.SIGTERM)
    assert container.code() == 143
    assert out.read_bytes() == b"xasked to end\n"


# --- when it ends ---


THREE = f"""
[processes.web]
command = "echo up; {LOOP}"
[processes.job]
command = "sleep 0.1; exit 5"
restart = "never"
[processes.other]
command = "trap 'exit 9' TERM; echo up; {LOOP}"
"""


def test_any_is_the_first_that_ends(container: Container) -> None:
    container.start(oxfile(container, f'exit_when = "any"\n{THREE}'))
    assert container.code() == 5


def test_an_option_wins_and_a_name_is_the_app_that_all_ends_with(container: Container) -> None:
    file = oxfile(container, f'exit_when = "any"\n{THREE}')
    container.start(file, "--exit-when", "other").until("other | up")
    container.wait_until_up().home.until("job", lambda view: view.status == "exited")
    container.kill(signal.SIGTERM)
    assert container.code() == 9


def test_all_is_the_last_that_ends_and_what_a_user_has_stopped_has_not(container: Container) -> None:
    file = oxfile(
        container,
        f'[processes.a]\ncommand = "exit 3"\nmax_restarts = 2\n[processes.b]\ncommand = "echo up; {LOOP}"\n'
        '[processes.c]\ncommand = "true"\ndepends_on = { a = "exited" }\n',
    )
    container.start(file).until("b | up")
    container.wait_until_up().home.until("a", lambda view: view.status == "errored")
    container.run(COMMAND, "stop", "b")
    assert container.list()["b"]["status"] == "stopped"
    container.run(COMMAND, "start", "b")
    container.run(COMMAND, "signal", "KILL", "b")
    container.home.until("b", lambda view: view.restarts == 1 and view.status == "running")
    container.kill(signal.SIGTERM)
    assert container.code() == 0


def test_an_app_that_waits_for_what_has_failed_keeps_nothing_up(container: Container) -> None:
    file = oxfile(
        container,
        '[processes.migrate]\ncommand = "exit 3"\nrestart = "never"\n'
        '[processes.api]\ncommand = "true"\ndepends_on = { migrate = "exited" }\n',
    )
    container.start(file)
    assert container.code() == 3


# --- supervision inside ---


def test_all_of_supervision_works_inside(each: Container) -> None:
    file = oxfile(each, f'[processes.web]\ncommand = "echo up; {LOOP}"\ninstances = 2\n')
    each.start(file).until("web:1 | up")
    before = each.list()
    each.run(COMMAND, "signal", "KILL", "web:0")
    each.home.until("web:0", lambda view: view.restarts == 1 and view.status == "running")
    assert "oxmgr: web:0: crashed: killed by SIGKILL" in each.until("crashed")
    after = each.list()
    assert after["web:1"]["pid"] == before["web:1"]["pid"]
    each.run(COMMAND, "scale", "web", "1")
    assert list(each.list()) == ["web"]


def test_a_killed_daemon_ends_neither_the_container_nor_the_command(each: Container) -> None:
    each.start(*sh(f"trap 'exit 21' USR2; echo up; {LOOP}")).until("up")
    before = each.wait_until_up().home.pid("sh")
    for _ in range(3):
        each.kill_daemon()
        assert each.home.pid("sh") == before
    each.kill(signal.SIGUSR2)
    assert each.code() == 21
    assert each.printed == b"up\n"


def test_a_replaced_daemon_knows_that_it_is_a_containers(each: Container) -> None:
    each.start("--rewrite", "USR1:USR2", *sh(f"trap 'exit 23' USR2; echo up; {LOOP}")).until("up")
    before = each.wait_until_up().home.pid("sh")
    for _ in range(2):
        each.run(COMMAND, "daemon", "reexec")
    each.kill_daemon()
    assert each.home.pid("sh") == before
    each.kill(signal.SIGUSR1)
    assert each.code() == 23


def test_a_command_that_ends_while_there_is_no_daemon_ends_the_container(container: Container) -> None:
    container.start(*sh(f"trap 'exit 22' USR2; echo up; {LOOP}")).until("up")
    container.wait_until_up()
    main = int(Path(f"/proc/{container.daemon()}/task/{container.daemon()}/children").read_text().split()[0])
    daemon, app = os.pidfd_open(container.daemon()), os.pidfd_open(main)
    signal.pidfd_send_signal(daemon, signal.SIGSTOP)
    signal.pidfd_send_signal(app, signal.SIGUSR2)
    assert select.select([app], [], [], DEADLINE)[0]
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    os.close(daemon)
    os.close(app)
    assert container.code() == 22


def test_a_daemon_killed_while_the_rest_ends_does_not_start_the_command_again(each: Container) -> None:
    rest = f"(trap 'echo asked' TERM; trap exit USR1; echo up; {LOOP})"
    each.start("--grace", "60", *sh(f"trap 'exit 4' USR2; {rest} & {LOOP}")).until("up")
    each.kill(signal.SIGUSR2)
    each.until("asked")
    each.home.until("sh", lambda view: view.status == "stopping")
    each.kill_daemon()
    each.home.until("sh", lambda view: view.status == "stopping")
    for pid in each.run("pgrep", "-x", "sh").split():
        each.run("kill", "-USR1", pid)
    assert each.code() == 4
    assert each.printed.decode().count("up") == 1


def test_a_stop_that_a_daemon_dies_in_goes_on(each: Container) -> None:
    each.start("--grace", "60", *sh(f"trap '' TERM; trap 'exit 8' USR1; echo up; {LOOP}")).until("up")
    each.kill(signal.SIGTERM)
    each.wait_until_up().home.until("sh", lambda view: view.status == "stopping")
    each.kill_daemon()
    each.home.until("sh", lambda view: view.status == "stopping")
    each.kill(signal.SIGUSR1)
    assert each.code() == 8


def test_the_next_run_begins_anew_with_what_the_file_says(container: Container) -> None:
    """`docker restart`: the same files, and pids that say nothing."""
    first = f'[processes.a]\ncommand = "echo a is up; {LOOP}"\n[processes.b]\ncommand = "echo b is up; {LOOP}"\n'
    container.start(oxfile(container, first)).until("b is up")
    container.until("a is up")
    container.wait_until_up()
    container.run(COMMAND, "stop", "a")
    container.kill(signal.SIGKILL)
    container.code()
    again = Container(container.home)
    try:
        again.start(oxfile(container, f'[processes.a]\ncommand = "echo a is up; {LOOP}"\n')).until("a is up")
        assert list(again.wait_until_up().list()) == ["a"]
        again.kill(signal.SIGTERM)
        assert again.code() == 0
    finally:
        again.end()


# --- a terminal ---


@pytest.fixture
def keys(container: Container) -> Iterator[Callable[[str], object]]:
    """Types on the terminal of the container, which `start` is given."""
    ours, its = pty.openpty()
    container.terminal = its  # type: ignore[attr-defined]
    container._reading = ours
    yield lambda text: os.write(ours, text.encode())


def start_on_terminal(container: Container, *words: str) -> None:
    container.start(*words, terminal=container.terminal)  # type: ignore[attr-defined]


def test_a_shell_has_job_control(container: Container, keys: Callable[[str], object]) -> None:
    start_on_terminal(container, "--", "bash", "--norc", "--noprofile", "-i")
    container.until("$ " if os.getuid() else "# ")
    shell = os.tcgetpgrp(container._reading)
    keys("cat\n")
    wait_until(lambda: os.tcgetpgrp(container._reading) != shell, "cat is in the foreground")
    keys("both\n")
    container.until("both\nboth\n")
    keys("\x1a")
    container.until("Stopped")
    keys("echo back-$((2+2)); fg\n")
    container.until("back-4")
    wait_until(lambda: os.tcgetpgrp(container._reading) != shell, "cat is in the foreground again")
    keys("again\n")
    container.until("again\nagain\n")
    keys("\x03")
    keys("\nkill -9 %1 2>/dev/null; echo end-$((3+3)); exit 9\n")
    container.until("end-6")
    assert container.code() == 9
    assert "no job control" not in container.printed.decode()


def test_a_key_interrupts_the_command_once(container: Container, keys: Callable[[str], object]) -> None:
    script = "import signal, sys\nn = 0\ndef on(*_):\n global n; n += 1; print('int', n)\nsignal.signal(2, on)\nprint('up')\nfor line in sys.stdin: print('line', n); break\nsys.exit(n)"
    start_on_terminal(container, *python(script))
    container.until("up")
    keys("\x03")
    container.until("int 1")
    keys("go\n")
    assert container.code() == 1


def test_a_key_stops_an_oxfiles_apps_in_order(container: Container, keys: Callable[[str], object]) -> None:
    start_on_terminal(
        container, oxfile(container, f"[processes.a]\ncommand = \"trap 'echo ends; exit' TERM; echo up; {LOOP}\"\n")
    )
    container.until("a | up")
    keys("\x03")
    assert container.code() == 0
    assert b"a | ends" in container.printed


def test_a_terminal_that_stops_who_writes_from_behind_does_not_stop_the_daemon(
    container: Container, keys: Callable[[str], object]
) -> None:
    mode = termios.tcgetattr(container._reading)
    mode[3] |= termios.TOSTOP
    termios.tcsetattr(container._reading, termios.TCSANOW, mode)
    start_on_terminal(container, oxfile(container, '[processes.a]\ncommand = "echo up; exit 0"\n'))
    container.until("a | up")
    assert container.code() == 0


# --- where little is allowed ---


def test_read_only_root(container: Container) -> None:
    for key in ("OXMGR_HOME", "HOME"):
        del container.env[key]
    container.wrap = ["sh", "-c", f'{READ_ONLY}exec "$@"', "sh"]
    container.start(*sh(f"trap 'exit 12' USR2; echo up; {LOOP}"))
    assert "its state and its socket are in /dev/shm/oxmgr-0" in container.until("up\n")
    assert container.list()["sh"]["status"] == "running"
    container.kill(signal.SIGUSR2)
    assert container.code() == 12


@pytest.mark.parametrize("how", ["gone", "read-only"])
def test_without_cgroups(container: Container, how: str) -> None:
    container.wrap = WITHOUT_CGROUPS
    if how == "read-only":
        mounts = 'sed -n "s/^[^ ]* \\([^ ]*\\) cgroup2 .*/\\1/p" /proc/mounts | xargs -rI@ mount -o remount,bind,ro @'
        container.wrap = ["sh", "-c", f'{mounts} && exec "$@"', "sh"]
    container.start(*python(LEFT))
    assert container.code() == 6 and container.printed == b"asked to end\n"


def test_a_user_without_a_home(container: Container) -> None:
    for key in ("OXMGR_HOME", "HOME"):
        del container.env[key]
    container.wrap = ["sh", "-c", 'mount -t tmpfs -o mode=1777 none /dev/shm && exec "$@"', "sh", *USER]
    container.start(*sh(f"trap 'exit 13' USR2; echo up; {LOOP}"))
    assert "/dev/shm/oxmgr-65534" in container.until("up\n")
    assert container.init >= 0
    assert json.loads(container.run(*USER, COMMAND, "list", "--json"))[0]["status"] == "running"
    container.kill(signal.SIGUSR2)
    assert container.code() == 13


def test_a_place_in_memory_that_another_has_made_is_not_taken(container: Container) -> None:
    for key in ("OXMGR_HOME", "HOME"):
        del container.env[key]
    trap = "mkdir /dev/shm/oxmgr-65534 && chmod 777 /dev/shm/oxmgr-65534"
    container.wrap = ["sh", "-c", f'mount -t tmpfs -o mode=1777 none /dev/shm && {trap} && exec "$@"', "sh", *USER]
    container.start(*sh("echo up"))
    assert container.code() == 2 and b"not a folder of ours alone" in container.printed


def test_few_file_descriptors(container: Container) -> None:
    container.wrap = ["sh", "-c", 'ulimit -Sn 16; ulimit -Hn 256; exec "$@"', "sh"]
    container.start(*sh(f"trap 'exit 14' USR2; ulimit -n; echo up; {LOOP}"))
    assert container.until("up\n") == "16\nup\n"
    before = container.wait_until_up().home.pid("sh")
    subprocess.run(["prlimit", "--pid", str(container.pid), "--nofile=16:256"], check=True)
    container.kill_daemon()
    assert container.home.pid("sh") == before
    assert container.run(sys.executable, "-I", "-S", "-c", ORPHANS) == "zombies 0\n"
    container.kill(signal.SIGUSR2)
    assert container.code() == 14


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_filter_of_system_calls(each: Container, error: str) -> None:
    each.wrap = [*each.wrap, *DENY, error, "clone3,pidfd_open"]
    each.start(*sh(f"trap 'exit 15' USR2; echo up; {LOOP}")).until("up")
    before = each.wait_until_up().home.pid("sh")
    each.kill_daemon()
    assert each.home.pid("sh") == before
    each.kill(signal.SIGUSR2)
    assert each.code() == 15


def test_a_fresh_networks_loopback_is_raised_before_anything_starts(container: Container) -> None:
    container.namespaces.append("--net")
    container.start(
        *python(
            "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('well')"
        )
    )
    assert container.code() == 0 and container.printed == b"well\n"


def test_a_loopback_that_may_not_be_raised_keeps_nothing_from_starting(container: Container) -> None:
    container.namespaces.append("--net")
    container.wrap = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    container.start(*sh("exit 16"))
    assert container.code() == 16

"""The guard alone, where little of what it needs is there: standard files, whoever has started it, a state or a program
that it understands."""

import errno
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from oxmgr.supervisor import guard as daemons_side
from tests.conftest import wait_until
from tests.faults.test_guard import (  # noqa: F401
    GUARD,
    REFUSED,
    REPLACE,
    Guard,
    content,
    guard,
    keep,
    puppet,
    replace,
)


def test_closed_standard_files_are_not_what_it_opens_nor_the_daemons(guard: Guard) -> None:  # noqa: F811
    one = guard.start(wrap=("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh"))
    one.up()

    def are_null(pid: int) -> bool:
        return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3

    assert are_null(guard.pid) and are_null(one.pid) and are_null(guard.replaced(one).pid)


def test_check_says_of_which_version_a_state_has_to_be() -> None:
    done = subprocess.run([GUARD, "check"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"%d\n" % daemons_side.VERSION


def test_who_is_replaced_by_too_many_words_says_so(guard: Guard) -> None:  # noqa: F811
    one = guard.start()
    one.up()
    for words in ([*guard.words(), "x" * 20_000], [*guard.words(), *["x"] * 128]):
        replace(one, words)
        refused = one.hear()
        assert (refused.kind, refused.value, refused.a) == (REFUSED, errno.E2BIG, REPLACE)
    replace(one, ["/nowhere", *guard.words()[1:]])
    assert one.hear().value == errno.ENOENT


# --- whoever has started it ---


def test_a_daemon_that_never_comes_up_is_given_up_once_nobody_waits_for_it(guard: Guard) -> None:  # noqa: F811
    reading, told = os.pipe()
    guard.crash.touch()
    guard.spawn(told)
    os.close(told)
    wait_until(lambda: len(guard.crash.read_text().splitlines()) > 2, "some starts")
    assert guard.process is not None and guard.process.poll() is None
    os.close(reading)
    assert guard.process.wait(20.0) == 128 + signal.SIGKILL


def test_a_daemon_that_came_up_once_is_started_again_though_nobody_waits_for_it(guard: Guard) -> None:  # noqa: F811
    reading, told = os.pipe()
    one = guard.start(told)
    os.close(told)
    os.close(reading)
    os.close(one.up().kept["told"])
    guard.replaced(one)


# --- a state that it does not understand ---


def changed_guard(folder: Path, change: str) -> str:
    """The program of a guard for which the state is changed by that before it begins."""
    program = folder / "guard"
    program.write_text(
        f"#!{sys.executable} -IS\nimport os, sys\nfd = int(sys.argv[1])\n{change}\nos.lseek(fd, 0, 0)\n"
        f"os.execv({GUARD!r}, [{GUARD!r}, *sys.argv[1:]])\n"
    )
    program.chmod(0o755)
    return str(program)


def test_the_state_of_another_version_starts_no_second_daemon(guard: Guard) -> None:  # noqa: F811
    one = guard.start()
    one.up()
    keep(one, "a", b"1")
    other = changed_guard(guard.folder, "os.pwrite(fd, b'oxguard9', 0)")
    replace(one, guard.words(program=other))
    assert select.select([one.link], [], [], 10.0)[0] and one.link.recv(1000) == b"", "it hears that it is alone"
    assert not select.select([guard.listening], [], [], 0.2)[0], "another daemon is started"
    assert not [path for path in guard.fds() if path.startswith("pipe:")], "what was kept is closed"
    # It has no daemon's ends to tell of, and reaps them.
    pids = one.orphans(10)
    one.let_go()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all to be reaped")
    one.end(9)
    assert guard.process is not None and guard.process.wait(10.0) == 9


def test_signals_come_to_a_daemon_that_is_alone_and_its_death_starts_another(guard: Guard) -> None:  # noqa: F811
    one = guard.start()
    one.up()
    other = changed_guard(guard.folder, "os.pwrite(fd, b'oxguard9', 0)")
    replace(one, guard.words(program=other))
    assert select.select([one.link], [], [], 10.0)[0] and one.link.recv(1000) == b""
    os.kill(guard.pid, signal.SIGUSR1)
    two = guard.next()
    assert two.up().kept == {}
    keep(two, "b", b"2")
    assert content(guard.replaced(two).up().kept) == {"b": b"2"}


def test_what_is_no_state_at_all_starts_nothing(guard: Guard) -> None:  # noqa: F811
    state = daemons_side.memory_file("state", b"nothing that it knows")
    process = subprocess.Popen([GUARD, str(state), *guard.words()[2:]], pass_fds=[state], stderr=subprocess.PIPE)
    os.close(state)
    _, told = process.communicate(timeout=10.0)
    assert process.returncode == 1 and b"does not understand" in told
    assert not select.select([guard.listening], [], [], 0)[0]

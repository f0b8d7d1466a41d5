"""Starts and signals processes. Owns the pidfds; nobody else signals."""

import os
from _signal import pidfd_send_signal
from errno import EACCES, EAGAIN, EINVAL, ENOENT, ENOSYS, ENOTDIR, EPERM, ESRCH
from fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, fcntl, ioctl
from sys import byteorder

from oxmgr.model.spec import FIFO, TERMINAL, Spec, instance_name
from oxmgr.supervisor import native
from oxmgr.supervisor.limits import rlimits
from oxmgr.supervisor.rights import mount_words, rights, sandbox_env
from oxmgr.supervisor.shortage import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.supervisor.endpoints import Passed
    from oxmgr.supervisor.output import Direct, Output

UMASK = 0o022
NOT_EXECUTABLE, NOT_FOUND = 126, 127
_PROCESS_GROUP = 1 << 2
"""PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9): to the group that this process has founded."""
_PIPE_BUF = 4096
_PAGE = os.sysconf("SC_PAGE_SIZE")
_INPUT_LIMIT = 1024 * 1024
"""Of what waits in front of an app: as large a pipe as any user may have (fs.pipe-max-size)."""


class StartError(Exception):
    """The program does not run; the text says what could not be done, on what, and why; `errno` is the kernel's why.
    `exit_code` is what a shell would end with: 127, 126, or 0 where it did not come to be executed."""

    def __init__(self, text: str, errno: int, *, executing: bool = False) -> None:
        super().__init__(text)
        self.errno = errno
        self.exit_code = 0 if not executing else NOT_FOUND if errno in (ENOENT, ENOTDIR) else NOT_EXECUTABLE


class Process:
    """A main process, ours or adopted (`child` false), from its start to its reaping.

    `pid` stays the kernel's name for it as long as we have not reaped it (`reaped`), so until then it and its
    process group and session, which carry the same number, can be signalled without hitting a stranger. An adopted one
    is reaped by somebody else, at any moment: it is signalled by its pidfd alone.

    `refused`: the kernel did not let us send the last signal (kill(2), EPERM), for it has become another user's.
    """

    __slots__ = ("child", "pid", "pidfd", "reaped", "refused")

    def __init__(self, pid: int, pidfd: int, child: bool = True) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.child = child
        self.reaped = False
        self.refused = False

    def signal(self, number: int) -> bool:
        """False when it is gone, and when it is `refused`."""
        if self.reaped:
            return False
        try:
            if self.pidfd >= 0:
                pidfd_send_signal(self.pidfd, number)
            elif self.child:
                os.kill(self.pid, number)
            else:
                return False
        except ProcessLookupError:
            return False
        except PermissionError:
            self.refused = True
            return False
        self.refused = False
        return True

    def signal_group(self, number: int) -> bool:
        """False when nothing of its group is there, and when it is `refused`."""
        if self.reaped:
            return False
        try:
            if self.child:
                os.killpg(self.pid, number)
            elif self.pidfd >= 0:
                self._signal_adopted_group(number)
            else:
                return False
        except ProcessLookupError:
            # Its leader has moved to another group.
            return self.signal(number)
        except PermissionError:
            self.refused = True
            return False
        self.refused = False
        return True

    def _signal_adopted_group(self, number: int) -> None:
        try:
            pidfd_send_signal(self.pidfd, number, None, _PROCESS_GROUP)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            # This kernel has no such flag. As long as the process is not reaped, the number is no other group's.
            pidfd_send_signal(self.pidfd, 0)
            os.killpg(self.pid, number)

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def start(
    spec: Spec,
    index: int,
    run: int,
    environ: bytes,
    given: list[int],
    *,
    stdin: str,
    outputs: "tuple[Output | Direct, ...]",
    cgroup: int = -1,
    network: int = -1,
    passed: "Passed | None" = None,
    child: native.Child | None = None,
    told: object = native.NOWHERE,
) -> Process:
    """Run an instance's program: `environ` is what its starter had, `given` the limit on open files that the daemon
    was given, `stdin` the path of its FIFO, `cgroup` and `network` are fds or -1, `passed` is what else it is born
    with, `told` is as of native.spawn. StartError when it does not run. May run in a thread: `child` then tells the
    loop of what is being made."""
    name = instance_name(spec.name, index, spec.instances)
    fds: list[int] = []
    try:
        fds.append(_open_stdin(stdin) if spec.stdin == FIFO else _own_stdin())
        # One by one: what was opened before one that fails is closed.
        fds.extend(output.open_for_app() for output in outputs)
        # One for both, or one each.
        fds += fds[1:] if len(outputs) == 1 else []
        env = own_env(spec, index, run)
        placed = {0: fds[0], 1: fds[1], 2: fds[2]}
        if passed is not None:
            env |= passed.env
            placed |= dict(sorted(passed.fds.items()))
        pid, pidfd = native.spawn(
            _strings(spec.argv),
            _strings([f"{key}={value}" for key, value in env.items()]),
            environ,
            os.fsencode(spec.working_dir),
            [*placed.values()],
            rlimits(spec.limits, given),
            UMASK if spec.sandbox.umask < 0 else spec.sandbox.umask,
            numbers=[*placed],
            pid_names=b"" if passed is None else passed.pid_names,
            cgroup=cgroup,
            network=network,
            terminal=0 if spec.stdin == TERMINAL else -1,
            child=child,
            told=told,
            **rights(spec),
        )
    except native.SpawnError as error:
        what = f"{_what_failed(spec, error)}: {reason(error)}"
        executing = error.step == native.EXECUTE
        raise StartError(f"cannot start {name}: {what}", error.errno or 0, executing=executing) from None
    except OSError as error:
        # What has no name is a copy of what it prints to.
        what = f"open {error.filename or 'its output'}: {reason(error)}"
        raise StartError(f"cannot start {name}: {what}", error.errno or 0) from None
    finally:
        for fd in set(fds):
            os.close(fd)
    return Process(pid, pidfd)


def _what_failed(spec: Spec, error: native.SpawnError) -> str:
    on = {
        native.EXECUTE: spec.argv[0],
        "change to the folder": spec.working_dir,
        "change its user": spec.sandbox.user or str(spec.sandbox.uid),
    }
    if error.step == "mount":
        return f"mount {mount_words(spec.sandbox, error.mount)}" if error.mount >= 0 else "make a mount namespace"
    return f"{error.step} {on[error.step]}" if error.step in on else error.step


def own_env(spec: Spec, index: int, run: int = 0) -> dict[str, str]:
    """What an instance gets beside its starter's environment."""
    number = str(index)
    own = {"OXMGR_APP": spec.name, "OXMGR_INSTANCE_ID": number, "NODE_APP_INSTANCE": number}
    if run:
        # For ourselves, to tell what it leaves from what the one leaves that it has replaced.
        own["OXMGR_RUN"] = str(run)
    return {**sandbox_env(spec.sandbox), **spec.env, **own}


def _strings(words: list[str]) -> bytes:
    return os.fsencode("".join(f"{word}\0" for word in words))


def _open_stdin(path: str) -> int:
    """A FIFO that the child has open both ways: it never sees an end, and anybody with the right can write to it.

    Opening a FIFO for reading and writing does not wait (fifo(7)).
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _own_stdin() -> int:
    try:
        return os.dup(0)
    except OSError:
        # The daemon was started without.
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def write_stdin(path: str, data: bytes) -> None:
    """All of it or an OSError: BlockingIOError when the app does not read what was sent before. Were somebody else to
    write to it at the same moment, the error can mean that a part was taken."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Up to PIPE_BUF bytes the kernel takes all or nothing; of more it takes what there is room for (pipe(7)).
        if len(data) > _PIPE_BUF:
            _make_room(fd, len(data))
        if os.write(fd, data) < len(data):
            raise BlockingIOError(EAGAIN, "only a part was taken")
    finally:
        os.close(fd)


def _make_room(fd: int, wanted: int) -> None:
    """Have a pipe take so many bytes more for certain, or a BlockingIOError."""
    # Loaded only now: it is for large input.
    from termios import FIONREAD

    waiting = int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), byteorder)
    size = fcntl(fd, F_GETPIPE_SZ)
    # It is a ring of pages. Of two neighbours at least one page's worth is filled (anon_pipe_write, fs/pipe.c), so this
    # is the most of it that can be in use.
    used = min(size, 2 * waiting + 2 * _PAGE) if waiting else 0
    if used + wanted > size and not _is_resized(fd, used + wanted):
        raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))


def _is_resized(fd: int, size: int) -> bool:
    try:
        return size <= _INPUT_LIMIT and fcntl(fd, F_SETPIPE_SZ, size) >= size
    except OSError:
        return False


# --- facts about processes, from proc(5) ---


def read_stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third on (state, ppid, pgrp, session, …), or None when it is gone or cannot
    be looked at."""
    try:
        return read_stat_surely(pid)
    except OSError:
        return None


def read_stat_surely(pid: int) -> list[bytes] | None:
    """The same, where who cannot be looked at must not be taken for gone. OSError."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        data = os.read(fd, 1024)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    # The name, in parentheses, may hold anything.
    return data[data.rindex(b")") + 2 :].split()


def start_ticks(pid: int) -> int:
    """Field 22: clock ticks after boot at which it began; 0 when it is gone."""
    stat = read_stat(pid)
    return int(stat[19]) if stat else 0


def zombie_exit(pid: int) -> tuple[int | None, int | None] | None:
    """How a process that nobody has reaped yet ended: (exit code, None) or (None, signal). None when it may not be
    told (field 52 is for those who may ptrace it) or is not there."""
    stat = read_stat(pid)
    if stat is None or stat[0] != b"Z":
        return None
    try:
        if os.geteuid() not in (0, os.stat(f"/proc/{pid}").st_uid):
            return None
    except FileNotFoundError:
        return None  # reaped at this moment
    status = int(stat[49])
    return (None, status & 0x7F) if status & 0x7F else (status >> 8, None)


def adopt(pid: int, ticks: int) -> Process | None:
    """An earlier daemon's main process, if that pid is still that process and it has not ended. It is our child where
    that daemon has executed us in its place. OSError when that cannot be found out now. Its `pidfd` is one, or its
    folder of /proc: that can be signalled by too (pidfd_send_signal(2)), but tells of no end."""
    stat = read_stat_surely(pid) if pid > 0 else None
    if stat is None or int(stat[19]) != ticks:
        return None
    try:
        pidfd = open_pidfd(pid)
    except OSError as error:
        if error.errno in (ESRCH, ENOENT, EACCES, EPERM):
            return None
        raise
    try:
        stat = read_stat_surely(pid)
    except OSError:
        os.close(pidfd)
        raise
    if stat and int(stat[19]) == ticks and stat[0] not in (b"Z", b"X"):
        return Process(pid, pidfd, child=int(stat[1]) == os.getpid())
    os.close(pidfd)
    return None


def open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (ENOSYS, EPERM):
            raise
        # A container's filter of system calls.
        return os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

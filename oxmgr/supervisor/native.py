"""The extension with Python's types and exceptions. csrc/oxmgr.h says what each call does."""

import fcntl
import os
import sys
from errno import EAGAIN, ECANCELED, EINVAL, EMFILE, ENFILE, ENOENT, ENOMEM, ESRCH

from oxmgr._native import ffi, lib

EXECUTE = "execute"
_STEPS = {
    lib.OX_STEP_MEMORY: "prepare the start",
    lib.OX_STEP_CLONE: "make a process",
    lib.OX_STEP_SESSION: "start a session",
    lib.OX_STEP_TERMINAL: "take the terminal",
    lib.OX_STEP_SIGNALS: "reset the signals",
    lib.OX_STEP_CGROUP: "enter its cgroup",
    lib.OX_STEP_NETWORK: "enter its network namespace",
    lib.OX_STEP_MOUNTS: "mount",
    lib.OX_STEP_FDS: "place the file descriptors",
    lib.OX_STEP_CLOSE: "close the other file descriptors",
    lib.OX_STEP_NICE: "set its nice value",
    lib.OX_STEP_OOM: "set its oom_score_adj",
    lib.OX_STEP_LIMITS: "set the resource limits",
    lib.OX_STEP_GROUPS: "change its groups",
    lib.OX_STEP_BOUNDING: "bound its capabilities",
    lib.OX_STEP_PRIVILEGES: "give up new privileges",
    lib.OX_STEP_USER: "change its user",
    lib.OX_STEP_CAPABILITIES: "set its capabilities",
    lib.OX_STEP_FOLDER: "change to the folder",
    lib.OX_STEP_EXEC: EXECUTE,
}

OWN_NETWORK = -2
NOWHERE: object = ffi.NULL

REAPED = 64
END_SIZE = ffi.sizeof("struct ox_end")
_FIONREAD = 0x541B  # asm-generic/ioctls.h

_exits = ffi.new("struct ox_exit[]", REAPED)
_SIGNALS = 16
_numbers = ffi.new("int[]", _SIGNALS)
_offset = ffi.new("int64_t *")


class SpawnError(OSError):
    """The program does not run. `step` is what could not be done, as words; `errno` why; `mount` is the number of
    the mount that failed, or -1."""

    def __init__(self, errno: int, step: str, mount: int = -1) -> None:
        super().__init__(errno, os.strerror(errno))
        self.step = step
        self.mount = mount


class Child:
    """A child that is being made, perhaps in another thread."""

    __slots__ = ("struct",)

    def __init__(self) -> None:
        self.struct = ffi.new("struct ox_child *")
        self.struct.pidfd = -1

    @property
    def pidfd(self) -> int:
        """-1 as long as there is none."""
        return int(self.struct.pidfd)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def spawn(
    argv: bytes,
    env: bytes,
    base: bytes,
    folder: bytes,
    fds: list[int],
    limits: list[int],
    umask: int,
    *,
    numbers: "list[int] | None" = None,
    pid_names: bytes = b"",
    cgroup: int = -1,
    network: int = -1,
    terminal: int = -1,
    mounts: bytes = b"",
    nice: int | None = None,
    oom_score_adj: int | None = None,
    uid: int = -1,
    gid: int = -1,
    groups: "list[int] | None" = None,
    capabilities: int | None = None,
    no_new_privileges: bool = False,
    child: "Child | None" = None,
    told: object = NOWHERE,
) -> tuple[int, int]:
    """(pid, pidfd) of a child that has executed; pidfd is -1 where there are none. SpawnError otherwise. May run in
    several threads at once. To `told` (a `word` of `Shared`) the kernel writes the pid before the child runs."""
    made = (child or Child()).struct
    # What a pointer of the request leads to has to live until the call has come back.
    kept = [ffi.from_buffer("char[]", text) for text in (argv, env, base, mounts)]
    kept += [ffi.new("char[]", folder), ffi.new("int[]", fds), ffi.new("uint64_t[]", limits)]
    kept += [ffi.new("int[]", groups or []), ffi.from_buffer("char[]", pid_names)]
    request = ffi.new("struct ox_request *")
    request.argv, request.env, request.base, request.mounts = kept[:4]
    request.argv_size, request.env_size, request.base_size = len(argv), len(env), len(base)
    request.mounts_size = len(mounts)
    request.folder, request.fds, request.limits, request.groups = kept[4:8]
    request.pid_names, request.pid_names_size = kept[8], len(pid_names)
    if numbers is not None:
        kept.append(ffi.new("int[]", numbers))
        request.numbers = kept[-1]
    request.nfds, request.nlimits, request.ngroups = len(fds), len(limits) // 3, len(groups or ())
    request.mask, request.cgroup, request.network, request.terminal = umask, cgroup, network, terminal
    request.nice = lib.OX_UNSET if nice is None else nice
    request.oom_score_adj = lib.OX_UNSET if oom_score_adj is None else oom_score_adj
    request.uid, request.gid = uid, gid
    request.set_capabilities, request.capabilities = capabilities is not None, capabilities or 0
    request.no_new_privileges = no_new_privileges
    request.told = told
    if lib.ox_spawn(request, made) < 0:
        raise SpawnError(made.error, _STEPS[made.step], made.detail)
    return made.pid, made.pidfd


def reap() -> list[tuple[int, int | None, int | None]]:
    """(pid, exit code, None) or (pid, None, signal) of children that have ended; REAPED of them mean: call again."""
    ended: list[tuple[int, int | None, int | None]] = []
    for i in range(lib.ox_reap(_exits, REAPED)):
        one = _exits[i]
        ended.append((one.pid, None, one.signal) if one.signal else (one.pid, one.code, None))
    return ended


def note_ends(fd: int, offset: int, count: int, number: int) -> None:
    """From now on, `reap` writes END_SIZE bytes (struct ox_end) of each into a file before it reaps it, as the
    `number`-th of `count` from there on."""
    lib.ox_note_ends(fd, offset, count, number)


class Shared:
    """A file's memory, where only the kernel writes. OSError."""

    __slots__ = ("_words",)

    def __init__(self, fd: int, size: int) -> None:
        got = lib.ox_map(fd, size)
        if got == ffi.NULL:
            raise OSError(ENOMEM, os.strerror(ENOMEM))
        self._words = ffi.cast("int *", got)

    def word(self, offset: int) -> object:
        """A pointer to four bytes, for `spawn`; the offset is a multiple of four."""
        return self._words + offset // 4


def pidfd_exit(pidfd: int) -> tuple[int | None, int | None]:
    """(exit code, None) or (None, signal) of a process that is not our child; OSError where it cannot be told."""
    _check(lib.ox_pidfd_exit(pidfd, _exits))
    one = _exits[0]
    return (None, one.signal) if one.signal else (one.code, None)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's fd. OSError, also where this user or kernel may not."""
    return _check(lib.ox_pidfd_getfd(pidfd, fd))


def signalfd(signals: list[int]) -> int:
    return _check(lib.ox_signalfd(signals, len(signals)))


def read_signals(fd: int) -> list[int]:
    return [_numbers[i] for i in range(_check(lib.ox_read_signals(fd, _numbers, _SIGNALS)))]


def timerfd() -> int:
    return _check(lib.ox_timerfd())


def timerfd_set(fd: int, nanoseconds: int) -> None:
    """Absolute, on CLOCK_MONOTONIC; 0 disarms."""
    _check(lib.ox_timerfd_set(fd, nanoseconds))


def wall_timerfd() -> int:
    return _check(lib.ox_wall_timerfd())


def wall_timerfd_set(fd: int, nanoseconds: int) -> bool:
    """Absolute, on CLOCK_REALTIME; 0 disarms. False: that clock has been set meanwhile; it is armed all the same."""
    done = lib.ox_wall_timerfd_set(fd, nanoseconds)
    return done == 0 or (done != -ECANCELED and _check(done) == 0)


# --- what is watched ---

WRITTEN, MADE, REMOVED = lib.OX_WATCH_WRITTEN, lib.OX_WATCH_MADE, lib.OX_WATCH_REMOVED
MOVED_FROM, MOVED_TO = lib.OX_WATCH_MOVED_FROM, lib.OX_WATCH_MOVED_TO
SELF_REMOVED, SELF_MOVED = lib.OX_WATCH_SELF_REMOVED, lib.OX_WATCH_SELF_MOVED
_EVENTS = 16 * 1024
_EVENT_MOST = lib.OX_WATCH_HEAD + 256
OVERFLOW, FORGOTTEN, FOLDER = lib.OX_WATCH_OVERFLOW, lib.OX_WATCH_FORGOTTEN, lib.OX_WATCH_FOLDER


def watch() -> int:
    return _check(lib.ox_watch())


def watch_add(fd: int, folder: str, *, written: bool = True) -> int:
    """The number of the folder in what `read_watch` gives. May run in several threads at once."""
    return _check(lib.ox_watch_add(fd, os.fsencode(folder), written))


def watch_remove(fd: int, number: int) -> None:
    """Also of one that is not watched any more."""
    lib.ox_watch_remove(fd, number)


def read_watch(fd: int) -> tuple[list[tuple[int, int, str]], bool]:
    """(number, mask, name) of what has happened, in order, some hundreds; and whether these are all that there were."""
    try:
        data = os.read(fd, _EVENTS)
    except BlockingIOError:
        return [], True
    found: list[tuple[int, int, str]] = []
    at = 0
    while at < len(data):
        number = int.from_bytes(data[at : at + 4], sys.byteorder, signed=True)
        mask = int.from_bytes(data[at + 4 : at + 8], sys.byteorder)
        begin = at + lib.OX_WATCH_HEAD
        at = begin + int.from_bytes(data[at + 12 : at + 16], sys.byteorder)
        found.append((number, mask, os.fsdecode(data[begin:at].rstrip(b"\0"))))
    return found, len(data) <= _EVENTS - _EVENT_MOST


# --- sockets ---

HAS, HAS_NOT, HIDDEN, UNFINISHED, UNKNOWN = "has", "has not", "hidden", "unfinished", "unknown"


def has_socket(pids: list[int], inodes: list[int], most: int) -> str:
    """HAS when one of these processes has one of these sockets open; HIDDEN when none is found, and some could not be
    looked at; UNFINISHED when there are more than `most` fds to look at; UNKNOWN when we have no fds or memory left to
    look with. May run in several threads at once."""
    budget = ffi.new("int64_t *", most)
    answer = HAS_NOT
    for pid in pids:
        found = lib.ox_has_socket(pid, inodes, len(inodes), budget)
        if found > 0:
            return HAS
        if found == -EAGAIN:
            return UNFINISHED
        if found in (-EMFILE, -ENFILE, -ENOMEM):
            return UNKNOWN
        # One that has ended has none.
        if found < 0 and found not in (-ENOENT, -ESRCH):
            answer = HIDDEN
    return answer


# --- files ---


def read_whole(path: str) -> bytes:
    """All of a file. OSError also for EAGAIN, which a file object tells by None or by what it has so far."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


# --- logs ---


class Pipe:
    """Moves bytes out of one pipe. `offset` is where in a file the next ones go."""

    __slots__ = ("fd", "offset")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.offset = 0

    def splice(self, file: int, budget: int) -> int:
        """Up to so many bytes to the file at `offset`, which goes on by that; 0 when there are none. A kill falls
        before or after it, but on a file system that takes no splice, where it may double what was being moved."""
        _offset[0] = self.offset
        moved = lib.ox_splice(self.fd, file, _offset, budget)
        if moved == -EINVAL:
            moved = lib.ox_copy(self.fd, file, _offset, _scratch(), budget)
        self.offset = _offset[0]
        return _check(moved)

    def line_end(self) -> int:
        """How many bytes its first line has, with the newline; 0 when it has no end yet. They stay where they are."""
        return _check(lib.ox_line_end(self.fd, _scratch()))

    def waiting(self) -> int:
        """Bytes that are in it (FIONREAD of pipe(7))."""
        return int.from_bytes(fcntl.ioctl(self.fd, _FIONREAD, b"\0\0\0\0"), sys.byteorder)

    def discard(self, null: int, budget: int) -> int:
        return _check(lib.ox_discard(self.fd, null, budget))


_scratch_pipe: list[int] = []


def _scratch() -> list[int]:
    """A pipe that is empty, for what is only looked at."""
    if not _scratch_pipe:
        _scratch_pipe.extend(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
    return _scratch_pipe


def punch(file: int, offset: int, size: int) -> None:
    """Give the room of these bytes back; OSError where that cannot be."""
    _check(lib.ox_punch(file, offset, size))


RAW, CRI, JSON, PREFIXED = lib.OX_RAW, lib.OX_CRI, lib.OX_JSON, lib.OX_PREFIXED
LINE_LIMIT, BLOCK = lib.OX_LINE_LIMIT, lib.OX_BLOCK
BETWEEN, KEPT, DROPPED = lib.OX_BETWEEN, lib.OX_KEPT, lib.OX_DROPPED


class Formatter:
    """Bytes into lines, as csrc/format.c says. `stream` stands in each of them. After each call, `used` is how many
    bytes of the input are done with, `lines` how many were kept and `dropped` how many were not, `inside` whether the
    input ended within a line."""

    __slots__ = ("_done", "_format", "_kept", "_stream")

    def __init__(self, kind: int, stream: bytes, limit: int = LINE_LIMIT) -> None:
        self._stream = ffi.new("char[]", stream)
        self._format = ffi.new("struct ox_format *", {"kind": kind, "stream": self._stream, "limit": limit})
        self._done = ffi.new("struct ox_formatted *")

    def begin(
        self, stamp: bytes, *, final: bool = False, inside: int = 0, allowed: int = -1, notice: bytes = b""
    ) -> None:
        """How the following calls format."""
        form = self._format
        self._kept = [ffi.new("char[]", stamp), ffi.new("char[]", notice)]
        form.stamp, form.notice = self._kept[0], self._kept[1] if notice else ffi.NULL
        form.final, form.inside, form.allowed = final, inside, allowed

    @property
    def used(self) -> int:
        return int(self._done.used)

    @property
    def lines(self) -> int:
        return int(self._done.lines)

    @property
    def dropped(self) -> int:
        return int(self._done.dropped)

    @property
    def inside(self) -> int:
        return int(self._done.inside)

    def file(self, source: int, offset: int, size: int, target: int, target_offset: int) -> int:
        """From one file to another, a block at the most; the bytes that were written."""
        return _check(lib.ox_format_file(self._format, source, offset, size, target, target_offset, self._done))

    def text(self, data: bytes, room: int = 4 * BLOCK) -> bytes:
        out = ffi.new("char[]", room)
        size = lib.ox_format(self._format, data, len(data), out, room, self._done)
        return bytes(ffi.buffer(out, size))

    def send(self, journal: int, fields: bytes, data: bytes) -> bool:
        """To journald, a datagram a line; False when it takes no more now."""
        return not _check(lib.ox_send_lines(self._format, journal, fields, len(fields), data, len(data), self._done))


def spawn_rung(wanted: int = -1) -> int:
    """Get, or set if it is not negative, the way children are made; see csrc/oxmgr.h."""
    return int(lib.ox_spawn_rung(wanted))

"""The extension with Python's types and exceptions. csrc/oxmgr.h says what each call does."""

import os

from oxmgr._native import ffi, lib

_STEPS = {
    lib.OX_STEP_MEMORY: "prepare the start",
    lib.OX_STEP_CLONE: "make a process",
    lib.OX_STEP_SESSION: "start a session",
    lib.OX_STEP_SIGNALS: "reset the signals",
    lib.OX_STEP_FDS: "place the file descriptors",
    lib.OX_STEP_CLOSE: "close the other file descriptors",
    lib.OX_STEP_LIMITS: "set the resource limits",
    lib.OX_STEP_FOLDER: "change to the folder",
    lib.OX_STEP_EXEC: "execute",
}

_BATCH = 64

_child = ffi.new("struct ox_child *")
_exits = ffi.new("struct ox_exit[]", _BATCH)
_numbers = ffi.new("int[]", _BATCH)


class SpawnError(OSError):
    """The program does not run. `step` is what could not be done, as words; `errno` why."""

    def __init__(self, errno: int, step: str) -> None:
        super().__init__(errno, os.strerror(errno))
        self.step = step


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
) -> tuple[int, int]:
    """(pid, pidfd) of a child that has executed; pidfd is -1 where there are none. SpawnError otherwise."""
    result = lib.ox_spawn(
        argv, len(argv), env, len(env), base, len(base), folder, fds, len(fds), limits, len(limits) // 3, umask, _child
    )
    if result < 0:
        raise SpawnError(_child.error, _STEPS[_child.step])
    return _child.pid, _child.pidfd


def reap() -> list[tuple[int, int | None, int | None]]:
    """(pid, exit code, None) or (pid, None, signal) of every child that has ended."""
    ended: list[tuple[int, int | None, int | None]] = []
    while True:
        count = lib.ox_reap(_exits, _BATCH)
        for i in range(count):
            one = _exits[i]
            ended.append((one.pid, None, one.signal) if one.signal else (one.pid, one.code, None))
        if count < _BATCH:
            return ended


def pidfd_exit(pidfd: int) -> tuple[int | None, int | None]:
    """(exit code, None) or (None, signal) of a process that is not our child; OSError where it cannot be told."""
    _check(lib.ox_pidfd_exit(pidfd, _exits))
    one = _exits[0]
    return (None, one.signal) if one.signal else (one.code, None)


def signalfd(signals: list[int]) -> int:
    return _check(lib.ox_signalfd(signals, len(signals)))


def read_signals(fd: int) -> list[int]:
    return [_numbers[i] for i in range(_check(lib.ox_read_signals(fd, _numbers, 16)))]


def timerfd() -> int:
    return _check(lib.ox_timerfd())


def timerfd_set(fd: int, nanoseconds: int) -> None:
    """Absolute, on CLOCK_MONOTONIC; 0 disarms."""
    _check(lib.ox_timerfd_set(fd, nanoseconds))


def spawn_rung(wanted: int = -1) -> int:
    """Get, or set if it is not negative, the way children are made; see csrc/oxmgr.h."""
    return int(lib.ox_spawn_rung(wanted))

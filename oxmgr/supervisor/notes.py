"""What must be known at once, before the journal has it: which pid a start has got, and how a child has ended. Owns
`notes`, a file of the run folder; without it all else goes on.

The kernel writes a child's pid there before that child runs (csrc/spawn.c), and an end is written there before the
child is reaped (csrc/reap.c). So whoever comes after us finds what we had no time to write down. The kernel keeps the
file over our death; of another boot it means nothing. In bytes:

- 0: a header, and the boot
- SLOT * n, n from 1 to STARTS: a start that is under way: its pid, 0 before the kernel has written it and once the
  journal has it; at 8, when it was to begin (nanoseconds of CLOCK_BOOTTIME); at 16, a record of what the journal would
  have of it
- ENDS: the last ENDS_MOST ends (struct ox_end of csrc/oxmgr.h), round and round
"""

import os
import stat
import time
from _signal import SIGCONT, SIGKILL, SIGSTOP, pidfd_send_signal
from sys import byteorder

from oxmgr.model.codec import UNREADABLE, Decoder, encode, replace
from oxmgr.model.messages import Observed
from oxmgr.model.records import Newer, file_header, read_records, record
from oxmgr.supervisor import cgroup, descendants, native
from oxmgr.supervisor.files import boot_id, remove
from oxmgr.supervisor.process import open_pidfd, read_stat_surely
from oxmgr.supervisor.views import observed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxmgr.supervisor.cgroup import Cgroups
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.instance import Instance, Owner
    from oxmgr.supervisor.journal import Past

KIND = "notes"
SLOT = 1024
STARTS = 15
ENDS = SLOT * (STARTS + 1)
ENDS_MOST = 1024
SIZE = ENDS + ENDS_MOST * native.END_SIZE
_RECORD = 16
_LOOKS = 100
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOTHING = bytes(8)
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds."""
_NOT_EXECUTED = 0x40
"""PF_FORKNOEXEC (include/linux/sched.h), of field 9 of proc(5)'s stat."""


class Start:
    """One that nobody has written down: `since` is the earliest that it can have begun, in clock ticks after boot."""

    __slots__ = ("at", "pid", "seen", "since")

    def __init__(self, at: int, pid: int, since: int, seen: Observed) -> None:
        self.at = at
        self.pid = pid
        self.since = since
        self.seen = seen

    @property
    def owner(self) -> "Owner":
        return self.seen.app, self.seen.index, self.seen.run

    @property
    def folder(self) -> str:
        """As of Instance."""
        pipes = f"{self.seen.app}:{self.seen.index}"
        return f"{pipes}+{self.seen.run}" if self.seen.run else pipes


class Notes:
    """`starts` are those of an earlier daemon of this boot. From the beginning on ends are noted; starts from `begin`
    on."""

    def __init__(self, path: str) -> None:
        self.starts: list[Start] = []
        self._path = path
        self._ends: list[tuple[int, int, int]] = []
        self._of: dict[Instance, int] = {}
        self._free: list[int] = []
        self._shared: native.Shared | None = None
        self._fd = -1
        try:
            self._fd = _open(path)
            self._read(os.pread(self._fd, SIZE, 0).ljust(SIZE, b"\0"))
        except OSError:
            self._give_up()

    def _read(self, data: bytes) -> None:
        head = _head()
        if not data.startswith(head):
            os.pwrite(self._fd, head.ljust(SIZE, b"\0"), 0)
            data = bytes(SIZE)
        words, moments = memoryview(data)[ENDS:].cast("i"), memoryview(data)[ENDS:].cast("Q")
        self._ends = [(words[4 * i], words[4 * i + 1], moments[2 * i + 1]) for i in range(ENDS_MOST) if words[4 * i]]
        last = max(range(ENDS_MOST), key=lambda i: moments[2 * i + 1])
        native.note_ends(self._fd, ENDS, ENDS_MOST, (last + 1) % ENDS_MOST)
        found = [_start_of(data[at : at + SLOT], at) for at in range(SLOT, ENDS, SLOT)]
        self.starts = [one for one in found if one is not None]

    def end(self, pid: int, ticks: int) -> int | None:
        """How that process, which began then and is no more, has ended, if it was reaped by a daemon: the status as of
        waitpid(2)."""
        # Until it was reaped, its number was no other's.
        found = [(when, status) for one, status, when in self._ends if one == pid and when >= ticks * _TICK]
        return min(found)[1] if found else None

    def end_unbegun(self) -> None:
        """End those that have not come to execute their program, and never will then: they are no starts. Each holds
        what the earlier daemon held, its locks too. OSError when one cannot be looked at."""
        for one in list(self.starts):
            if _is_ended_unbegun(one):
                # At once: should we not come up, whoever comes after us must not take it for a run that was killed.
                self.starts.remove(one)
                self._write(_NOTHING, one.at)

    # --- our own ---

    def begin(self) -> None:
        """The journal has all that was noted."""
        if self._fd < 0:
            return
        try:
            os.pwrite(self._fd, bytes(ENDS - SLOT), SLOT)
            self._shared = native.Shared(self._fd, SIZE)
        except OSError:
            self._give_up()
        self._free = [*range(SLOT, ENDS, SLOT)]
        self.starts, self._ends = [], []

    def start(self, instance: "Instance") -> object:
        """It is about to be started: where its pid is to be written."""
        if self._shared is None or not (self._free or instance in self._of):
            return native.NOWHERE
        at = self._of.get(instance, 0) or self._free.pop()
        self._of[instance] = at
        since = time.clock_gettime_ns(time.CLOCK_BOOTTIME).to_bytes(8, byteorder)
        self._write(_NOTHING + since + _record(observed(instance)), at)
        return native.NOWHERE if self._shared is None else self._shared.word(at)

    def journaled(self, instance: "Instance", seen: Observed) -> None:
        """The journal has this of it."""
        at = self._of.get(instance)
        if at is None:
            return
        if seen.pid:
            self.drop(instance)
        else:
            # It is still being started, but is not what it was.
            self._write(_record(seen), at + _RECORD)

    def drop(self, instance: "Instance") -> None:
        """No process of it is left unknown."""
        at = self._of.pop(instance, None)
        if at is not None:
            self._write(_NOTHING, at)
            self._free.append(at)

    def _write(self, data: bytes, at: int) -> None:
        try:
            if os.pwrite(self._fd, data, at) == len(data):
                return
        except OSError:
            pass
        self._give_up()

    def _give_up(self) -> None:
        """What cannot be kept true must not be found by who comes after us."""
        native.note_ends(-1, 0, 0, 0)
        self._shared = None
        self._of.clear()
        if self._fd >= 0:
            remove(self._path)
            os.close(self._fd)
            self._fd = -1


def _open(path: str) -> int:
    """One that is a plain file of ours and of that name alone."""
    fd = os.open(path, _FLAGS, 0o600)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
        os.fchmod(fd, 0o600)
        return fd
    os.close(fd)
    os.unlink(path)
    return os.open(path, _FLAGS | os.O_EXCL, 0o600)


def _head() -> bytes:
    return file_header(KIND) + f"{boot_id()}\n".encode()


def _record(seen: Observed) -> bytes:
    """What fits of it."""
    data = record(encode(seen))
    return data if len(data) <= SLOT - _RECORD else record(encode(replace(seen, reason="", cgroup="", marks={})))


def _start_of(slot: bytes, at: int) -> Start | None:
    pid = int.from_bytes(slot[:4], byteorder, signed=True)
    try:
        payloads, _, _ = read_records(KIND, file_header(KIND) + slot[_RECORD:])
        seen = Decoder(Observed).decode(payloads[0]) if payloads and pid > 0 else None
    except (Newer, *UNREADABLE):
        return None
    return None if seen is None else Start(at, pid, int.from_bytes(slot[8:16], byteorder) // _TICK, seen)


# --- what an earlier daemon had no time for ---


def complete(past: "Past", notes: Notes, cgroups: "Cgroups", guard: "Guard") -> None:
    """Have it know of the starts that only the notes have. OSError when it cannot be found out what became of one."""
    for start in notes.starts:
        seen = start.seen
        known = [*past.seen.values(), *past.others]
        if any((one.app, one.index, one.run, one.pid) == (*start.owner, start.pid) for one in known):
            continue
        ticks = _began(start, cgroups, guard)
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks * _TICK / 1e9
        seen = replace(seen, pid=start.pid, ticks=ticks, started_at=time.time() - age, session=start.pid)
        if seen.extra:
            others = [one for one in past.others if (one.app, one.index, one.run) != start.owner]
            past.others = [*others, seen]
        else:
            past.seen[seen.app, seen.index] = seen


def _began(start: Start, cgroups: "Cgroups", guard: "Guard") -> int:
    """When its process did, in clock ticks after boot: whether that runs or has ended, both are found by it."""
    found = read_stat_surely(start.pid)
    if found is None or found[0] == b"Z":
        guard.fetch_exits()
    told = [ticks for pid, _, ticks in guard.exits if pid == start.pid and ticks >= start.since]
    if told:
        return told[0]
    is_new = found is not None and int(found[19]) >= start.since
    # Of a zombie the environment is gone, and of one that executes just now it is not there yet.
    if found is not None and is_new and (found[0] == b"Z" or any(_is_of(start, cgroups) for _ in _moments())):
        return int(found[19])
    # Nothing that is there has begun by then.
    return start.since - 1


def _moments() -> "Iterator[None]":
    yield
    for _ in range(_LOOKS):
        time.sleep(0.001)
        yield


def _is_of(start: Start, cgroups: "Cgroups") -> bool:
    folder = cgroup.folder_of(start.pid, cgroups.mount)
    try:
        return bool(cgroups.own_folder(folder, start.folder)) or descendants.born_as(start.pid) == start.owner
    except BlockingIOError:
        return False


def _is_ended_unbegun(start: Start) -> bool:
    """False too when it has begun by now. A copy of us it is as long as it has not."""
    found = read_stat_surely(start.pid)
    if found is None or found[0] == b"Z" or not int(found[6]) & _NOT_EXECUTED or int(found[19]) < start.since:
        return False
    try:
        if not os.path.samefile(f"/proc/{start.pid}/exe", "/proc/self/exe"):
            return False
        pidfd = open_pidfd(start.pid)
    except FileNotFoundError:
        return False
    try:
        # From the SIGSTOP on it runs nothing outside of the kernel, so what has not executed then never does.
        pidfd_send_signal(pidfd, SIGSTOP)
        now = read_stat_surely(start.pid)
        unbegun = now is not None and now[19] == found[19] and bool(int(now[6]) & _NOT_EXECUTED)
        pidfd_send_signal(pidfd, SIGKILL if unbegun else SIGCONT)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return unbegun

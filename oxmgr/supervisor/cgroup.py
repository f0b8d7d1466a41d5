"""The subtree of cgroup v2 that this daemon owns: a folder for each instance. Nobody else writes there.

Facts are from the kernel's Documentation/admin-guide/cgroup-v2.rst unless said otherwise.
"""

import errno
import fcntl
import os
import time
from _signal import SIGKILL, pidfd_send_signal
from binascii import crc32

from oxmgr.supervisor import native

LEAF = "daemon"
_PREFIX = "oxmgr-"
_PROBE = "probe-"
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
CGROUP_KILL = "cgroup.kill"
FREEZE = "freeze"
# The second is for a daemon without CAP_SYS_ADMIN (Linux 5.7, xattr(7)).
_ENABLED = ("trusted.oxmgr.enabled", "user.oxmgr.enabled")
_GONE = (errno.ENOENT, errno.ENODEV)
"""What the kernel says of a cgroup that is not there, and of one that goes while it is read. All else is not known."""
_OTHERS = 10
_PASSES = 100
_REMOVALS = 20
_REMOVE_AGAIN = 0.01


class Cgroups:
    """`base` is the folder of the subtree, "" where this host gives us none; `why` says in words where it is, or why
    there is none; `mount` is where the hierarchy is mounted. `controllers` are those that can hold a limit here.
    `kill_by` is CGROUP_KILL (Linux 5.14) or FREEZE. `lock` is an fd of the base that holds its flock: as long as we
    live, nobody else takes it for an earlier daemon's."""

    def __init__(self, base: str = "", why: str = "", mount: str = "", lock: int = -1) -> None:
        self.base = base
        self.why = why
        self.mount = mount
        self.lock = lock
        self.controllers: frozenset[str] = frozenset()
        self.kill_by = CGROUP_KILL

    def make(self, name: str) -> tuple[str, bool]:
        """The folder of that name, and whether it had to be made. OSError."""
        path = f"{self.base}/{name}"
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return path, False
        return path, True

    def make_leaf(self, name: str) -> tuple[str, int]:
        """A folder for what is run beside instances, and an fd to be born into it by; ("", -1) where there can be none.
        Never one that is there: the kernel kills what is born into one that was killed (see `_is_survived`)."""
        if not self.base:
            return "", -1
        path = ""
        try:
            for number in range(_OTHERS):
                path, made = self.make(f"{name}.{number}" if number else name)
                if made:
                    return path, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            remove(path)
        return "", -1

    def folders(self) -> list[str]:
        """Of all instances that are there, whoever made them."""
        if not self.base:
            return []
        return [f"{self.base}/{name}" for name in os.listdir(self.base) if ":" in name]

    def own_folder(self, path: str, name: str) -> str:
        """The path, if it is one of an instance of that name; else ""."""
        base, _, own = path.rpartition("/")
        return path if self.base and base == self.base and own.partition("~")[0] == name else ""

    def kill(self, path: str) -> None:
        """SIGKILL to all in it and below it; that it is not there is no error. OSError: it could not be done."""
        if self.kill_by == FREEZE:
            _kill_frozen(path)
            return
        try:
            _write(f"{path}/cgroup.kill", "1")
        except OSError as error:
            if error.errno in _GONE:
                return
            # A threaded one has no such file's meaning.
            if error.errno != errno.EOPNOTSUPP:
                raise
            _kill_frozen(path)

    def close(self) -> None:
        """Leave the hierarchy as it was found, once nothing runs any more; what somebody else put there stays. Waits
        for the kernel to let go of what has just ended."""
        if self.base:
            self._give_back()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def _give_back(self) -> None:
        leaf = f"{self.base}/{LEAF}"
        try:
            for path in self.folders():
                for _ in range(_REMOVALS):
                    if remove(path):
                        break
                    time.sleep(_REMOVE_AGAIN)
            _switch(self.base, "-", list(self.controllers))
            if os.path.isdir(leaf):
                _write(f"{self.base}/cgroup.procs", "0")
                os.rmdir(leaf)
                return
            above = os.path.dirname(self.base)
            enabled = _noted(self.base)
            os.rmdir(self.base)
            _switch(above, "-", enabled)
        except OSError:
            return


def base_name(state: str) -> str:
    """Of the base of the daemon that has this state folder. Not by its path alone: in another mount namespace that is
    another folder. OSError when it is not there."""
    stat = os.stat(state)
    return f"{_PREFIX}{crc32(os.fsencode(f'{stat.st_dev}:{stat.st_ino}:{state}')):08x}"


def open_cgroups(state: str) -> Cgroups:
    """Find or make our subtree. The state folder tells it from that of another daemon of this host."""
    mount, own = _own_cgroup()
    if not mount:
        return Cgroups(why=own)
    cgroups = Cgroups()
    try:
        if _is_delegated(own):
            # With a controller enabled for its children, a cgroup may hold no process itself.
            os.makedirs(f"{own}/{LEAF}", 0o755, exist_ok=True)
            _write(f"{own}/{LEAF}/cgroup.procs", "0")
            # Two daemons can be given the same one: in a container, say.
            base, lock = _claim([own, *_names(own, state)])
            cgroups = Cgroups(base, f"{base}, delegated to us", mount, lock)
        elif os.geteuid() == 0:
            base, lock = _claim(_names(mount, state))
            cgroups = Cgroups(base, base, mount, lock)
            _enable_above(base, mount)
        else:
            return Cgroups(why=f"{own} is not delegated to you: start the daemon as a user unit with Delegate=yes")
        _probe(cgroups)
    except OSError as error:
        if cgroups.lock >= 0:
            os.close(cgroups.lock)
        return Cgroups(why=f"{error.filename or own}: {error.strerror}")
    return cgroups


def _names(above: str, state: str) -> list[str]:
    base = f"{above}/{base_name(state)}"
    return [base, *(f"{base}-{number}" for number in range(1, _OTHERS))]


def _claim(paths: list[str]) -> tuple[str, int]:
    """The first of these folders that no other daemon holds, and the fd by which we do. OSError."""
    for path in paths:
        os.makedirs(path, 0o755, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        except OSError:
            os.close(fd)
            raise
        return path, fd
    raise OSError(errno.EBUSY, "other daemons hold it and all that were tried instead", paths[0])


def _own_cgroup() -> tuple[str, str]:
    """(the mount of cgroup v2, our own cgroup's folder without the leaf); ("", why) when there is none to be used."""
    with open("/proc/self/cgroup") as file:
        paths = [line[3:].strip() for line in file if line.startswith("0::")]
    if not paths:
        return "", "this kernel has no cgroup v2"
    path = paths[0]
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    for words in mounts:
        # Fields 4 and 5 of proc(5), mountinfo: the root within the file system, and where it is mounted.
        root, mount = (word.replace("\\040", " ") for word in words[3:5])
        below = path[len(root.rstrip("/")) :]
        if path.startswith(root.rstrip("/") + "/") or path == root:
            own = f"{mount}{below}".rstrip("/")
            return mount, own.removesuffix(f"/{LEAF}")
    return "", "no cgroup v2 is mounted" if not mounts else f"our cgroup {path} is in no mount that can be seen here"


def _is_delegated(own: str) -> bool:
    """By systemd (Delegate=, which sets these attributes), by a container (the root of its cgroup namespace has
    cgroup.events, which the real root has not), or to a user (who may write to it)."""
    for attribute in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(own, attribute) == b"1":
                return True
        except OSError:
            continue
    if os.geteuid():
        return os.access(own, os.W_OK) and os.access(f"{own}/cgroup.procs", os.W_OK)
    with open("/proc/self/cgroup") as file:
        at_root = any(line.startswith("0::") and line[3:].strip() in ("/", f"/{LEAF}") for line in file)
    return at_root and os.path.exists(f"{own}/cgroup.events")


def _enable_above(base: str, mount: str) -> None:
    """What we switch on in somebody else's cgroup is noted at ours, so that it can be switched off in the end; what is
    on because another daemon of ours switched it on is noted too, since the last of them has to do it."""
    on = _words(f"{mount}/cgroup.subtree_control")
    others = [entry.path for entry in os.scandir(mount) if entry.name.startswith(_PREFIX) and entry.is_dir()]
    ours = {one for path in others for one in _noted(path)}
    wanted = [one for one in CONTROLLERS if one not in on or one in ours]
    if wanted and _note(base, wanted):
        _switch(mount, "+", wanted)


def _note(base: str, controllers: list[str]) -> bool:
    for name in _ENABLED:
        try:
            os.setxattr(base, name, " ".join(controllers).encode())
        except OSError:
            continue
        return True
    return False


def _noted(base: str) -> list[str]:
    for name in _ENABLED:
        try:
            return os.getxattr(base, name).decode().split()
        except OSError:
            continue
    return []


def _probe(cgroups: Cgroups) -> None:
    base = cgroups.base
    _switch(base, "+", list(CONTROLLERS))
    cgroups.controllers = frozenset(_words(f"{base}/cgroup.subtree_control")) & frozenset(CONTROLLERS)
    # One that was killed here has left its own, and its number may be ours.
    for name in os.listdir(base):
        if name.startswith(_PROBE):
            remove(f"{base}/{name}")
    free = (f"{base}/{_PROBE}{number}" for number in range(os.getpid(), os.getpid() + _OTHERS))
    probe = next(path for path in free if not os.path.exists(path))
    os.mkdir(probe, 0o755)
    try:
        if not os.path.exists(f"{probe}/cgroup.kill"):
            cgroups.kill_by = FREEZE
        if not _is_survived(probe):
            native.spawn_rung(1)
    finally:
        os.rmdir(probe)


def _is_survived(path: str) -> bool:
    """Whether what is born into that cgroup lives.

    Since Linux 6.14 the kernel counts the kills of each cgroup, and for a child that is born into another cgroup than
    its parent's it compares the counts of the two (cgroup_css_set_fork and cgroup_post_fork, kernel/cgroup/cgroup.c):
    where ours was once killed by cgroup.kill, such a child is killed at its birth.
    """
    fds: list[int] = []
    try:
        fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        fds.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        folder, null = fds
        pid, pidfd = native.spawn(b"true\0", b"", b"", b"/", [null, null, null], [], 0o077, cgroup=folder)
    except native.SpawnError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    if pidfd >= 0:
        os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    return not os.WIFSIGNALED(status)


def _switch(path: str, sign: str, controllers: list[str]) -> list[str]:
    """Switch controllers on or off for a cgroup's children, one by one since each can be refused; those that were
    switched."""
    switched = []
    for one in controllers:
        try:
            _write(f"{path}/cgroup.subtree_control", f"{sign}{one}")
        except OSError:
            continue
        switched.append(one)
    return switched


# --- one cgroup ---


def is_populated(path: str) -> bool:
    """Whether anything lives in it or below it, or may: True too when it cannot be looked at (no fds are left), so that
    it is looked at again. One that is not there is empty."""
    try:
        if b"populated 0" in native.read_whole(f"{path}/cgroup.events"):
            return False
        # Since Linux 6.19 a process is counted for some microseconds after its parent has been told of its end.
        return bool(members(path))
    except OSError as error:
        return error.errno not in _GONE


def is_divided(path: str) -> bool:
    """Whether there are others below it, which its app has made."""
    try:
        return os.stat(path).st_nlink > 2
    except OSError:
        return False


def pids(path: str) -> list[int]:
    """Of what lives in it and below it, as far as it can be looked at; no zombies."""
    try:
        return members(path)
    except OSError:
        return []


def members(path: str) -> list[int]:
    """OSError when it cannot be looked at."""
    found: list[int] = []
    todo = [path]
    while todo:
        folder = todo.pop()
        try:
            found += map(int, native.read_whole(f"{folder}/cgroup.procs").split())
        except OSError as error:
            # The members of a threaded one are told by the one above it.
            if error.errno not in (*_GONE, errno.EOPNOTSUPP):
                raise
        try:
            todo += [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return found


def oom_kills(path: str) -> tuple[int, int]:
    """How many of it the kernel has killed because memory ran out, and how often its own limit was what had run out;
    since it was made (memory.events)."""
    counts = read_pairs(f"{path}/memory.events")
    return counts.get("oom_kill", 0), counts.get("oom", 0)


def read_number(path: str) -> int | None:
    """A file that holds a number; None when it is not there or says `max`."""
    try:
        return int(native.read_whole(path))
    except (OSError, ValueError):
        return None


def read_pairs(path: str) -> dict[str, int]:
    """A file of `key number` lines; {} when it is not there."""
    try:
        words = [line.split() for line in native.read_whole(path).decode().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def write(path: str, value: str) -> None:
    """OSError with the file's name."""
    _write(path, value)


def remove(path: str) -> bool:
    """It and what its app made below it, if it is empty; False when it is not (yet): rmdir(2) may be refused for a
    moment after the last process has gone."""
    try:
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                remove(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def folder_of(pid: int, mount: str) -> str:
    """The folder of a process's cgroup, seen from the mount; "" when it is gone. OSError when that cannot be known."""
    try:
        paths = [
            line[3:]
            for line in native.read_whole(f"/proc/{pid}/cgroup").decode().splitlines()
            if line.startswith("0::")
        ]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{mount}{paths[0]}" if paths else ""


def _kill_frozen(path: str) -> None:
    """Without cgroup.kill: frozen, so that nothing forks meanwhile (Linux 5.2), each is killed by its pidfd. A frozen
    process dies of SIGKILL. Without the freezer, passes are made until nothing more is found."""
    try:
        _write(f"{path}/cgroup.freeze", "1")
    except OSError:
        pass
    for _ in range(_PASSES):
        found = pids(path)
        if not found:
            break
        for pid in found:
            _kill_member(pid, path)
    try:
        _write(f"{path}/cgroup.freeze", "0")
    except OSError:
        pass


def _kill_member(pid: int, path: str) -> None:
    """Its number may be another's by now, so it is held first and then looked for again."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        # No pidfds here: the time between the two calls is all that a stranger has to take the number.
        if pid in pids(path):
            _send_by_number(pid)
        return
    try:
        if pid in pids(path):
            pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _send_by_number(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
    except ProcessLookupError:
        pass


def _words(path: str) -> list[str]:
    return native.read_whole(path).decode().split()


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)

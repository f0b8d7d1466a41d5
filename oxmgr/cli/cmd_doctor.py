"""`oxmgr doctor`: what could keep oxmgr from doing its work on this host."""

import os
import sys

from oxmgr.cli.cmd_daemon import resident
from oxmgr.cli.context import my_places
from oxmgr.cli.output import GREEN, RED, YELLOW, paint, print_json, size, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.client.connection import NoDaemon, NotRunning, Refused, connect
from oxmgr.client.saved import kept_aside, read_saved
from oxmgr.model.messages import DONE, FAILED, DaemonView, GetDaemon
from oxmgr.model.places import Places

OK, WARN, FAIL = "ok", "warn", "fail"
Finding = tuple[str, str, str]


def run(args: Args) -> int:
    places = my_places()
    findings = [
        *_folders(places),
        *_daemon(places),
        *_state(places),
        *_kernel(),
        *_cgroup(),
        *_limits(),
        *_programs(),
    ]
    if args.flag("json"):
        print_json([{"result": result, "check": check, "detail": detail} for result, check, detail in findings])
    else:
        colours = {OK: GREEN, WARN: YELLOW, FAIL: RED}
        wanted = wants_colour(1)
        for result, check, detail in findings:
            sys.stdout.write(f"{paint(f'{result:4}', colours[result], wanted)}  {check:12} {detail}\n")
    return FAILED if any(result == FAIL for result, *_ in findings) else DONE


def _folders(places: Places) -> list[Finding]:
    found: list[Finding] = []
    for name, path in (("state", places.state), ("run", places.run), ("logs", places.logs)):
        if not os.path.isdir(path):
            above = path
            while not os.path.exists(above):
                above = os.path.dirname(above)
            good = os.access(above, os.W_OK)
            found.append(
                (OK, name, f"{path}, made at the first start")
                if good
                else (FAIL, name, f"{path} cannot be made: {above} is not writable for you")
            )
            continue
        status = os.stat(path)
        if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o007:
            found.append((FAIL, name, f"{path} is open to others: chown it to you and chmod 700 it"))
        elif not os.access(path, os.W_OK):
            found.append((FAIL, name, f"{path} is not writable for you"))
        else:
            free = os.statvfs(path)
            room = free.f_bavail * free.f_frsize
            found.append((WARN if room < 100 << 20 else OK, name, f"{path}, {size(room)} free"))
    return found


def _daemon(places: Places) -> list[Finding]:
    try:
        connection = connect(places)
        view = connection.request(GetDaemon())
    except (NoDaemon, Refused) as error:
        hangs = not isinstance(error, NotRunning)
        return [
            (
                FAIL if hangs else OK,
                "daemon",
                f"{error}" + ("" if hangs else "; the first command that needs one starts it"),
            )
        ]
    assert isinstance(view, DaemonView)
    detail = f"pid {view.pid}, version {view.version}, {size(resident(view.pid))}, {view.instances} instances"
    aside = kept_aside(places)
    # What was kept aside is told with the saved files.
    others = [text for text in view.warnings if not any(map(text.startswith, aside))]
    return [(OK, "daemon", detail), *((WARN, "daemon", text) for text in others)]


def _state(places: Places) -> list[Finding]:
    views, wrong = read_saved(places, [])
    found = [(FAIL, "saved", text) for text in wrong] or [(OK, "saved", f"{len(views)} instances")]
    aside = kept_aside(places)
    return found + [(WARN, "saved", f"{path} was kept aside: look at it, then remove it") for path in aside]


def _kernel() -> list[Finding]:
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    found: list[Finding] = []
    if (major, minor) >= (5, 4):
        found.append(
            (
                OK,
                "kernel",
                f"{release}: pidfds, clone3, close_range" if (major, minor) >= (5, 9) else f"{release}: pidfds, clone3",
            )
        )
    else:
        found.append(
            (WARN, "kernel", f"{release} is older than 5.4: signals go by pid, to children that are not reaped")
        )
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        found.append((WARN, "pidfd", f"refused ({error.strerror}), by a seccomp filter perhaps: signals go by pid"))
    if not os.path.exists("/proc/self/task"):
        found.append((FAIL, "proc", "/proc is not mounted: left-over processes cannot be found"))
    elif not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        found.append(
            (
                WARN,
                "proc",
                "the kernel has no CONFIG_PROC_CHILDREN: processes that an app leaves behind are not found",
            )
        )
    else:
        found.append((OK, "trees", "subreaper, sessions and /proc: what an app leaves behind is found and ended"))
    return found


def _cgroup() -> list[Finding]:
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[4] for line in file if " - cgroup2 " in line]
    if not mounts:
        return [(WARN, "cgroup", "no cgroup v2 is mounted; this version of oxmgr does not use it yet")]
    try:
        with open(f"{mounts[0]}/cgroup.controllers") as file:
            controllers = file.read().strip() or "no controllers"
    except OSError as error:
        controllers = error.strerror or "not readable"
    return [(OK, "cgroup", f"v2 at {mounts[0]}: {controllers}; this version of oxmgr does not use it yet")]


def _limits() -> list[Finding]:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1024:
        return [(WARN, "open files", f"at most {hard}: each instance needs one; raise the hard limit (ulimit -Hn)")]
    return [(OK, "open files", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")]


def _programs() -> list[Finding]:
    found: list[Finding] = []
    for program in ("node", "python3"):
        paths = [f"{folder}/{program}" for folder in os.environ.get("PATH", "").split(":")]
        path = next((path for path in paths if os.access(path, os.X_OK)), None)
        found.append((OK, program, path or "not in your PATH; only needed if you run such apps"))
    return found

"""`oxmgr doctor`: what could keep oxmgr from doing its work on this host."""

import os
import sys

from oxmgr.cli.cmd_daemon import resident
from oxmgr.cli.context import my_places
from oxmgr.cli.output import GREEN, RED, YELLOW, is_of_sandbox, paint, print_json, size, wants_colour
from oxmgr.cli.parser import Args
from oxmgr.client.connection import NoDaemon, NotRunning, Refused, connect
from oxmgr.client.saved import kept_aside, read_saved
from oxmgr.model.capabilities import capability_mask
from oxmgr.model.messages import DONE, FAILED, DaemonView, GetDaemon, GetInstances, Instances, InstanceView
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
        reply = connection.request(GetInstances())
    except NotRunning as error:
        return [
            (OK, "daemon", f"{error}; the first command that needs one starts it"),
            (OK, "ladders", "how it makes, keeps, limits and ends processes here is told once a daemon runs"),
        ]
    except (NoDaemon, Refused) as error:
        return [(FAIL, "daemon", str(error))]
    assert isinstance(view, DaemonView)
    assert isinstance(reply, Instances)
    memory = size(resident(view.pid))
    detail = f"pid {view.pid}, version {view.version}, {memory}, {_instances(view.instances)}"
    aside = kept_aside(places)
    # What was kept aside is told with the saved files.
    others = [text for text in view.warnings if not any(map(text.startswith, aside))]
    return [
        (OK, "daemon", detail),
        *((WARN, "daemon", text) for text in others),
        *ladders(view),
        sandboxes(*_rights_of(view.pid)),
        *not_held(reply.instances),
    ]


def _instances(count: int) -> str:
    return f"{count} instance{'' if count == 1 else 's'}"


LADDERS = ("spawn", "trees", "kill", "limits", "sockets")


def ladders(view: DaemonView) -> list[Finding]:
    """On which step of each the daemon stands; each step works, the lower ones promise less."""
    known = [name for name in LADDERS if name in view.ladders]
    return [(OK, name, view.ladders[name]) for name in [*known, *(one for one in view.ladders if one not in LADDERS)]]


def not_held(views: list[InstanceView]) -> list[Finding]:
    """What of its limits and sandbox each app does not get here."""
    told = dict.fromkeys((view.app, text) for view in views for text in view.warnings)
    return [(WARN, "sandbox" if is_of_sandbox(text) else "limits", f"{app}: {text}") for app, text in told]


def _rights_of(pid: int) -> tuple[int, int]:
    """The effective user and capabilities (a mask) of a process; (-1, 0) when they cannot be read."""
    fields: dict[str, str] = {}
    try:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        pass
    return int(fields.get("Uid", "-1 -1").split()[1]), int(fields.get("CapEff", "0"), 16)


def sandboxes(uid: int, mask: int) -> Finding:
    """What a daemon with these rights can do of [processes.NAME.sandbox]."""
    if uid == 0:
        needed = {"CAP_SYS_ADMIN": "mounts and networks", "CAP_SETUID": "user", "CAP_SETGID": "group"}
        needed["CAP_SETPCAP"] = "capabilities"
        missing = [f"{name} ({what})" for name, what in needed.items() if not mask & capability_mask([name])]
        if not missing:
            return OK, "sandbox", "every key can be used: the daemon has root's rights"
        return WARN, "sandbox", f"the daemon is root's, but without {', '.join(missing)}: what needs these fails"
    return (
        WARN,
        "sandbox",
        "the daemon has not root's rights: umask and no_new_privileges can be used, deny_gpu is a request to libraries",
    )


def _state(places: Places) -> list[Finding]:
    views, wrong = read_saved(places, [])
    found = [(FAIL, "saved", text) for text in wrong] or [(OK, "saved", _instances(len(views)))]
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
    return found


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

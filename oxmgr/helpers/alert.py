"""Sends one alert: a POST to a webhook, or a command that is run with it. Without any rights, where it was given some.

The order comes from standard input (oxmgr.model.messages.SendAlert). What is to be read by the daemon's rights, the
last lines of an app's logs and what Python loads, is read first; then nothing that a stranger sends meets a right.
"""

import os
import signal
import sys
import time

import _prctl

from oxmgr.model.codec import Decoder, encode_json
from oxmgr.model.messages import SendAlert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

OK, AGAIN, NEVER = "ok", "again", "never"
LINES = 20
LINE_LIMIT = 2000
"""Characters of a line that are sent."""
SCAN_LIMIT = 1024 * 1024
"""Bytes of a log that are looked through for lines."""
POST_PATIENCE = 15
COMMAND_PATIENCE = 30
PASSING = (408, 425, 429)
"""Answers that say to come again (RFC 9110 15.5.9, RFC 8470, RFC 6585), besides those from 500 on."""
NOBODY = 65534
"""Its uid and gid where no user is called that; the kernel's overflowuid."""


def main() -> int:
    """The word behind the first two is the daemon's pid. Says on standard output how it went: `ok`, `again: WHY` or
    `never: WHY`, without a word of what may be a secret. Ends with the daemon, and with it what its command runs."""
    end_with_daemon(int(sys.argv[3]))
    try:
        said = _do(int(sys.argv[3]))
    except Exception as fault:
        said = f"{AGAIN}: a fault in its helper, {type(fault).__name__}: please report it"
    os.write(1, f"{said}\n".encode(errors="replace"))
    return 0


def _do(daemon: int) -> str:
    data = b""
    while part := os.read(0, 1 << 20):
        data += part
    order: SendAlert = Decoder(SendAlert).decode(data)
    body = fill_in(order)
    send = prepare_post(order, body) if order.webhook else prepare_command(order, body)
    try:
        become_nobody()
    except OSError as error:
        return f"{NEVER}: its helper cannot give up root's rights: {error.strerror}"
    # The kernel forgets it with the rights (prctl(2)).
    end_with_daemon(daemon)
    return send()


def end_with_daemon(daemon: int) -> None:
    _prctl.prctl(_prctl.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != daemon:
        sys.exit(1)


def _on_end(number: int, frame: object) -> "NoReturn":
    end_children()
    os._exit(1)


def become_nobody() -> None:
    """Of root's rights none is left. Not without new privileges: sendmail(1) is setgid on many hosts."""
    if os.getuid() == 0 or os.geteuid() == 0:
        import pwd

        try:
            entry = pwd.getpwnam("nobody")
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            uid = gid = NOBODY
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        # Others may be nobody too, and are not to look into who has the secrets (proc(5), ptrace(2)).
        _prctl.prctl(_prctl.PR_SET_DUMPABLE, 0)


# --- the message ---


def fill_in(order: SendAlert) -> bytes:
    """What it lacks, and the JSON of it."""
    alert = order.alert
    alert.host = os.uname().nodename
    alert.text = f"{alert.text} ({alert.host})"
    alert.time = rfc3339(order.at)
    alert.stdout, alert.stderr = last_lines(order.logs, int(order.at * 1e9))
    return encode_json(alert)


def rfc3339(at: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03}Z"


def last_lines(logs: list[str], until_ns: int) -> tuple[list[str], list[str]]:
    """Of stdout and of stderr, as far as they had come by then; of a file that holds both and does not say which is
    which, all as stdout."""
    found: dict[str, list[str]] = {"out": [], "err": []}
    if len(set(logs)) == 1:
        found = _last_of(logs[0], {"out": "out", "err": "err", "": "out"}, until_ns)
    else:
        for path, kind in zip(logs, ("out", "err"), strict=False):
            found[kind] = _last_of(path, {kind: kind, "": kind}, until_ns)[kind]
    return found["out"], found["err"]


def _last_of(path: str, kinds: dict[str, str], until_ns: int) -> dict[str, list[str]]:
    """`kinds` says where lines of a kind go."""
    from oxmgr.client.logchain import Chain, Folders
    from oxmgr.client.logfile import Source

    pieces: dict[str, list[bytes]] = {"out": [], "err": []}
    if path.startswith("/dev/"):
        return {"out": [], "err": []}
    scanned = 0
    for run in Chain(path, Source(""), Folders()).backward():
        scanned += len(run.data)
        kind = kinds.get(run.kind)
        if kind is not None and not (run.known and run.time_ns > until_ns):
            # What has no newline goes on in the piece that was found before.
            pieces[kind].append(run.shown)
        if scanned > SCAN_LIMIT or all(_lines_in(pieces[kind]) > LINES for kind in kinds.values()):
            break
    return {kind: _as_lines(b"".join(reversed(some))) for kind, some in pieces.items()}


def _lines_in(pieces: list[bytes]) -> int:
    return sum(piece.count(b"\n") for piece in pieces)


def _as_lines(data: bytes) -> list[str]:
    lines = data.removesuffix(b"\n").split(b"\n")[-LINES:] if data else []
    texts = [line[: 4 * LINE_LIMIT].decode(errors="replace") for line in lines]
    return [text if len(text) <= LINE_LIMIT else f"{text[:LINE_LIMIT]}…" for text in texts]


# --- a webhook ---


class _Late(BaseException):
    """Nothing that is between the alarm and us takes it for a failure of its own."""


def _on_alarm(number: int, frame: object) -> "NoReturn":
    raise _Late


def prepare_post(order: SendAlert, body: bytes) -> "Callable[[], str]":
    """A function that does it, all that it needs being loaded."""
    import encodings.idna  # noqa: F401
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """What is sent is not for whoever the first one names, and a redirected POST would become a GET."""

        def redirect_request(self, *_: object) -> None:
            return None

    url, headers = without_password(order.webhook, order.headers)
    headers = {"User-Agent": f"oxmgr/{order.alert.version}", **headers, "Content-Type": "application/json"}
    opener = urllib.request.build_opener(NoRedirect, urllib.request.HTTPSHandler(context=ssl.create_default_context()))

    def post() -> str:
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, POST_PATIENCE)
        try:
            # What it answers besides is nobody's concern, however long it is.
            opener.open(urllib.request.Request(url, body, headers, method="POST"), timeout=POST_PATIENCE).close()
            return OK
        except urllib.error.HTTPError as error:
            error.close()
            verdict = AGAIN if error.code >= 500 or error.code in PASSING else NEVER
            hint = ", to lead elsewhere: write where" if 300 <= error.code < 400 else ""
            return f"{verdict}: it answers {error.code}{hint}"
        except (_Late, TimeoutError):
            return f"{AGAIN}: no answer within {POST_PATIENCE} s"
        except urllib.error.URLError as error:
            return _why_not(error.reason)
        except http.client.HTTPException as error:
            return f"{AGAIN}: its answer is no HTTP: {type(error).__name__}"
        except OSError as error:
            return _why_not(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return post


def _why_not(reason: object) -> str:
    import ssl

    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"{NEVER}: its certificate is not to be trusted: {reason.verify_message}"
    if isinstance(reason, TimeoutError):
        return f"{AGAIN}: no answer within {POST_PATIENCE} s"
    if isinstance(reason, OSError):
        return f"{AGAIN}: {reason.strerror or type(reason).__name__}"
    return f"{AGAIN}: it cannot be reached"


def without_password(url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """What stands before an @ becomes the header that it means (RFC 7617)."""
    from base64 import b64encode
    from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

    parts = urlsplit(url)
    who, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, headers
    name, _, password = who.partition(":")
    basic = b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode()
    return urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {basic}", **headers}


# --- a command ---


def prepare_command(order: SendAlert, body: bytes) -> "Callable[[], str]":
    """A function that does it, all that it needs being loaded."""
    import subprocess

    alert = order.alert
    told = {
        "OXMGR_ALERT": alert.kind,
        "OXMGR_APP": alert.app,
        "OXMGR_INSTANCE": alert.instance,
        "OXMGR_REASON": alert.reason,
        "OXMGR_TEXT": alert.text,
        "OXMGR_SEQ": str(alert.seq),
    }
    try:
        os.chdir(order.working_dir)
    except OSError as error:
        why = f"{NEVER}: {order.working_dir}: {error.strerror}"
        return lambda: why

    def run() -> str:
        # What it starts and leaves behind comes to us, and ends with us, who get this when the daemon dies.
        signal.signal(signal.SIGTERM, _on_end)
        _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
        message = os.memfd_create("alert")
        os.write(message, body)
        os.lseek(message, 0, os.SEEK_SET)
        try:
            child = subprocess.Popen(
                order.command,
                stdin=message,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **told},
                # Of our session, by which the daemon finds what we leave, should we be killed.
                process_group=0,
            )
        except OSError as error:
            return f"{NEVER}: {order.command[0]}: {error.strerror}"
        try:
            code = child.wait(COMMAND_PATIENCE)
        except subprocess.TimeoutExpired:
            return f"{AGAIN}: it does not end within {COMMAND_PATIENCE} s"
        finally:
            end_children()
        if code < 0:
            return f"{AGAIN}: it was killed by signal {-code}"
        return f"{AGAIN}: it ended with exit code {code}" if code else OK

    return run


def end_children() -> None:
    """All that are below us: what one of them leaves comes to us when it ends."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            pids = [int(pid) for pid in file.read().split()]
        for pid in pids:
            # Ours, and not reaped: the number cannot be another's.
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return

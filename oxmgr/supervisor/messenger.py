"""Sends alerts: by helpers, a try each, a few at a time, so that nobody who does not answer keeps anything waiting.

What could not be sent is tried again, later and later. What waits is bounded, and what is dropped is counted and told.
"""

import os
import time

from oxmgr.model.codec import UNREADABLE, Decoder, encode
from oxmgr.model.messages import Letter, SendAlert
from oxmgr.supervisor import descendants
from oxmgr.supervisor.guard import memory_file
from oxmgr.supervisor.helper import end_helper, start_helper
from oxmgr.supervisor.loop import READ
from oxmgr.supervisor.shortage import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.supervisor.health import Health
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.spare import Spare
    from oxmgr.supervisor.trees import Trees

HELPER = "alert"
HELPERS = 2
WAITING = 256
WAITING_EACH = 8
"""For one receiver."""
RETRIES = (1.0, 5.0, 25.0, 125.0)
"""Seconds after a try until the next."""
PATIENCE = 45.0
"""Seconds for a helper, whose own patience is less (oxmgr.helpers.alert)."""
SAID_LIMIT = 1000
LEAF = ":alert"
"""What the names of its cgroups begin with, and of no instance's."""
HANDED_ON = (
    *("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY"),
)
"""Of the daemon's own environment. urllib does not take HTTP_PROXY from where a request could set it either."""


class _Letter:
    """A message to one receiver."""

    __slots__ = ("app", "due", "order", "receiver", "tries", "what")

    def __init__(self, app: str, order: SendAlert, tries: int = 0) -> None:
        self.app = app
        self.order = order
        self.tries = tries
        self.receiver = (order.webhook, *order.command)
        self.what = f"the webhook at {_host(order.webhook)}" if order.webhook else "the command of its alerts"
        self.due = 0.0


class Messenger:
    """`tell` is called with an app and why a message about it was given up. Of one receiver no two letters are under
    way at a time, so that they come in order and one that hangs takes one helper. `spare` has them for the next daemon:
    what was under way when this one was killed comes twice rather than never."""

    def __init__(
        self, loop: "Loop", trees: "Trees", health: "Health", spare: "Spare", tell: "Callable[[str, str], None]"
    ) -> None:
        self._loop = loop
        self._trees = trees
        self._health = health
        self._tell = tell
        self._waiting: list[_Letter] = []
        self._sending: list[_Sending] = []
        self._timer: Timer | None = None
        self._dropped: dict[str, int] = {}
        self._spare = spare
        self._serial = 0
        for path in trees.cgroups.folders():
            if path.rpartition("/")[2].startswith(LEAF):
                # An earlier daemon's, of which a command is left.
                trees.cgroups.kill(path)
                trees.tidy(path)
        left = spare.claim()
        if left is not None:
            self._waiting = _unpack(left)
            self._wake(0.0)

    def send(self, app: str, order: "SendAlert") -> None:
        letter = _Letter(app, order)
        same = sum(one.receiver == letter.receiver for one in self._waiting)
        if len(self._waiting) >= WAITING or same >= WAITING_EACH:
            # Told when there is room again, and not for each.
            self._dropped[app] = self._dropped.get(app, 0) + 1
            return
        self._waiting.append(letter)
        # Not at once: whoever tells of an event has a step of the instance under way.
        self._wake(0.0)

    def _wake(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.at(when, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        now = time.monotonic()
        busy = {one.letter.receiver for one in self._sending}
        later: list[_Letter] = []
        for letter in self._waiting:
            if letter.due <= now and letter.receiver not in busy and len(self._sending) < HELPERS:
                self._start(letter)
            else:
                later.append(letter)
            # What was sent to somebody before is to come there before.
            busy.add(letter.receiver)
        self._waiting = later
        ahead = [letter.due for letter in later if letter.due > now]
        if ahead:
            self._wake(min(ahead))
        self._keep()

    def _keep(self) -> None:
        letters = [*(one.letter for one in self._sending), *self._waiting]
        if letters:
            self._spare.put(encode([Letter(one.app, one.order, one.tries) for one in letters]))
        else:
            self._spare.drop()

    def _start(self, letter: _Letter) -> None:
        letter.tries += 1
        try:
            self._serial += 1
            self._sending.append(_Sending(self._loop, self._trees, letter, self._serial, self._on_end))
        except OSError as error:
            said = f"again: its helper cannot be started: {reason(error)}"
            self._loop.at(0.0, lambda: self._on_result(letter, said))

    def _on_end(self, sending: "_Sending", said: str) -> None:
        self._sending.remove(sending)
        self._on_result(sending.letter, said)

    def _on_result(self, letter: _Letter, said: str) -> None:
        verdict, _, why = said.partition(": ")
        if verdict == "ok":
            self.forget(letter.app)
        elif verdict == "again" and letter.tries <= len(RETRIES):
            letter.due = time.monotonic() + RETRIES[letter.tries - 1]
            # In its old place: what came after it waits.
            self._waiting.insert(0, letter)
            self._go_on()
            return
        else:
            times = "" if letter.tries == 1 else f", tried {letter.tries} times"
            self._health.trouble(
                _trouble(letter.app), f"{letter.app}: {letter.what} got no alert: {why or said}{times}"
            )
            self._tell(letter.app, f"{letter.what} got no alert of {letter.order.alert.kind}: {why or said}{times}")
        dropped, self._dropped = self._dropped, {}
        for app, count in dropped.items():
            self._tell(app, f"{count} alerts were dropped, for too many were waiting to be sent")
        self._go_on()

    def forget(self, app: str) -> None:
        """What was wrong with its alerts is not any more."""
        self._health.trouble(_trouble(app), "")

    def take_back(self) -> None:
        """What is under way ends, to be begun anew: another daemon is to be executed in our place."""
        for sending in self._sending:
            sending.let_go()
        self._waiting[:0] = [sending.letter for sending in self._sending]
        self._sending.clear()
        self._keep()
        self._wake(time.monotonic())

    def end(self) -> list[str]:
        """The daemon ends, and no helper outlives it; whose alerts were not sent."""
        left = [one.letter.app for one in self._sending] + [letter.app for letter in self._waiting]
        self._waiting.clear()
        self._spare.drop()
        for sending in self._sending:
            sending.let_go()
        self._sending.clear()
        return left


class _Sending:
    """One try. `done` is called with what its helper says of it, and never with an empty text. Nothing of it outlives
    it: it has a cgroup of its own; without cgroups, what its command has started is below the helper, or of its
    session when that has been killed."""

    def __init__(
        self, loop: "Loop", trees: "Trees", letter: _Letter, serial: int, done: "Callable[[_Sending, str], None]"
    ) -> None:
        self.letter = letter
        self._loop = loop
        self._trees = trees
        self._done = done
        self._said = b""
        environ = os.fsencode("".join(f"{key}={os.environ[key]}\0" for key in HANDED_ON if key in os.environ))
        self._reading, said = os.pipe2(os.O_CLOEXEC)
        self._folder = ""
        fds = [said]
        try:
            # In memory, since anybody may read a command line, and a pipe takes no more than somebody reads.
            fds.insert(0, memory_file(HELPER, encode(letter.order)))
            fds.append(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
            self._folder, cgroup = trees.cgroups.make_leaf(f"{LEAF}{serial}")
            fds += [cgroup] if cgroup >= 0 else []
            self._pid, self._pidfd = start_helper(HELPER, [str(os.getpid())], fds[:3], environ=environ, cgroup=cgroup)
        except OSError:
            os.close(self._reading)
            trees.tidy(self._folder)
            raise
        finally:
            for fd in fds:
                os.close(fd)
        loop.add(self._reading, READ, self._on_said)
        self._timer: Timer = loop.at(time.monotonic() + PATIENCE, lambda: self._end("again: its helper does not end"))

    def _on_said(self, _: int) -> None:
        data = os.read(self._reading, 4096)
        self._said += data
        if not data or len(self._said) > SAID_LIMIT:
            said = self._said[:SAID_LIMIT].decode(errors="replace").strip()
            self._end(said or "again: its helper ended without a word")

    def _end(self, said: str) -> None:
        self.let_go()
        self._done(self, said)

    def let_go(self) -> None:
        self._timer.cancel()
        self._loop.remove(self._reading)
        os.close(self._reading)
        if self._folder:
            self._trees.cgroups.kill(self._folder)
            self._trees.tidy(self._folder)
        else:
            descendants.kill_apart(self._pid, self._pidfd)
        end_helper(self._pidfd)


def _unpack(data: bytes) -> list[_Letter]:
    try:
        return [_Letter(one.app, one.order, one.tries) for one in Decoder(list[Letter]).decode(data)]
    except UNREADABLE:
        return []  # an earlier version's


def _trouble(app: str) -> str:
    return f"the alerts of {app}"


def _host(url: str) -> str:
    """The part of it that is no secret."""
    rest = url.partition("://")[2]
    for end in "/?#":
        rest = rest.partition(end)[0]
    return rest.rpartition("@")[2]

"""How a daemon makes way for the next one on purpose: executed in its place, so that what it has started stays its
children; or by becoming the guard that it has lost, which starts the next one."""

import os
import time
from _signal import SIGKILL, pidfd_send_signal

from oxmgr.model.codec import DecodeError, Decoder
from oxmgr.model.messages import Journaled, Saved
from oxmgr.model.records import Newer, read_records
from oxmgr.supervisor import guard as guards
from oxmgr.supervisor import native
from oxmgr.supervisor.health import refusal
from oxmgr.supervisor.helper import end_helper, start_beside
from oxmgr.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.model.places import Places
    from oxmgr.supervisor.desired import Desired
    from oxmgr.supervisor.guard import Guard
    from oxmgr.supervisor.launcher import Launcher
    from oxmgr.supervisor.logfile import Log
    from oxmgr.supervisor.loop import Loop, Timer

PATIENCE = 15.0
"""Seconds for the other one to look at what is there, and for what is under way here to be done."""
AGAIN = 0.005
PROGRAM_WORDS = 6
"""Of a daemon's command line; options follow (oxmgr.client.launch)."""
GUARD = "oxmgr-guard"
LASTING = ("group", "first")
"""The options that each daemon has which follows us."""


class Handover:
    """`locks` are those of the run folder and of the state folder (-1: none), `given` the limit on open files that we
    were given, as a triple for a start, `options` what we were started with."""

    def __init__(
        self,
        loop: "Loop",
        desired: "Desired",
        launcher: "Launcher",
        guard: "Guard",
        log: "Log",
        locks: list[int],
        given: list[int],
        options: dict[str, str],
    ) -> None:
        import sys

        self.program = sys.orig_argv[:PROGRAM_WORDS]
        self._loop = loop
        self._desired = desired
        self._launcher = launcher
        self._guard = guard
        self._log = log
        self._locks = locks
        self._given = given
        self._options = [f"{key}={options[key]}" for key in LASTING if key in options]
        self._first = [int(options["first"])] if "first" in options else []
        self._going = False
        self.leaving: Callable[[], object] = lambda: None
        """Called just before we are executed as another: nothing of ours runs on that it knows nothing of."""
        self.control = -1
        """The socket that listens."""

    @property
    def guard_pid(self) -> int:
        """0 without one."""
        return self._guard.pid if self._guard.fd >= 0 else 0

    # --- another daemon ---

    def replace(self, argv: list[str], answer: "Callable[[str], object]", hang_up: "Callable[[], object]") -> None:
        """Be replaced by the daemon that these words start. `answer` is called with "" just before, or with why not:
        then everything is as it was; so it is when `hang_up` is called, for it cannot be executed after all."""
        if self._going:
            answer("it is being replaced already")
            return

        def checked(said: str) -> None:
            if said != "ok":
                self._going = False
                answer(f"the other one cannot go on with what is here: {said}")
            else:
                self._when_quiet(lambda: self._execute(argv, answer, hang_up), answer)

        self._going = True
        self._ask([*argv, "check=1", *self._unwritten()], checked)

    def _unwritten(self) -> list[str]:
        """Where it finds what the next daemon has from the guard instead of from the disk."""
        spares = ((kind, self._guard.copies.get(f"state/{kind}", -1)) for kind in ("desired", "journal"))
        return [f"{kind}=/proc/{os.getpid()}/fd/{fd}" for kind, fd in spares if fd >= 0]

    def _ask(self, words: list[str], done: "Callable[[str], object]") -> None:
        try:
            _Question(self._loop, words, done)
        except OSError as error:
            done(error.strerror or str(error))

    def _execute(self, argv: list[str], answer: "Callable[[str], object]", hang_up: "Callable[[], object]") -> None:
        if self._guard.fd < 0 and not self._desired.saved:
            self._going = False
            answer("what is desired cannot be written, and there is no guard to keep it")
            return
        answer("")
        named = dict(zip(("lock", "state_lock"), self._locks, strict=True))
        named |= {"control": self.control, "guard": self._guard.fd}
        named = {name: fd for name, fd in named.items() if fd >= 0}
        passed = [*named.values(), *self._first]
        words = [*argv, *self._options, *(f"{name}={fd}" for name, fd in named.items()), f"files={self._given[1]}"]
        self._log(f"replaced by {argv[0]} {argv[3]}")
        for fd in passed:
            os.set_inheritable(fd, True)
        self.leaving()
        try:
            os.execv(argv[0], words)
        except OSError as error:
            self._going = False
            for fd in passed:
                os.set_inheritable(fd, False)
            self._log(f"cannot be replaced: {argv[0]}: {error.strerror}")
            hang_up()

    def _when_quiet(self, go: "Callable[[], object]", cannot: "Callable[[str], object]", since: float = 0.0) -> None:
        """Once nothing is under way that would end with us: a start, what is being saved, what the guard is told."""
        now = time.monotonic()
        since = since or now
        if self._desired.idle and not self._launcher.in_flight and self._guard.is_told:
            go()
        elif now - since < PATIENCE:
            self._loop.at(now + AGAIN, lambda: self._when_quiet(go, cannot, since))
        else:
            self._going = False
            cannot("a start, the disk or the guard takes its time: try again")

    # --- another guard ---

    def guard_words(self) -> list[str]:
        """How a guard is started that starts what we are."""
        package = os.path.dirname(self.program[3])
        return [f"{package}/{GUARD}", "-", "-", *self.program, f"guard={guards.FD}", *self._options]

    def renew_guard(self) -> None:
        """Where the guard is not what it would be today, by its program or by how it starts us, it is replaced; unless
        the other one would not understand what it is left."""
        words = self.guard_words()
        if self._guard.fd < 0 or _is_guard(self._guard.pid, words):
            return

        def checked(said: str) -> None:
            if said == str(self._guard.version):
                self._log("the guard is replaced")
                self._guard.replace(words)
            else:
                self._log(
                    f"the guard, pid {self._guard.pid}, stays as it is, of version {self._guard.version}: another one, "
                    f"{words[0]}, says {said!r} where it was asked for its own; once all is stopped, that is started"
                )

        self._ask([words[0], "check"], checked)

    def end_guard(self) -> None:
        """What it is told last is on its way when this returns: that we end on purpose. One that cannot be told would
        start everything again, and is killed, if it is not process 1."""
        if not self._guard.flush() and self._guard.pid > 1:
            self._kill_guard()

    def become_guard(self) -> None:
        """We have lost it. Whoever is the parent of all that runs has to be one: so we execute its program, and it
        starts a daemon that goes on."""
        self._going = True
        if os.getppid() == self._guard.pid > 1:
            # It lives, and cannot be heard any more: two of them would not know of each other's end.
            self._kill_guard()
        self._when_quiet(self._execute_guard, self._stay_alone)

    def _kill_guard(self) -> None:
        try:
            pidfd = os.pidfd_open(self._guard.pid)
        except OSError:
            return
        # Held now: still our parent, it is still the guard.
        if os.getppid() == self._guard.pid:
            self._log(f"the guard, pid {self._guard.pid}, is killed")
            try:
                pidfd_send_signal(pidfd, SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        os.close(pidfd)

    def _execute_guard(self) -> None:
        words, kept = self.guard_words(), [*self._guard.copies.values(), *self._first]
        try:
            with open("/proc/self/oom_score_adj", "rb") as file:
                score = file.read()
            words[1] = str(guards.memory_file(GUARD, guards.state(self._guard.copies, self._given, score)))
            for fd in (*kept, int(words[1])):
                os.set_inheritable(fd, True)
            self._log("becoming the guard")
            self.leaving()
            os.execv(words[0], words)
        except OSError as error:
            for fd in kept:
                os.set_inheritable(fd, False)
            self._stay_alone(f"{error.filename or words[0]}: {error.strerror}")

    def _stay_alone(self, why: str) -> None:
        self._going = False
        self._log(f"there is no guard: nobody starts this daemon again when it dies: {why}")


def _is_guard(pid: int, words: list[str]) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            found = os.fsdecode(file.read()).split("\0")[:-1]
        return found[3:] == words[3:] and os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(words[0]))
    except OSError:
        return False


class _Question:
    """Runs a program; `done` is called with the last line that it prints, or with why there is none."""

    def __init__(self, loop: "Loop", words: list[str], done: "Callable[[str], object]") -> None:
        self._loop = loop
        self._done = done
        self._said = b""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._reading, said = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(null)
            raise
        argv = os.fsencode("".join(f"{word}\0" for word in words))
        environ = b"".join(b"%s=%s\0" % item for item in os.environb.items())
        self._pidfd = -1
        self._timer: Timer | None = None
        try:
            _, self._pidfd = start_beside(argv, environ, [null, said, said])
        except OSError as error:
            os.close(self._reading)
            done(f"{words[0]}: {error.strerror}")
            return
        finally:
            os.close(said)
            os.close(null)
        loop.add(self._reading, READ, self._on_said)
        self._timer = loop.at(time.monotonic() + PATIENCE, lambda: self._end("it does not answer"))

    def _on_said(self, _: int) -> None:
        data = os.read(self._reading, 4096)
        self._said += data
        if not data or len(self._said) > 64 * 1024:
            lines = self._said.decode(errors="replace").strip().splitlines()
            self._end(lines[-1] if lines else "it ends without a word")

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove(self._reading)
        os.close(self._reading)
        end_helper(self._pidfd)
        self._done(why)


def say_check(places: "Places", options: dict[str, str]) -> int:
    """For who is about to be replaced by us."""
    why = check(options.get("desired", places.desired), options.get("journal", places.journal))
    print(why or "ok", flush=True)
    return 1 if why else 0


def check(desired: str, journal: str) -> str:
    """Why we could not go on with the state that is there, or "": it is a later version's, or not to be understood."""
    for kind, path, decoder in (("desired", desired, Decoder(Saved)), ("journal", journal, Decoder(Journaled))):
        try:
            payloads = read_records(kind, native.read_whole(path))[0]
            for payload in payloads:
                decoder.decode(payload)
        except FileNotFoundError:
            continue
        except Newer as error:
            return str(refusal(path, error))
        except DecodeError as error:
            return f"{path}: {error}"
        except OSError as error:
            return f"{path}: {error.strerror}"
    return ""

"""The life of one instance: a table of (status, event) → what becomes of it.

`step` is the only door. Each cell is a small function of (state, event, spec, now, roll) that returns the next
state and the effects to carry out, in order. Times are seconds of the monotonic clock, `roll` is in [0, 1).

Whoever drives it carries out the effects: GATE (is there a dependency to wait for? answer Hold or Go), SPAWN
(answer Spawned or SpawnFailed), SIGNAL (the stop signal, to whom `stop_mode` says), KILL (the tree, at once),
and Note (tell whoever listens); and sends Tick when `deadline` has come, Exited when the main process has ended,
Emptied when after that the rest of its tree has gone too. Spawned and SpawnFailed may come later: until then it is
`starting`, or `stopping` when it is not wanted any more.

An app with a `schedule` is a job: it waits (`scheduled` is false) until Due has come, runs, and waits again. Whoever
drives it sends Planned when it is known for when.
"""

from oxmgr.lifecycle.backoff import BASE_MS, restart_delay
from oxmgr.lifecycle.events import (
    DECIDE,
    EVENTS,
    GATE,
    KILL,
    RUN,
    SIGNAL,
    SPAWN,
    START,
    Adopted,
    Changed,
    Due,
    Effect,
    Emptied,
    Event,
    Exceeded,
    Exited,
    Go,
    Hold,
    Note,
    Planned,
    Remains,
    Reset,
    Restart,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
    Tick,
)
from oxmgr.model import status as is_
from oxmgr.model.codec import replace
from oxmgr.model.signals import signal_name
from oxmgr.model.spec import ALWAYS, NEVER, Spec

KILL_AGAIN = 1.0
"""Seconds after which what a SIGKILL has not yet ended (a process inside the kernel) gets another."""

TOGETHER = 0.5
"""Seconds between what is signalled together, at most."""

Step = tuple[State, tuple[Effect, ...]]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Cell = Callable[[State, Any, Spec, float, float], Step]


def step(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    """What becomes of an instance."""
    cell: Cell = _TABLE[state.status, type(event)]
    return cell(state, event, spec, now, roll)


def describe_end(exit_code: int | None, signal: int | None) -> str:
    """How a main process ended, in words."""
    if signal is not None:
        return f"killed by {signal_name(signal)}"
    return "ended, its exit code is not known" if exit_code is None else f"exit code {exit_code}"


# --- cells ---


def _ignore(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    return state, ()


def _begin(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    fresh = replace(
        state, status=is_.WAITING, desired=True, deadline=None, then="", crashes=0, streak=0, pid=0, reason=""
    )
    run = not spec.schedule or (isinstance(event, Restart) and event.run) or state.then == RUN
    return replace(fresh, scheduled=run), (GATE,) if run else ()


def awaits_time(state: State, spec: Spec) -> bool:
    """Whether it is a job that waits for its next run."""
    return state.status == is_.WAITING and bool(spec.schedule) and not state.scheduled


def _planned(state: State, event: Planned, spec: Spec, now: float, roll: float) -> Step:
    if not awaits_time(state, spec) or state.reason == event.reason:
        return state, ()
    return replace(state, reason=event.reason), (Note("waiting", event.reason),)


def _due(state: State, event: Due, spec: Spec, now: float, roll: float) -> Step:
    """Of an app that waits, for its time or for something else."""
    if not spec.schedule or state.scheduled:
        return state, ()
    begun, effects = _begin(replace(state, then=RUN), event, spec, now, roll)
    return begun, (Note("scheduled", event.reason), *effects)


def _due_again(state: State, event: Due, spec: Spec, now: float, roll: float) -> Step:
    """While something of it runs, or is to be run again."""
    if not spec.schedule:
        if state.status != is_.RUNNING:
            return state, ()
        stopping, effects = _stopping(replace(state, restarts=state.restarts + 1), START, spec, now)
        return stopping, (Note("scheduled", event.reason), *effects)
    if state.status == is_.BACKOFF:
        return _due(replace(state, scheduled=False), event, spec, now, roll)
    return state, (Note("skipped", f"{event.reason}: its last run has not ended"),) if state.desired else ()


def _run_now(state: State, event: Restart, spec: Spec, now: float, roll: float) -> Step:
    return _begin(state, event, spec, now, roll) if event.run and awaits_time(state, spec) else (state, ())


def _changed(state: State, event: Changed, spec: Spec, now: float, roll: float) -> Step:
    """A job's next run will see what has changed."""
    if spec.schedule or not state.desired:
        return state, ()
    note = Note("watch", event.reason)
    if state.status in (is_.STARTING, is_.RUNNING):
        stopping, effects = _stopping(replace(state, restarts=state.restarts + 1), START, spec, now)
        return stopping, (note, *effects)
    begun, effects = _begin(state, event, spec, now, roll)
    return replace(begun, restarts=state.restarts + 1), (note, *effects)


def _hold(state: State, event: Hold, spec: Spec, now: float, roll: float) -> Step:
    if state.deadline is not None or state.reason == event.reason or awaits_time(state, spec):
        return state, ()
    return replace(state, reason=event.reason), (Note("waiting", event.reason),)


def _go(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    if state.deadline is not None or awaits_time(state, spec):
        return state, ()
    if spec.start_delay_ms:
        reason = f"start_delay_ms is {spec.start_delay_ms}"
        held = replace(state, deadline=now + spec.start_delay_ms / 1000.0, reason=reason)
        return held, (Note("waiting", reason),)
    return _spawn(state, event, spec, now, roll)


def _spawn(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, status=is_.STARTING, deadline=None, then="", reason=""), (SPAWN,)


def _respawn(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    return _spawn(replace(state, restarts=state.restarts + 1), event, spec, now, roll)


def _unwanted(state: State, event: Stop, spec: Spec, now: float, roll: float) -> Step:
    if (
        state.status in (is_.EXITED, is_.ERRORED)
        and event.keep
        and not (event.signalled and _was_told_to_end(state, spec, now))
    ):
        return state, ()
    desired = state.desired if event.keep else False
    down = replace(state, status=is_.STOPPED, desired=desired, deadline=None, then="", reason="")
    return down, () if state.status == is_.STOPPED else (Note("stopped"),)


def _was_told_to_end(state: State, spec: Spec, now: float) -> bool:
    """Whoever ends a whole service, or the machine, signals its apps and the daemon alike. An app that is done at that
    very moment, and would be restarted or run on for ever otherwise, was told to; it has not finished its work."""
    told = state.exit_code == 0 or state.signal == spec.stop_signal
    return state.status == is_.EXITED and spec.restart != NEVER and told and now - state.ended < TOGETHER


def _spawned(state: State, event: Spawned, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, status=is_.RUNNING, pid=event.pid, started=now, reason=""), (Note("started"),)


def _spawned_late(state: State, event: Spawned, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, pid=event.pid, started=now), (SIGNAL,)


def _adopt(state: State, event: Adopted, spec: Spec, now: float, roll: float) -> Step:
    alive = replace(state, status=is_.RUNNING, pid=event.pid, started=now - event.age, reason="")
    return alive, (Note("adopted"),)


def _spawn_failed(state: State, event: SpawnFailed, spec: Spec, now: float, roll: float) -> Step:
    state = replace(state, exit_code=None, signal=None, cause="")
    if spec.restart == NEVER or event.final:
        return _give_up(state, spec, event.reason)
    return _again(state, spec, now, roll, failed=True, reason=event.reason, at_least=BASE_MS / 1000.0)


def _remains(state: State, event: Remains, spec: Spec, now: float, roll: float) -> Step:
    reason = "what an earlier daemon left of it is being killed"
    then = START if state.desired else ""
    killing = replace(state, status=is_.STOPPING, pid=0, then=then, deadline=now + KILL_AGAIN, reason=reason)
    return killing, (Note("killed", reason), KILL)


def _exceeded(state: State, event: Exceeded, spec: Spec, now: float, roll: float) -> Step:
    stopping, effects = _stopping(replace(state, restarts=state.restarts + 1), START, spec, now)
    return stopping, (Note("limit", event.reason), *effects)


def _stop(state: State, event: Stop, spec: Spec, now: float, roll: float) -> Step:
    return _stopping(replace(state, desired=state.desired and event.keep), "", spec, now)


def _restart(state: State, event: Restart, spec: Spec, now: float, roll: float) -> Step:
    return _stopping(replace(state, desired=True), RUN if event.run else START, spec, now)


def _stopping(state: State, then: str, spec: Spec, now: float) -> Step:
    deadline = now + spec.stop_timeout_ms / 1000.0
    stopping = replace(state, status=is_.STOPPING, deadline=deadline, then=then, reason="")
    return stopping, (Note("stopping"), SIGNAL)


def _stop_after_all(state: State, event: Stop, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, desired=state.desired and event.keep, then=""), ()


def _start_after_stop(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    run = isinstance(event, Restart) and event.run
    return replace(state, desired=True, then=RUN if run else START), ()


def _kill(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    again = replace(state, deadline=now + KILL_AGAIN)
    if state.reason:
        return again, (KILL,)
    waited = now - ((state.deadline or now) - spec.stop_timeout_ms / 1000.0)
    reason = f"still there {waited:.1f} s after {signal_name(spec.stop_signal)}"
    return replace(again, reason=reason), (Note("killed", reason), KILL)


def _ended(state: State, event: Exited, spec: Spec, now: float, roll: float) -> Step:
    """By itself, that is: nobody had asked for it."""
    state, notes = _take_end(state, event, now)
    ended, effects = _ended_by_itself(state, event, spec, now, roll)
    return ended, (*notes, *effects)


def _take_end(state: State, event: Exited, now: float) -> Step:
    state = replace(
        state,
        pid=0,
        exit_code=event.exit_code,
        signal=event.signal,
        cause=event.cause,
        ended=now,
        oom_kills=state.oom_kills + event.oom_kills,
    )
    return state, (Note("oom", event.cause),) if event.oom_kills else ()


def _ended_by_itself(state: State, event: Exited, spec: Spec, now: float, roll: float) -> Step:
    if now - state.started >= spec.restart_window_secs:
        state = replace(state, crashes=0, streak=0)
    if event.empty:
        return _decide(state, spec, now, roll)
    reason = "its main process ended, the rest of its tree is being killed"
    rest = replace(state, status=is_.STOPPING, then=DECIDE, deadline=now + KILL_AGAIN, reason=reason)
    return rest, (Note("killed", reason), KILL)


def _stopped_main(state: State, event: Exited, spec: Spec, now: float, roll: float) -> Step:
    state, notes = _take_end(state, event, now)
    if not event.empty:
        return state, notes
    emptied, effects = _emptied(state, event, spec, now, roll)
    return emptied, (*notes, *effects)


def _emptied(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    if state.pid:
        return state, ()
    if state.then in (START, RUN):
        begun, effects = _begin(state, event, spec, now, roll)
        return begun, (Note("stopped"), *effects)
    if state.then == DECIDE:
        return _decide(state, spec, now, roll)
    return replace(state, status=is_.STOPPED, deadline=None, reason=""), (Note("stopped"),)


def _decide(state: State, spec: Spec, now: float, roll: float) -> Step:
    code, reason = state.exit_code, state.cause or describe_end(state.exit_code, state.signal)
    final = code in spec.stop_exit_codes
    if spec.schedule and (final or code == 0 or spec.restart == NEVER):
        return _until_next(state, Note("exited" if final or code == 0 else "crashed", reason))
    if final or spec.restart == NEVER or (code == 0 and spec.restart != ALWAYS):
        done = replace(state, status=is_.EXITED, deadline=None, then="", reason=reason)
        return done, (Note("exited", reason),)
    return _again(state, spec, now, roll, failed=code != 0, reason=reason)


def _again(
    state: State, spec: Spec, now: float, roll: float, *, failed: bool, reason: str, at_least: float = 0.0
) -> Step:
    """A restart, now or later, or no more of them."""
    crashes = state.crashes + 1 if failed else 0
    ended = Note("crashed" if failed else "exited", reason)
    state = replace(state, crashes=crashes, then="")
    if failed and spec.max_restarts and crashes >= spec.max_restarts:
        times = "once" if crashes == 1 else f"{crashes} times in a row"
        given_up, effects = _give_up(state, spec, f"failed {times}, max_restarts is {spec.max_restarts}: {reason}")
        return given_up, (ended, *effects)
    delay = max(restart_delay(spec, state.streak, roll), at_least)
    state = replace(state, streak=state.streak + 1, reason=reason)
    if delay <= 0.0:
        return replace(state, status=is_.STARTING, deadline=None, restarts=state.restarts + 1), (ended, SPAWN)
    waits = replace(state, status=is_.BACKOFF, deadline=now + delay)
    return waits, (ended, Note("backoff", f"restarts in {delay:.1f} s"))


def _until_next(state: State, *notes: Note) -> Step:
    """A job has been run."""
    return replace(state, status=is_.WAITING, deadline=None, then="", reason="", scheduled=False), notes


def _give_up(state: State, spec: Spec, reason: str) -> Step:
    if spec.schedule:
        return _until_next(state, Note("errored", reason))
    return replace(state, status=is_.ERRORED, deadline=None, then="", reason=reason), (Note("errored", reason),)


def _reset(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, restarts=0, crashes=0, streak=0, oom_kills=0), (Note("reset"),)


# --- the table: what a row does not name is ignored in that status ---

_DOWN: "dict[type, Cell]" = {
    Start: _begin,
    Stop: _unwanted,
    Restart: _begin,
    Adopted: _adopt,
    Remains: _remains,
    Reset: _reset,
}
_ENDED: "dict[type, Cell]" = _DOWN | {Changed: _changed}

_ROWS: "dict[str, dict[type, Cell]]" = {
    is_.STOPPED: _DOWN,
    is_.EXITED: _ENDED,
    is_.ERRORED: _ENDED,
    is_.WAITING: {
        Hold: _hold,
        Go: _go,
        Stop: _unwanted,
        Restart: _run_now,
        Planned: _planned,
        Due: _due,
        Tick: _spawn,
        Reset: _reset,
    },
    is_.STARTING: {
        Stop: _stop,
        Restart: _restart,
        Due: _due_again,
        Changed: _changed,
        Spawned: _spawned,
        SpawnFailed: _spawn_failed,
        Exited: _ended,
        Reset: _reset,
    },
    is_.RUNNING: {
        Stop: _stop,
        Restart: _restart,
        Due: _due_again,
        Changed: _changed,
        Exited: _ended,
        Exceeded: _exceeded,
        Reset: _reset,
    },
    is_.BACKOFF: {
        Start: _begin,
        Stop: _unwanted,
        Restart: _begin,
        Due: _due_again,
        Changed: _changed,
        Tick: _respawn,
        Reset: _reset,
    },
    is_.STOPPING: {
        Start: _start_after_stop,
        Stop: _stop_after_all,
        Restart: _start_after_stop,
        Due: _due_again,
        Spawned: _spawned_late,
        SpawnFailed: _emptied,
        Exited: _stopped_main,
        Emptied: _emptied,
        Tick: _kill,
        Reset: _reset,
    },
}

_TABLE: "dict[tuple[str, type], Cell]" = {
    (status, event): _ROWS[status].get(event, _ignore) for status in is_.ALL for event in EVENTS
}

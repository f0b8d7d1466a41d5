"""The life of one instance: a table of (status, event) → what becomes of it.

`step` is the only door. Each cell is a small function of (state, event, spec, now, roll) that returns the next
state and the effects to carry out, in order. Times are seconds of the monotonic clock, `roll` is in [0, 1).

Whoever drives it carries out the effects: GATE (is there a dependency to wait for? answer Hold or Go), SPAWN
(answer Spawned or SpawnFailed), SIGNAL (the stop signal, to whom `stop_mode` says), KILL (the tree, at once),
and Note (tell whoever listens); and sends Tick when `deadline` has come, Exited when the main process has ended,
Emptied when after that the rest of its tree has gone too. Spawned and SpawnFailed may come later: until then it is
`starting`, or `stopping` when it is not wanted any more. What has to say that it is ready stays `starting` with its
process until Ready comes, or the deadline.

An app with a `schedule` is a job: it waits (`scheduled` is false) until Due has come, runs, and waits again. Whoever
drives it sends Planned when it is known for when.
"""

from oxmgr.lifecycle.backoff import BASE_MS, restart_delay
from oxmgr.lifecycle.events import (
    DECIDE,
    END_REST,
    EVENTS,
    FAIL,
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
    Extended,
    Failing,
    Go,
    Hold,
    Note,
    Planned,
    Ready,
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
from oxmgr.model.spec import ALWAYS, NEVER, STARTED, Spec

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
    if spec.ready == STARTED:
        return replace(state, status=is_.RUNNING, pid=event.pid, started=now, reason=""), (Note("started"),)
    return _awaited(state, spec, event.pid, now, now), (Note("started"),)


def _awaited(state: State, spec: Spec, pid: int, started: float, now: float) -> State:
    """It runs, and is to say that it is ready."""
    deadline = started + spec.ready_timeout_ms / 1000.0 if spec.ready_timeout_ms else None
    return replace(state, status=is_.STARTING, pid=pid, started=started, deadline=deadline, reason="")


def _ready(state: State, event: Ready, spec: Spec, now: float, roll: float) -> Step:
    if not state.pid:
        return state, ()
    return replace(state, status=is_.RUNNING, deadline=None, reason=""), (Note("ready"),)


def _not_ready(state: State, event: Tick, spec: Spec, now: float, roll: float) -> Step:
    if not state.pid or state.deadline is None:
        return state, ()
    waited = round(now - state.started, 1)
    why = f": {event.missing}" if event.missing else ""
    return _failing(state, Failing(f"not ready {waited:g} s after its start{why}"), spec, now, roll)


def _unhealthy(state: State, event: Failing, spec: Spec, now: float, roll: float) -> Step:
    failing, effects = _failing(state, event, spec, now, roll)
    return failing, (Note("unhealthy", event.reason), *effects)


def _failing(state: State, event: Failing, spec: Spec, now: float, roll: float) -> Step:
    if not state.pid:
        return state, ()
    if now - state.started >= spec.restart_window_secs:
        state = replace(state, crashes=0, streak=0)
    stopping, effects = _stopping(state, FAIL, spec, now)
    return replace(stopping, cause=event.reason), effects


def _extend(state: State, event: Extended, spec: Spec, now: float, roll: float) -> Step:
    """Only ever later; and what is being killed is."""
    if not state.pid or state.deadline is None or state.reason:
        return state, ()
    return replace(state, deadline=max(state.deadline, now + event.seconds)), ()


def _spawned_late(state: State, event: Spawned, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, pid=event.pid, started=now), (SIGNAL,)


def _adopt(state: State, event: Adopted, spec: Spec, now: float, roll: float) -> Step:
    started = now - event.age
    if not event.ready:
        return _awaited(state, spec, event.pid, started, now), (Note("adopted"),)
    alive = replace(state, status=is_.RUNNING, pid=event.pid, started=started, reason="")
    return alive, (Note("adopted"),)


def _spawn_failed(state: State, event: SpawnFailed, spec: Spec, now: float, roll: float) -> Step:
    state = replace(state, exit_code=None, signal=None, cause="")
    if spec.restart == NEVER or event.final:
        return _give_up(state, spec, event.reason)
    return _again(state, spec, now, roll, failed=True, reason=event.reason, at_least=BASE_MS / 1000.0)


def _remains(state: State, event: Remains, spec: Spec, now: float, roll: float) -> Step:
    reason = "what an earlier daemon left of it is being killed"
    then = START if state.desired else ""
    return _killing(replace(state, pid=0, then=then), reason, now)


def _exceeded(state: State, event: Exceeded, spec: Spec, now: float, roll: float) -> Step:
    stopping, effects = _stopping(replace(state, restarts=state.restarts + 1), START, spec, now)
    return stopping, (Note("limit", event.reason), *effects)


def _stop(state: State, event: Stop, spec: Spec, now: float, roll: float) -> Step:
    return _stopping(replace(state, desired=state.desired and event.keep), "", spec, now)


def _restart(state: State, event: Restart, spec: Spec, now: float, roll: float) -> Step:
    return _stopping(replace(state, desired=True), RUN if event.run else START, spec, now)


def _stopping(state: State, then: str, spec: Spec, now: float) -> Step:
    deadline = now + spec.stop_timeout_ms / 1000.0
    stopping = replace(state, status=is_.STOPPING, deadline=deadline, then=then, killed=False, reason="", stopping=now)
    return stopping, (Note("stopping"), SIGNAL)


def _stop_after_all(state: State, event: Stop, spec: Spec, now: float, roll: float) -> Step:
    return replace(state, desired=state.desired and event.keep, then=""), ()


def _start_after_stop(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    run = isinstance(event, Restart) and event.run
    return replace(state, desired=True, then=RUN if run else START), ()


def _kill(state: State, event: Event, spec: Spec, now: float, roll: float) -> Step:
    if state.killed:
        return replace(state, deadline=now + KILL_AGAIN), (KILL,)
    waited = now - (state.stopping or (state.deadline or now) - spec.stop_timeout_ms / 1000.0)
    return _killing(state, f"still there {waited:.1f} s after {signal_name(spec.stop_signal)}", now)


def _killing(state: State, reason: str, now: float) -> Step:
    killing = replace(state, status=is_.STOPPING, deadline=now + KILL_AGAIN, killed=True, reason=reason)
    return killing, (Note("killed", reason), KILL)


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
        cause=event.cause or (state.cause if state.then == FAIL else ""),
        ended=now,
        oom_kills=state.oom_kills + event.oom_kills,
    )
    return state, (Note("oom", event.cause),) if event.oom_kills else ()


def _ended_by_itself(state: State, event: Exited, spec: Spec, now: float, roll: float) -> Step:
    if now - state.started >= spec.restart_window_secs:
        state = replace(state, crashes=0, streak=0)
    if event.empty:
        return _decide(state, spec, now, roll)
    state = replace(state, then=DECIDE)
    if not _is_final(state, spec):
        # It is to run again, and not to wait for what it has left.
        return _killing(state, "its main process ended, the rest of its tree is being killed", now)
    rest, _ = _stopping(state, DECIDE, spec, now)
    reason = "its main process ended, the rest of its tree is being stopped"
    return replace(rest, reason=reason), (Note("stopping", reason), END_REST)


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
    if state.then == FAIL and spec.restart == NEVER:
        return _give_up(state, spec, state.cause)
    if state.then == FAIL:
        return _again(state, spec, now, roll, failed=True, reason=state.cause)
    return replace(state, status=is_.STOPPED, deadline=None, reason=""), (Note("stopped"),)


def _decide(state: State, spec: Spec, now: float, roll: float) -> Step:
    reason = state.cause or describe_end(state.exit_code, state.signal)
    code = state.exit_code
    well = code in spec.stop_exit_codes or code == 0
    if spec.schedule and (well or spec.restart == NEVER):
        return _until_next(state, Note("exited" if well else "crashed", reason))
    if _is_done(state, spec):
        done = replace(state, status=is_.EXITED, deadline=None, then="", reason=reason)
        return done, (Note("exited", reason),)
    return _again(state, spec, now, roll, failed=state.exit_code != 0, reason=reason)


def _is_done(state: State, spec: Spec) -> bool:
    code = state.exit_code
    return code in spec.stop_exit_codes or spec.restart == NEVER or (code == 0 and spec.restart != ALWAYS)


def _is_too_much(crashes: int, spec: Spec) -> bool:
    return bool(spec.max_restarts) and crashes >= spec.max_restarts


def _is_final(state: State, spec: Spec) -> bool:
    """Whether no restart follows its end."""
    return _is_done(state, spec) or (state.exit_code != 0 and _is_too_much(state.crashes + 1, spec))


def _again(
    state: State, spec: Spec, now: float, roll: float, *, failed: bool, reason: str, at_least: float = 0.0
) -> Step:
    """A restart, now or later, or no more of them."""
    crashes = state.crashes + 1 if failed else 0
    ended = Note("crashed" if failed else "exited", reason)
    state = replace(state, crashes=crashes, then="")
    if failed and _is_too_much(crashes, spec):
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
        Ready: _ready,
        Failing: _failing,
        Extended: _extend,
        Tick: _not_ready,
        Reset: _reset,
    },
    is_.RUNNING: {
        Stop: _stop,
        Restart: _restart,
        Exited: _ended,
        Exceeded: _exceeded,
        Due: _due_again,
        Changed: _changed,
        Failing: _unhealthy,
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
        Extended: _extend,
        Tick: _kill,
        Reset: _reset,
    },
}

_TABLE: "dict[tuple[str, type], Cell]" = {
    (status, event): _ROWS[status].get(event, _ignore) for status in is_.ALL for event in EVENTS
}

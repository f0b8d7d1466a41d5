"""The life of an instance, with a fake clock and a fake kernel: any history of commands, exits and time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from oxmgr.lifecycle import events as m
from oxmgr.lifecycle.backoff import restart_delay
from oxmgr.lifecycle.machine import _TABLE, awaits_time, step
from oxmgr.model import status as is_
from oxmgr.model.spec import ALWAYS, NEVER, ON_FAILURE, Spec


def make_spec(**keys: object) -> Spec:
    return Spec("app", "app", ["app"], "/", **keys)  # type: ignore[arg-type]


def run(
    spec: Spec, *events: m.Event, state: m.State | None = None, now: float = 100.0
) -> tuple[m.State, list[m.Effect]]:
    """Feed events at one moment; the last state and all effects."""
    state = state or m.State()
    effects: list[m.Effect] = []
    for event in events:
        state, more = step(state, event, spec, now, 0.0)
        effects += more
    return state, effects


def notes(effects: list[m.Effect]) -> list[str]:
    return [effect.kind for effect in effects if isinstance(effect, m.Note)]


def test_the_table_is_total() -> None:
    assert set(_TABLE) == {(status, event) for status in is_.ALL for event in m.EVENTS}


def test_every_status_can_be_left() -> None:
    spec = make_spec()
    samples: list[m.Event] = [
        m.Start(),
        m.Go(),
        m.Stop(),
        m.Spawned(7),
        m.Exited(1, None),
        m.Emptied(),
        m.Tick(),
    ]
    for status in is_.ALL:
        state = m.State(status, deadline=None)
        assert any(step(state, event, spec, 0.0, 0.0)[0].status != status for event in samples), status


RUNNING = (m.Start(), m.Go(), m.Spawned(7))


def test_first_crash_restarts_at_once_and_the_next_waits() -> None:
    spec = make_spec()
    state, effects = run(spec, *RUNNING, m.Exited(None, 9))
    assert state.status == is_.STARTING and effects[-1] == m.SPAWN and state.restarts == 1
    state, effects = run(spec, m.Spawned(8), m.Exited(1, None), state=state)
    assert state.status == is_.BACKOFF and state.deadline == 100.1


def test_a_restart_delay_counts_for_the_first_crash_too() -> None:
    state, _ = run(make_spec(restart_delay_ms=100), *RUNNING, m.Exited(1, None))
    assert state.status == is_.BACKOFF and state.deadline == 100.1


def test_delays_double_up_to_the_maximum() -> None:
    spec = make_spec(restart_delay_max_ms=1000)
    assert [restart_delay(spec, streak, 0.0) for streak in range(7)] == [0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert restart_delay(spec, 3, 0.999) <= 0.4 * 1.1
    assert 0.9 <= restart_delay(spec, 60, 0.999) < 1.0
    assert restart_delay(make_spec(restart_delay_ms=5000, restart_delay_max_ms=2000), 3, 0.5) == 5.0


def test_a_maximum_of_zero_means_no_delay_ever() -> None:
    spec = make_spec(restart_delay_ms=500, restart_delay_max_ms=0)
    assert {restart_delay(spec, streak, 0.5) for streak in range(100)} == {0.0}


def test_a_good_run_sets_the_counters_back() -> None:
    spec = make_spec(restart_window_secs=60, max_restarts=3)
    state, _ = run(spec, *RUNNING, m.Exited(1, None), m.Spawned(8), m.Exited(1, None), m.Tick(), m.Spawned(9))
    assert state.crashes == 2
    state, _ = step(state, m.Exited(1, None), spec, 160.1, 0.0)
    assert (state.crashes, state.streak, state.status) == (1, 1, is_.STARTING)


def test_max_restarts_counts_crashes_in_a_row() -> None:
    spec = make_spec(max_restarts=2, restart_delay_max_ms=0)
    state, effects = run(spec, *RUNNING, m.Exited(1, None), m.Spawned(8), m.Exited(3, None))
    assert state.status == is_.ERRORED and state.desired
    assert "exit code 3" in state.reason and notes(effects)[-2:] == ["crashed", "errored"]


def test_a_clean_exit_breaks_a_row_of_crashes() -> None:
    spec = make_spec(max_restarts=2, restart_delay_max_ms=0, restart=ALWAYS)
    state, _ = run(spec, *RUNNING, m.Exited(1, None), m.Spawned(8), m.Exited(0, None), m.Spawned(9), m.Exited(1, None))
    assert state.status == is_.STARTING


def test_policies() -> None:
    cases = {
        (ALWAYS, 0): is_.STARTING,
        (ALWAYS, 1): is_.STARTING,
        (ON_FAILURE, 0): is_.EXITED,
        (ON_FAILURE, 1): is_.STARTING,
        (NEVER, 0): is_.EXITED,
        (NEVER, 1): is_.EXITED,
    }
    for (policy, code), wanted in cases.items():
        state, _ = run(make_spec(restart=policy), *RUNNING, m.Exited(code, None))
        assert state.status == wanted, (policy, code)
    for policy in (ALWAYS, ON_FAILURE, NEVER):
        state, _ = run(make_spec(restart=policy, stop_exit_codes=[42]), *RUNNING, m.Exited(42, None))
        assert state.status == is_.EXITED


def test_an_end_of_which_nothing_is_known_counts_as_a_failure() -> None:
    state, _ = run(make_spec(), *RUNNING, m.Exited(None, None))
    assert state.status == is_.STARTING and state.crashes == 1


def test_a_crash_with_left_overs_kills_them_before_it_starts_again() -> None:
    state, effects = run(make_spec(), *RUNNING, m.Exited(1, None, empty=False))
    assert state.status == is_.STOPPING and effects[-1] == m.KILL
    state, effects = run(make_spec(), m.Emptied(), state=state)
    assert state.status == is_.STARTING and effects[-1] == m.SPAWN


def test_a_stop_waits_for_the_whole_tree() -> None:
    state, effects = run(make_spec(), *RUNNING, m.Stop(), m.Exited(0, None, empty=False))
    assert state.status == is_.STOPPING and not state.pid
    assert effects[-1] == m.SIGNAL
    state, _ = run(make_spec(), m.Emptied(), state=state)
    assert state.status == is_.STOPPED and not state.desired


def test_a_stop_escalates_and_goes_on_escalating() -> None:
    spec = make_spec(stop_timeout_ms=500)
    state, _ = run(spec, *RUNNING, m.Stop())
    assert state.deadline == 100.5
    state, effects = run(spec, m.Tick(), state=state, now=100.5)
    assert notes(effects) == ["killed"] and effects[-1] == m.KILL and "0.5 s after SIGTERM" in state.reason
    state, effects = run(spec, m.Tick(), state=state, now=101.5)
    assert effects == [m.KILL] and state.deadline == 102.5


def test_a_daemon_that_ends_leaves_what_is_desired() -> None:
    for events in (RUNNING, (m.Start(), m.Hold("waits for db"))):
        state, _ = run(make_spec(), *events, m.Stop(keep=True))
        state, _ = run(make_spec(), m.Exited(0, None), state=state)
        assert (state.status, state.desired) == (is_.STOPPED, True)


def test_finished_and_given_up_stay_so_when_the_daemon_ends() -> None:
    state, _ = run(make_spec(restart=NEVER), *RUNNING, m.Exited(1, None), m.Stop(keep=True))
    assert state.status == is_.EXITED
    state, _ = run(make_spec(max_restarts=1), *RUNNING, m.Exited(1, None), m.Stop(keep=True))
    assert state.status == is_.ERRORED


def test_who_was_signalled_together_with_the_daemon_comes_back_with_the_next_one() -> None:
    spec = make_spec()
    ended, _ = run(spec, *RUNNING, m.Exited(0, None))
    for event, now, status in (
        (m.Stop(keep=True, signalled=True), 100.1, is_.STOPPED),
        (m.Stop(keep=True, signalled=True), 101.0, is_.EXITED),
        (m.Stop(keep=True), 100.1, is_.EXITED),
    ):
        state, _ = run(spec, event, state=ended, now=now)
        assert state.status == status and state.desired
    done, _ = run(make_spec(restart=NEVER), *RUNNING, m.Exited(0, None))
    state, _ = run(make_spec(restart=NEVER), m.Stop(keep=True, signalled=True), state=done, now=100.1)
    assert state.status == is_.EXITED, "a job that is run once"


def test_start_during_a_stop_starts_after_it_and_stop_takes_that_back() -> None:
    state, _ = run(make_spec(), *RUNNING, m.Stop(), m.Start())
    assert state.status == is_.STOPPING and state.desired
    again, effects = run(make_spec(), m.Exited(0, None), state=state)
    assert again.status == is_.WAITING and effects[-1] == m.GATE
    state, _ = run(make_spec(), m.Stop(), m.Exited(0, None), state=state)
    assert state.status == is_.STOPPED


def test_a_program_that_cannot_be_executed_is_tried_again_after_a_delay() -> None:
    state, _ = run(make_spec(restart_delay_max_ms=0), m.Start(), m.Go(), m.SpawnFailed("no such file"))
    assert state.status == is_.BACKOFF and state.deadline == 100.1 and state.reason == "no such file"
    state, _ = run(make_spec(restart=NEVER), m.Start(), m.Go(), m.SpawnFailed("no such file"))
    assert state.status == is_.ERRORED


def test_a_hurried_stop_tells_how_long_it_had_waited() -> None:
    spec = make_spec(stop_timeout_ms=10_000)
    state, _ = run(spec, *RUNNING, m.Stop())
    state, _ = run(spec, m.Tick(), state=state, now=100.3)
    assert "0.3 s after SIGTERM" in state.reason


def test_a_failure_that_is_final_is_not_tried_again() -> None:
    state, effects = run(make_spec(), m.Start(), m.Go(), m.SpawnFailed("cannot be", final=True))
    assert state.status == is_.ERRORED and state.reason == "cannot be" and notes(effects) == ["errored"]


def test_an_end_for_want_of_memory_is_told_and_counted() -> None:
    state, effects = run(make_spec(), *RUNNING, m.Exited(None, 9, oom_kills=3, cause="out of memory"))
    assert notes(effects)[-2:] == ["oom", "crashed"] and state.oom_kills == 3 and state.reason == "out of memory"
    state, _ = run(make_spec(), m.Spawned(8), m.Exited(None, 9), state=state)
    assert state.oom_kills == 3 and state.reason == "killed by SIGKILL", "the next end has a cause of its own"
    state, effects = run(make_spec(), *RUNNING, m.Stop(), m.Exited(None, 9, oom_kills=1, cause="out of memory"))
    assert "oom" in notes(effects) and state.status == is_.STOPPED
    state, _ = run(make_spec(), m.Reset(), state=state)
    assert state.oom_kills == 0


def test_who_is_above_a_soft_limit_is_stopped_in_order_and_started_again() -> None:
    state, effects = run(make_spec(restart=NEVER), *RUNNING, m.Exceeded("uses 60 MB"))
    assert state.status == is_.STOPPING and state.desired and state.restarts == 1
    assert notes(effects)[-2:] == ["limit", "stopping"] and effects[-1] == m.SIGNAL
    state, effects = run(make_spec(), m.Exited(0, None), state=state)
    assert state.status == is_.WAITING and effects[-1] == m.GATE and state.crashes == 0


def test_what_an_earlier_daemon_left_is_ended_before_anything_starts() -> None:
    for desired, then in ((True, is_.WAITING), (False, is_.STOPPED)):
        state, effects = run(make_spec(), m.Remains(), state=m.State(desired=desired))
        assert state.status == is_.STOPPING and effects[-1] == m.KILL
        state, _ = run(make_spec(), m.Emptied(), state=state)
        assert state.status == then


def test_what_is_left_after_an_end_for_good_is_asked_to_end_and_only_then_killed() -> None:
    spec = make_spec(restart=NEVER, stop_timeout_ms=500)
    state, effects = run(spec, *RUNNING, m.Exited(4, None, empty=False))
    assert state.status == is_.STOPPING and state.deadline == 100.5 and effects[-1] == m.END_REST
    ended, _ = run(spec, m.Emptied(), state=state)
    assert ended.status == is_.EXITED and ended.exit_code == 4
    state, effects = run(spec, m.Tick(), state=state, now=100.5)
    assert notes(effects) == ["killed"] and effects[-1] == m.KILL
    state, effects = run(spec, m.Tick(), state=state, now=101.5)
    assert effects == [m.KILL]
    ended, _ = run(spec, m.Emptied(), state=state)
    assert ended.status == is_.EXITED


def test_an_end_is_for_good_when_no_restart_follows() -> None:
    for keys, code, final in (
        ({"restart": ON_FAILURE}, 0, True),
        ({"restart": ON_FAILURE}, 1, False),
        ({"restart": ALWAYS}, 0, False),
        ({"restart": ALWAYS, "stop_exit_codes": [3]}, 3, True),
        ({"max_restarts": 1}, 1, True),
        ({"max_restarts": 2}, 1, False),
    ):
        state, effects = run(make_spec(**keys), *RUNNING, m.Exited(code, None, empty=False))
        assert effects[-1] == (m.END_REST if final else m.KILL)
        ended, _ = run(make_spec(**keys), m.Emptied(), state=state)
        assert (ended.status in is_.DOWN) == final


def test_a_start_that_takes_its_time_can_be_stopped_meanwhile() -> None:
    state, _ = run(make_spec(), m.Start(), m.Go(), m.Stop())
    assert state.status == is_.STOPPING
    done, _ = run(make_spec(), m.Emptied(), state=state)
    assert done.status == is_.STOPPED
    late, effects = run(make_spec(), m.Spawned(9), state=state)
    assert late.pid == 9 and effects[-1] == m.SIGNAL


def test_a_start_delay_counts_once() -> None:
    spec = make_spec(start_delay_ms=500)
    state, _ = run(spec, m.Start(), m.Go())
    assert state.status == is_.WAITING and state.deadline == 100.5
    state, _ = run(spec, m.Go(), m.Hold("x"), state=state)
    assert state.deadline == 100.5, "a second Go does not begin it anew, and a Hold comes too late"
    state, effects = run(spec, m.Tick(), m.Spawned(7), m.Exited(1, None), state=state)
    assert state.status == is_.STARTING and effects[-1] == m.SPAWN


ASKED = make_spec(ready="notify", ready_timeout_ms=5000)


def test_who_has_to_say_that_it_is_ready_runs_from_then_on() -> None:
    state, effects = run(ASKED, *RUNNING)
    assert (state.status, state.pid, state.deadline) == (is_.STARTING, 7, 105.0) and notes(effects) == ["started"]
    ready, effects = run(ASKED, m.Ready(), state=state, now=101.0)
    assert (ready.status, ready.deadline) == (is_.RUNNING, None) and notes(effects) == ["ready"]
    assert run(ASKED, m.Ready(), state=ready) == (ready, [])
    forever, _ = run(make_spec(ready="notify", ready_timeout_ms=0), *RUNNING)
    assert (forever.status, forever.deadline) == (is_.STARTING, None)


def test_who_is_not_ready_in_time_is_stopped_and_that_is_a_crash_whatever_its_exit() -> None:
    state, _ = run(ASKED, *RUNNING)
    stopping, effects = run(ASKED, m.Tick(), state=state, now=105.0)
    assert stopping.status == is_.STOPPING and effects[-1] == m.SIGNAL
    again, effects = run(ASKED, m.Exited(0, None), state=stopping, now=105.1)
    assert again.status == is_.STARTING and again.crashes == 1 and effects[-1] == m.SPAWN
    assert again.reason == "not ready 5 s after its start" and notes(effects) == ["crashed"]
    for keys, status in (({"restart": NEVER}, is_.ERRORED), ({"max_restarts": 1}, is_.ERRORED)):
        spec = make_spec(ready="notify", ready_timeout_ms=5000, **keys)
        given_up, _ = run(spec, m.Exited(0, None), state=stopping)
        assert given_up.status == status and "not ready" in given_up.reason


def test_who_ends_before_it_is_ready_has_crashed_or_finished_as_ever() -> None:
    state, _ = run(ASKED, *RUNNING, m.Exited(1, None))
    assert state.status == is_.STARTING and state.pid == 0 and state.crashes == 1
    state, _ = run(ASKED, *RUNNING, m.Exited(0, None))
    assert state.status == is_.EXITED


def test_who_asks_for_more_time_gets_it_to_get_ready_and_to_end() -> None:
    state, effects = run(ASKED, *RUNNING, m.Extended(60.0))
    assert (state.status, state.deadline, notes(effects)[-1]) == (is_.STARTING, 160.0, "started")
    assert run(ASKED, m.Extended(1.0), state=state)[0] == state, "only ever later"
    stopping, _ = run(make_spec(), *RUNNING, m.Stop(), m.Extended(60.0))
    assert (stopping.status, stopping.deadline) == (is_.STOPPING, 160.0)
    killed, _ = run(make_spec(), m.Tick(), m.Extended(60.0), state=stopping, now=160.0)
    assert killed.deadline == 161.0, "who is being killed gets no more"
    assert killed.reason == "still there 60.0 s after SIGTERM", "the true time, however often more was asked for"
    running, _ = run(make_spec(), *RUNNING, m.Extended(60.0))
    assert running.deadline is None


def test_who_is_unhealthy_is_restarted_like_after_a_crash() -> None:
    state, effects = run(make_spec(), *RUNNING, m.Failing("http://… says 500"))
    assert state.status == is_.STOPPING and notes(effects)[-2:] == ["unhealthy", "stopping"]
    state, _ = run(make_spec(), m.Exited(None, 15), state=state)
    assert state.status == is_.STARTING and state.crashes == 1 and state.reason == "http://… says 500"


def test_a_stop_while_it_is_ended_for_failing_is_a_stop() -> None:
    state, _ = run(make_spec(), *RUNNING, m.Failing("x"), m.Stop(), m.Exited(1, None))
    assert state.status == is_.STOPPED and not state.desired


def test_the_next_daemon_goes_on_waiting_for_who_was_not_ready() -> None:
    state, _ = run(ASKED, m.Adopted(7, 2.0, ready=False), state=m.State(desired=True))
    assert (state.status, state.pid, state.deadline) == (is_.STARTING, 7, 103.0)


# --- jobs ---

JOB = make_spec(schedule="@daily", restart=NEVER)


def test_a_job_waits_for_its_time_and_then_for_the_next_one() -> None:
    state, effects = run(JOB, m.Start(), m.Go(), m.Hold("waits for db"))
    assert state.status == is_.WAITING and not effects, "for its time, whatever else there is to wait for"
    state, effects = run(JOB, m.Planned("runs tomorrow"), m.Planned("runs tomorrow"), state=state)
    assert notes(effects) == ["waiting"] and state.reason == "runs tomorrow"
    state, effects = run(JOB, m.Due("it is time"), m.Go(), m.Spawned(7), m.Exited(0, None), state=state)
    assert notes(effects) == ["scheduled", "started", "exited"]
    assert state.status == is_.WAITING and state.desired and not state.scheduled and state.restarts == 0


def test_a_job_that_failed_waits_too_unless_it_is_to_be_tried_again() -> None:
    due = (m.Start(), m.Due("it is time"), m.Go(), m.Spawned(7), m.Exited(3, None))
    state, effects = run(JOB, *due)
    assert state.status == is_.WAITING and notes(effects)[-1] == "crashed" and state.exit_code == 3
    spec = make_spec(schedule="@daily", restart=ON_FAILURE, restart_delay_ms=100, max_restarts=2)
    state, effects = run(spec, *due)
    assert state.status == is_.BACKOFF
    again, _ = run(spec, m.Due("it is time again"), state=state)
    assert again.status == is_.WAITING and again.scheduled and again.crashes == 0
    state, effects = run(spec, m.Tick(), m.Spawned(8), m.Exited(3, None), state=state)
    assert state.status == is_.WAITING and notes(effects)[-1] == "errored"


def test_a_job_that_cannot_be_started_waits_for_the_next_time() -> None:
    state, effects = run(JOB, m.Start(), m.Due("it is time"), m.Go(), m.SpawnFailed("no such file"))
    assert state.status == is_.WAITING and notes(effects)[-1] == "errored" and not state.scheduled


def test_a_time_that_comes_while_the_last_run_runs_is_skipped() -> None:
    running, _ = run(JOB, m.Start(), m.Due("1"), m.Go(), m.Spawned(7))
    state, effects = run(JOB, m.Due("2"), state=running)
    assert state == running and notes(effects) == ["skipped"]


def test_a_job_is_held_by_what_it_depends_on_once_its_time_has_come() -> None:
    state, effects = run(JOB, m.Start(), m.Due("1"), m.Hold("waits for db"))
    assert state.reason == "waits for db" and m.GATE in effects
    state, effects = run(JOB, m.Due("2"), state=state)
    assert state.reason == "waits for db" and not effects
    state, _ = run(JOB, m.Go(), state=state)
    assert state.status == is_.STARTING


def test_a_restart_that_says_so_runs_a_job_now() -> None:
    waiting, _ = run(JOB, m.Start())
    assert run(JOB, m.Restart(), state=waiting)[0] == waiting
    running, _ = run(JOB, m.Restart(run=True), m.Go(), m.Spawned(7), state=waiting)
    assert running.status == is_.RUNNING
    state, _ = run(JOB, m.Restart(run=True), m.Exited(None, 15), state=running)
    assert state.status == is_.WAITING and state.scheduled
    state, _ = run(JOB, m.Restart(), m.Exited(None, 15), state=running)
    assert state.status == is_.WAITING and not state.scheduled


def test_a_stopped_app_stays_stopped_whatever_time_it_is_and_whatever_changes() -> None:
    for spec in (JOB, make_spec(restart_schedule="@daily", watch=["/srv"])):
        state, _ = run(spec, m.Start(), m.Stop())
        state, _ = run(spec, m.Emptied(), state=state)
        assert state.status == is_.STOPPED
        assert run(spec, m.Due("it is time"), m.Changed("main.py"), state=state) == (state, [])


# --- services that are restarted ---


def test_a_service_is_restarted_at_its_times_only_if_it_runs() -> None:
    spec = make_spec(restart_schedule="@daily", restart_delay_ms=1000)
    state, effects = run(spec, *RUNNING, m.Due("it is time"))
    assert state.status == is_.STOPPING and state.restarts == 1 and effects[-1] == m.SIGNAL
    assert notes(effects)[-2:] == ["scheduled", "stopping"]
    state, effects = run(spec, m.Exited(None, 15), state=state)
    assert state.status == is_.WAITING and effects[-1] == m.GATE and state.crashes == 0
    for events in ((*RUNNING, m.Exited(1, None)), (*RUNNING, m.Exited(0, None)), (m.Start(), m.Hold("waits for db"))):
        state, _ = run(spec, *events)
        assert run(spec, m.Due("it is time"), state=state) == (state, [])


def test_a_change_restarts_what_runs_and_starts_what_has_ended_by_itself() -> None:
    spec = make_spec(watch=["/srv"], restart_delay_ms=60_000, max_restarts=2)
    state, effects = run(spec, *RUNNING, m.Changed("main.py"))
    assert state.status == is_.STOPPING and notes(effects)[-2:] == ["watch", "stopping"]
    backoff, _ = run(spec, *RUNNING, m.Exited(1, None))
    exited, _ = run(spec, *RUNNING, m.Exited(0, None))
    errored, _ = run(spec, m.Tick(), m.Spawned(8), m.Exited(1, None), state=backoff)
    assert [one.status for one in (backoff, exited, errored)] == [is_.BACKOFF, is_.EXITED, is_.ERRORED]
    for before in (backoff, exited, errored):
        state, effects = run(spec, m.Changed("main.py"), state=before)
        assert state.status == is_.WAITING and effects[-1] == m.GATE and state.crashes == 0


specs = st.builds(
    make_spec,
    restart=st.sampled_from([ALWAYS, ON_FAILURE, NEVER]),
    restart_delay_ms=st.sampled_from([None, 0, 50, 100_000]),
    restart_delay_max_ms=st.sampled_from([0, 100, 30_000]),
    max_restarts=st.integers(0, 4),
    start_delay_ms=st.sampled_from([0, 200]),
    stop_timeout_ms=st.sampled_from([0, 100, 10_000]),
    stop_exit_codes=st.sampled_from([[], [3]]),
    ready=st.sampled_from(["started", "notify"]),
    ready_timeout_ms=st.sampled_from([0, 500]),
    schedule=st.sampled_from(["", "", "@daily"]),
)


class Life(RuleBasedStateMachine):
    """The driver that the daemon has, with a kernel that the test decides for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.state = m.State()
        self.main = 0
        self.rest = False
        self.wanted = False
        self.blocked = False
        self.spawn_works = True
        self.spawn_takes_time = False
        self.preparing = False
        self.ends_for_good = False
        self.pids = 0

    @initialize(spec=specs)
    def begin(self, spec: Spec) -> None:
        self.spec = spec

    def send(self, event: m.Event) -> None:
        following: m.Event | None = event
        for _ in range(20):
            if following is None:
                return
            self.state, effects = step(self.state, following, self.spec, self.now, 0.5)
            following = None
            for effect in effects:
                following = self.carry_out(effect) or following
        raise AssertionError("one event led to an endless chain of others")

    def carry_out(self, effect: m.Effect) -> m.Event | None:
        if effect == m.SPAWN:
            assert not self.main and not self.rest, "started while something of it lived"
            assert self.wanted, "started although nobody wanted it to run"
            assert not self.ends_for_good, "nobody had to wait for its rest"
            if not self.spawn_works:
                return m.SpawnFailed("no such file")
            if self.spawn_takes_time:
                self.preparing = True
                return None
            self.pids += 1
            self.main = self.pids
            return m.Spawned(self.main)
        if effect == m.SIGNAL and not self.main:
            return m.Emptied()
        if effect == m.END_REST:
            assert self.rest and not self.main
            self.ends_for_good = True
        if effect == m.GATE:
            return m.Hold("waits for db") if self.blocked else m.Go()
        if effect == m.KILL and not self.main:
            if not self.rest:
                return m.Emptied()
            self.rest = False
        return None

    def exit(self, code: int | None, signal: int | None, rest: bool) -> None:
        self.main = 0
        self.rest = rest
        self.send(m.Exited(code, signal, empty=not rest))

    @rule()
    def start(self) -> None:
        self.wanted, self.ends_for_good = True, False
        self.send(m.Start())

    @rule(run=st.booleans())
    def restart(self, run: bool) -> None:
        self.wanted, self.ends_for_good = True, False
        self.send(m.Restart(run))
        if run and self.spec.schedule and self.state.status == is_.WAITING and self.spawn_works:
            assert self.state.scheduled, "it was to be run now"

    @rule()
    def time_of_its_schedule_comes(self) -> None:
        before = self.state.status
        if before not in (is_.RUNNING, is_.STOPPING):
            self.ends_for_good = False
        self.send(m.Due("it is time"))
        assert self.state.status in (before, is_.RUNNING) or before not in is_.DOWN, "a stopped app stays stopped"

    @rule()
    def time_of_its_schedule_is_known(self) -> None:
        self.send(m.Planned("runs tomorrow"))

    @precondition(lambda self: self.wanted or not self.state.desired)
    @rule()
    def something_that_is_watched_changes(self) -> None:
        """Not when a daemon has ended, which watches nothing any more."""
        before = self.state
        if before.status in is_.DOWN:
            self.ends_for_good = False
        self.send(m.Changed("main.py"))
        assert before.status != is_.STOPPED or self.state == before

    @rule(keep=st.booleans())
    def stop(self, keep: bool) -> None:
        self.wanted = False
        self.send(m.Stop(keep))

    @rule()
    def reset(self) -> None:
        self.send(m.Reset())

    @precondition(lambda self: self.main)
    @rule(code=st.sampled_from([0, 1, 3]), rest=st.booleans())
    def main_exits(self, code: int, rest: bool) -> None:
        self.exit(code, None, rest)

    @precondition(lambda self: self.main)
    @rule(signal=st.sampled_from([9, 11, 15]), rest=st.booleans())
    def main_is_killed(self, signal: int, rest: bool) -> None:
        self.exit(None, signal, rest)

    @precondition(lambda self: self.main)
    @rule(rest=st.booleans())
    def memory_runs_out(self, rest: bool) -> None:
        self.main, self.rest = 0, rest
        self.send(m.Exited(None, 9, empty=not rest, oom_kills=1, cause="out of memory"))

    @rule()
    def soft_limit_is_exceeded(self) -> None:
        self.send(m.Exceeded("uses too much"))

    @precondition(lambda self: self.main)
    @rule()
    def says_that_it_is_ready(self) -> None:
        self.send(m.Ready())

    @rule(seconds=st.floats(0, 1000))
    def asks_for_more_time(self, seconds: float) -> None:
        self.send(m.Extended(seconds))

    @rule()
    def does_not_do_its_work(self) -> None:
        self.send(m.Failing("says 500"))

    @precondition(lambda self: not self.main and self.state.status == is_.STOPPED)
    @rule()
    def left_overs_are_found(self) -> None:
        """By the next daemon, which starts what is desired."""
        self.wanted = self.state.desired
        self.rest = True
        self.send(m.Remains())

    @precondition(lambda self: self.rest)
    @rule()
    def rest_goes(self) -> None:
        self.rest = False
        self.send(m.Emptied())

    @rule(blocked=st.booleans())
    def dependency_changes(self, blocked: bool) -> None:
        self.blocked = blocked
        if self.state.status == is_.WAITING and not awaits_time(self.state, self.spec):
            self.send(m.Hold("waits for db") if blocked else m.Go())

    @rule(takes_time=st.booleans())
    def starts_take_time(self, takes_time: bool) -> None:
        self.spawn_takes_time = takes_time

    @precondition(lambda self: self.preparing)
    @rule(works=st.booleans())
    def start_is_prepared(self, works: bool) -> None:
        """The launcher starts it if that is what is still waited for, else it only keeps what it has prepared."""
        self.preparing = False
        if self.state.status != is_.STARTING or self.main:
            return
        if works:
            assert not self.main and not self.rest
            self.pids += 1
            self.main = self.pids
            self.send(m.Spawned(self.main))
        else:
            self.send(m.SpawnFailed("no network"))

    @rule(works=st.booleans())
    def program_comes_or_goes(self, works: bool) -> None:
        self.spawn_works = works

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, 59.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(2000):
            deadline = self.state.deadline
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.send(m.Tick())
            if self.state.status == is_.STOPPING and self.main:
                self.exit(None, 9, rest=False)
        self.now = end

    @invariant()
    def a_status_means_what_it_says(self) -> None:
        status = self.state.status
        if self.spec.ready == "started":
            assert (status == is_.RUNNING) == (bool(self.main) and status != is_.STOPPING)
        assert bool(self.main) == bool(self.state.pid)
        assert self.main or status != is_.RUNNING
        assert self.state.pid == self.main
        if status in (is_.BACKOFF, is_.STOPPING):
            assert self.state.deadline is not None, "nothing would ever end this"
        elif status != is_.WAITING:
            timed = status == is_.STARTING and self.main and self.spec.ready_timeout_ms
            assert (self.state.deadline is not None) == bool(timed)
        if status == is_.STARTING:
            assert self.preparing or (self.main and self.spec.ready != "started"), "nothing would ever end this"
        if status in is_.DOWN:
            assert not self.main and not self.rest and self.state.then == ""
        if status == is_.WAITING and self.state.deadline is None:
            assert self.blocked or awaits_time(self.state, self.spec)
        if self.spec.schedule:
            assert status not in (is_.EXITED, is_.ERRORED), "a job waits for its next time, whatever became of the last"

    def teardown(self) -> None:
        """Every stop and every backoff ends."""
        if not hasattr(self, "spec"):
            return
        self.spawn_works = True
        self.blocked = False
        self.spawn_takes_time = False
        if self.preparing:
            self.start_is_prepared(works=True)
        if self.state.status == is_.BACKOFF:
            self.now = self.state.deadline or self.now
            self.send(m.Tick())
            assert self.state.status == (is_.RUNNING if self.spec.ready == "started" else is_.STARTING)
        self.stop(keep=False)
        for _ in range(3):
            if self.state.status == is_.STOPPING:
                self.now = self.state.deadline or self.now
                self.send(m.Tick())
                if self.main:
                    self.exit(None, 9, rest=False)
                elif self.state.status == is_.STOPPING and not self.rest:
                    self.send(m.Emptied())
        assert self.state.status in (is_.STOPPED, is_.EXITED, is_.ERRORED)
        assert not self.state.desired


Life.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase

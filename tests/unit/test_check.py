"""What a spec may hold: the daemon's own check, and that it is in step with what a file may say."""

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.config import keys
from oxmgr.config.sandbox import ID_LIMIT
from oxmgr.model import check
from oxmgr.model.capabilities import capability_names
from oxmgr.model.check import spec_error
from oxmgr.model.signals import signal_number
from oxmgr.model.spec import STDINS, Alerts, HealthCheck, Hooks, Limits, Logs, Sandbox, Spec


def spec(name: str = "app", command: str = "x", argv: Any = ("x",), working_dir: str = "/", **rest: Any) -> Spec:
    return Spec(name, command, list(argv), working_dir, **rest)


RICH = spec(
    "api-1.x",
    "node server.js",
    ["node", "server.js", ""],
    "/srv/app",
    instances=10_000,
    env={"NODE_ENV": "production", "EMPTY": ""},
    restart="always",
    stop_exit_codes=[0, 255],
    restart_delay_ms=0,
    start_delay_ms=check.YEAR_MS,
    depends_on={"db": "started", "migrate": "exited"},
    stop_signal=64,
    stop_mode="tree",
    log_file="/dev/null",
    restart_schedule="0 0 4 * * mon",
    timezone="America/Argentina/Buenos_Aires",
    catch_up=True,
    watch=["/srv/app", "/etc/app.toml"],
    watch_extensions=["js"],
    watch_ignore=["tmp*", "a/b"],
    listen=["web=[::]:3000", "unix:/run/api.sock", "udp:127.0.0.1:53"],
    ready="fd:6",
    watchdog_secs=0.1,
    limits=Limits(memory_mb=1, cpus="0-3,8", nice=-20, oom_score_adj=1000, open_files=16),
    sandbox=Sandbox(
        user="web",
        uid=0,
        gid=ID_LIMIT,
        groups=[0, 5],
        home="",
        umask=0,
        capabilities=["CAP_KILL"],
        read_only_paths=["/etc"],
    ),
)


def test_what_a_file_can_ask_for_is_taken() -> None:
    assert spec_error(spec()) is None
    assert spec_error(RICH) is None
    assert spec_error(spec(sandbox=Sandbox(capabilities=capability_names()))) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (spec("../../esc"), "the name has a slash"),
        (spec("x" * 999), "the name has 999 characters"),
        (spec(argv=[]), "it needs a command"),
        (spec(argv=[""]), "it needs a command"),
        (spec(argv=["x", "a\0b"]), "the command holds a NUL"),
        (spec("app", "a\0b"), "the command holds a NUL"),
        (spec(argv=["x", "y" * 200_000]), "a word of the command has more than 131071 characters"),
        (spec(argv=["x"] * 70_000), "a list of it has more than 65536 entries"),
        (spec(argv=["x" * 100_000] * 50), "its texts have 5000001 characters"),
        (spec(instances=0), "instances: expected 1 to 10000 instances, got 0"),
        (spec(instances=10_001), "expected 1 to 10000 instances, got 10001"),
        (spec(start_delay_ms=10**18), "start_delay_ms: expected 0 to 31536000000, got 1000000000000000000"),
        (spec(start_delay_ms=-1), "start_delay_ms"),
        (spec(stop_timeout_ms=2**63), "stop_timeout_ms"),
        (spec(restart_delay_ms=-5), "restart_delay_ms"),
        (spec(restart_delay_max_ms=2**40), "restart_delay_max_ms"),
        (spec(restart_window_secs=math.nan), "restart_window_secs: expected 0 to 31536000, got nan"),
        (spec(restart_window_secs=math.inf), "restart_window_secs"),
        (spec(max_restarts=-1), "max_restarts"),
        (spec(stop_signal=99), "stop_signal: expected 1 to 64, got 99"),
        (spec(stop_signal=0), "stop_signal"),
        (spec(stop_mode="all"), "stop_mode: expected 'group', 'main', 'tree', got 'all'"),
        (spec(stdin="tty"), "stdin: expected 'fifo', 'inherit', 'terminal', got 'tty'"),
        (spec(restart="maybe"), "restart: expected"),
        (spec(stop_exit_codes=[0, 256]), "stop_exit_codes: expected 0 to 255, got 256"),
        (spec(depends_on={"db": "up"}), "depends_on.db: expected 'started', 'ready', 'exited', got 'up'"),
        (spec(ready="soon"), "ready: expected 'started', 'notify'"),
        (spec(ready="fd:2"), "ready: fd: expected 3 to 1023, got '2'"),
        (spec(ready="tcp:0"), "ready: expected a port from 1 to 65535"),
        (spec(ready="http:///x"), "ready: expected http://host:port/path"),
        (spec(ready="log:"), "ready: expected 'started'"),
        (spec(ready="command:a\0b"), "ready: expected 'started'"),
        (spec(listen=["foo:80"]), "listen: 'foo' is no IP address"),
        (spec(listen=["3000"]), "listen: expected each address once and as '[::]:3000', got '3000'"),
        (spec(listen=["a=[::1]:80", "b=[::1]:80"]), "listen: expected each address once"),
        (spec(listen=[f"[::1]:{port}" for port in range(1, 66)]), "listen: 65 sockets, 64 are the most"),
        (spec(listen=["unix:/" + "x" * 107]), "listen: a socket's path has at most 107 bytes, this one has 108"),
        (spec(listen=["unix:/x\0y"]), "listen: expected an absolute path behind unix:"),
        (spec(listen=["unix:/x"], reuse_port=True), "reuse_port: unix:/x cannot be shared so"),
        (spec(listen=["[::1]:80", "[::1]:81"], ready="fd:4"), "ready: fd:4 is a socket of listen"),
        (spec(socket_mode=0o1000), "socket_mode: expected 0 to 511, got 512"),
        (spec(socket_uid=-2), "socket_uid"),
        (spec(backlog=0), "backlog: expected 1 to 65535, got 0"),
        (spec(watchdog_secs=0), "watchdog_secs: expected 0.1 to 86400, got 0"),
        (spec(hooks=Hooks(pre_stop="a\0b")), "hooks.pre_stop: a command cannot hold a NUL"),
        (spec(hooks=Hooks(timeout_secs=0)), "hooks.timeout_secs: expected 0.1 to 86400, got 0"),
        (spec(health_check=HealthCheck(tcp="x")), "health_check: expected a port"),
        (spec(health_check=HealthCheck(tcp="80", command="true")), "health_check: endpoint, tcp and command: one of them"),
        (spec(health_check=HealthCheck(tcp="80", interval_secs=0)), "health_check.interval_secs: expected 0.1 to 86400"),
        (spec(depends_on={"../x": "started"}), "depends_on: the name '../x' has a slash"),
        (spec(namespace="a/b"), "the namespace 'a/b' has a slash"),
        (spec(working_dir="here"), "working_dir: expected an absolute path, got 'here'"),
        (spec(working_dir=""), "working_dir"),
        (spec(working_dir="/a\0b"), "working_dir: a path cannot hold a NUL"),
        (spec(log_file="/var/log/a\0b"), "log_file: a path cannot hold a NUL"),
        (spec(log_file=""), "log_file: expected an absolute path"),
        (spec(error_log_file="x.log"), "error_log_file: expected an absolute path"),
        (spec(log_file="/x.log~next"), "log_file: a log's name cannot have a ~"),
        (spec(error_log_file="/x.idx"), "error_log_file: a log's name cannot end in .idx"),
        (spec(log_file="/" + "x" * 5000), "log_file: a path of 5001 characters"),
        (spec(env={"": "x"}), "env: '' cannot be a variable's name"),
        (spec(env={"A=B": "x"}), "env: 'A=B' cannot be a variable's name"),
        (spec(env={"A\0": "x"}), "cannot be a variable's name"),
        (spec(env={"OK": "y", "A": "x\0y"}), "env.A: a variable cannot hold a NUL"),
        (spec(env={"A": "x" * 131_072}), "env.A: has more than"),
        (spec(alerts=Alerts(on=("x" * 99,))), "alerts.on: expected 'crash'"),
        (spec(alerts=Alerts(webhook="gopher://s3cr3t")), "alerts.webhook: expected a URL that begins with http://"),
        (spec(alerts=Alerts(webhook="http://h", headers={"": "s3cr3t"})), "alerts.headers: '' cannot be a header's name"),
        (spec(alerts=Alerts(webhook="http://h", headers={"A": "s3cr3t\n"})), "alerts.headers: A holds what is not printable"),
        (spec(alerts=Alerts(webhook="http://h", headers={"A": "s3cr3t" * 999})), "alerts.headers: A has 5994 characters"),
        (spec(alerts=Alerts(webhook="http://h", headers={str(n): "s3cr3t" for n in range(99)})), "alerts.headers: 99 headers"),
        (spec(alerts=Alerts(command=[""])), "alerts.command: it needs a command"),
        (spec(alerts=Alerts(command=["x", "s3cr3t\0"])), "alerts.command: the command holds a NUL"),
        (spec(alerts=Alerts(command=["x"], working_dir="x")), "alerts.working_dir: expected an absolute path"),
        (spec(alerts=Alerts(command=["x" * 100_000] * 50)), "its texts have 5000002 characters"),
        (spec(schedule="* * * * *\0"), "schedule: expected at most 256 plain characters"),
        (spec(schedule="*" * 999), "schedule: expected at most 256 plain characters"),
        (spec(restart_schedule="é * * * *"), "restart_schedule: expected at most 256 plain characters"),
        (spec(schedule="@daily", restart_schedule="@daily"), "restart_schedule: it has a schedule as well"),
        (spec(schedule="@daily", restart="always"), "restart: with a schedule it cannot be 'always'"),
        (spec(schedule="@daily", timezone="../../etc/shadow"), "timezone: expected a name as Europe/Vienna"),
        (spec(schedule="@daily", timezone="/etc/localtime"), "timezone: expected a name"),
        (spec(schedule="@daily", overlap=True), "overlap: needs a schedule, and 2 instances or more"),
        (spec(overlap=True, instances=2), "overlap: needs a schedule"),
        (spec(watch=["here"]), "watch: expected an absolute path, got 'here'"),
        (spec(watch_extensions=[""]), "watch_extensions: expected texts of 1 to 4095 characters, got ''"),
        (spec(watch_ignore=["a\0b"]), "watch_ignore: expected texts"),
        (spec(watch_delay_ms=-1), "watch_delay_ms: expected 0 to 3600000, got -1"),
        (spec(watch=["/x"] * 70_000), "a list of it has more than 65536 entries"),
        (spec(limits=Limits(nice=20)), "limits.nice: expected -20 to 19, got 20"),
        (spec(limits=Limits(oom_score_adj=2**31)), "limits.oom_score_adj"),
        (spec(limits=Limits(open_files=2**64)), "limits.open_files"),
        (spec(limits=Limits(memory_max_mb=math.inf)), "limits.memory_max_mb"),
        (spec(limits=Limits(cpu_quota_percent=math.nan)), "limits.cpu_quota_percent"),
        (spec(limits=Limits(cpu_percent=50, cpu_window_secs=0)), "limits.cpu_window_secs"),
        (spec(limits=Limits(cpus="0\n1")), "limits.cpus: expected CPUs"),
        (spec(limits=Limits(cpus="3-1")), "limits.cpus"),
        (spec(limits=Limits(cpus="")), "limits.cpus"),
        (spec(sandbox=Sandbox(uid=2**40)), "sandbox.uid: expected -1 to 2147483647, got 1099511627776"),
        (spec(sandbox=Sandbox(gid=-2)), "sandbox.gid"),
        (spec(sandbox=Sandbox(umask=0o1000)), "sandbox.umask"),
        (spec(sandbox=Sandbox(groups=[-1])), "sandbox.groups: expected 0 to 2147483647, got -1"),
        (spec(sandbox=Sandbox(user="a\0b")), "sandbox.user: cannot hold a NUL"),
        (spec(sandbox=Sandbox(capabilities=["CAP_NONE"])), "sandbox.capabilities: there is no capability 'CAP_NONE'"),
        (spec(sandbox=Sandbox(capabilities=["kill"])), "there is no capability 'kill'"),
        (spec(sandbox=Sandbox(read_only_paths=["etc"])), "sandbox.read_only_paths: expected an absolute path"),
        (spec(sandbox=Sandbox(read_only_paths=["/a\0b"])), "sandbox.read_only_paths: a path cannot hold a NUL"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_told_with_the_key_and_what_was_expected(wrong: Spec, said: str) -> None:
    told = spec_error(wrong)
    assert told is not None and said in told and len(told) < 250 and "s3cr3t" not in told


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        (Logs(max_files=-1), "logs.max_files: expected 0 to 100000, got -1"),
        (Logs(max_size_mb=1e18), "logs.max_size_mb"),
        (Logs(sink="syslog"), "logs.sink: expected 'file'"),
        (Logs(rate_limit=0), "logs.rate_limit"),
    ],
)
def test_logs_that_cannot_be_kept(logs: Logs, said: str) -> None:
    assert said in (spec_error(spec(logs=logs)) or "")


numbers = st.integers() | st.floats()


@given(st.sampled_from(sorted(check.NUMBERS)), numbers, st.sampled_from(sorted(check.LIMITS)), numbers, numbers)
def test_no_number_gets_through_that_a_clock_or_a_c_int_does_not_take(
    key: str, value: float, limit: str, amount: float, uid: float
) -> None:
    one = spec(**{key: value, "limits": Limits(**{limit: amount}), "sandbox": Sandbox(uid=uid)})  # type: ignore[arg-type]
    if spec_error(one) is None:
        assert abs(value) < 2**53 and abs(amount) < 2**53 and -(2**31) <= uid < 2**31
        int(value * 1e9).to_bytes(16, "big", signed=True)


# --- in step with the keys of a file ---


def test_every_field_is_looked_at() -> None:
    elsewhere = {"name", "command", "argv", "working_dir", "env", "stop_exit_codes", "depends_on", "namespace", "ready"}
    elsewhere |= {"log_file", "error_log_file", "limits", "sandbox", "logs", "alerts", "health_check", "hooks"}
    elsewhere |= {"schedule", "restart_schedule", "timezone", "catch_up", "overlap"}
    elsewhere |= {"watch", "watch_extensions", "watch_ignore"}
    elsewhere |= {"listen", "reuse_port", "bind_shim", "shutdown_with_message", *check.SOCKETS}
    assert set(check.LOGS) | set(check.LOG_WORDS) | {"compress"} == set(Logs.__struct_fields__)
    assert {*check.HOOKS, *check.HOOK_WORDS} == set(Hooks.__struct_fields__)
    assert set(check.HEALTH) | {"endpoint", "tcp", "command"} == set(HealthCheck.__struct_fields__)
    assert elsewhere | set(check.NUMBERS) | set(check.WORDS) == set(Spec.__struct_fields__)
    assert set(check.LIMITS) | {"cpus", "required"} == set(Limits.__struct_fields__)
    elsewhere = {"user", "groups", "home", "shell", "capabilities", "read_only_paths"}
    switches = {"no_new_privileges", "private_tmp", "private_network", "deny_gpu"}
    assert elsewhere | switches | set(check.SANDBOX) == set(Sandbox.__struct_fields__)


WIDER = {"cpu_window_secs", "cpu_quota_percent"}
"""The kernel and the clock take less than a file should ask for."""


def test_the_bounds_are_those_of_the_keys() -> None:
    bounded = ("int", "number", "instances")
    own = {key.name: (key.low, key.high) for key in keys.KEYS.values() if key.kind in bounded}
    assert own == {name: bounds for name, bounds in check.NUMBERS.items() if name != "stop_signal"}
    assert signal_number(str(check.LAST_SIGNAL)) and not signal_number(str(check.LAST_SIGNAL + 1))
    limits = {key.name: (key.low, key.high) for key in keys.TABLES["limits"].values() if key.kind in bounded}
    assert set(limits) == set(check.LIMITS)
    assert {name for name in limits if limits[name] != check.LIMITS[name]} == WIDER
    assert all(check.LIMITS[name][0] < limits[name][0] and check.LIMITS[name][1] == limits[name][1] for name in WIDER)
    logs = {key.name: (key.low, key.high) for key in keys.TABLES["logs"].values() if key.kind in bounded}
    words = {key.name: key.choices for key in keys.TABLES["logs"].values() if key.kind == "choice"}
    assert (logs, words) == (check.LOGS, check.LOG_WORDS)
    health = {key.name: (key.low, key.high) for key in keys.TABLES["health_check"].values() if key.kind in bounded}
    assert health == check.HEALTH
    hooks = {key.name: (key.low, key.high) for key in keys.TABLES["hooks"].values() if key.kind in bounded}
    assert hooks == check.HOOKS
    umask = keys.TABLES["sandbox"]["umask"]
    assert {"uid": (-1, ID_LIMIT), "gid": (-1, ID_LIMIT), "umask": (umask.low - 1, umask.high)} == check.SANDBOX
    codes = keys.KEYS["stop_exit_codes"]
    assert (codes.low, codes.high) == check.EXIT_CODES
    own_words = {key.name: key.choices for key in keys.KEYS.values() if key.kind == "choice"}
    assert own_words | {"stdin": STDINS} == check.WORDS, "stdin is no key"


def test_a_hundred_specs_are_checked_in_a_few_milliseconds() -> None:
    env = {f"VARIABLE_{number}": "x" * 40 for number in range(50)}
    some = [spec(f"app{number}", env=env, limits=RICH.limits, sandbox=RICH.sandbox) for number in range(100)]
    best = math.inf
    for _ in range(20):
        begun = time.process_time()
        assert not any(map(spec_error, some))
        best = min(best, time.process_time() - begun)
    assert best < 0.01, best

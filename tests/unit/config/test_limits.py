"""`[processes.NAME.limits]`."""

import pytest

from oxmgr.config.cpus import host_cpus, show_cpus
from oxmgr.config.keys import TABLES
from oxmgr.model.spec import NO_LIMITS, Limits
from tests.unit.config.conftest import Load, Problems

APP = '[processes.app]\ncommand = "sleep 1"\n'
LIMITS = f"{APP}[processes.app.limits]\n"


def limits(load: Load, text: str, **options: object) -> Limits:
    return load(text, **options)["app"].limits


def test_every_limit_arrives(load: Load) -> None:
    cpu = min(host_cpus())
    text = f"""
    memory_mb = 100.5
    cpu_percent = 150
    cpu_window_secs = 30
    memory_max_mb = 200
    memory_high_mb = 150
    swap_max_mb = 0
    cpu_quota_percent = 12.5
    cpu_weight = 50
    tasks_max = 64
    io_weight = 10000
    cpus = "{cpu}"
    open_files = 1024
    core_mb = 0
    nice = -20
    oom_score_adj = 1000
    required = true
    """
    found = limits(load, LIMITS + text)
    assert found == Limits(
        memory_mb=100.5,
        cpu_percent=150.0,
        cpu_window_secs=30.0,
        memory_max_mb=200.0,
        memory_high_mb=150.0,
        swap_max_mb=0.0,
        cpu_quota_percent=12.5,
        cpu_weight=50,
        tasks_max=64,
        io_weight=10000,
        cpus=str(cpu),
        open_files=1024,
        core_mb=0.0,
        nice=-20,
        oom_score_adj=1000,
        required=True,
    )
    assert list(TABLES["limits"]) == list(Limits.__struct_fields__), "each field has a key, in the same order"


def test_without_any_there_are_none(load: Load) -> None:
    assert limits(load, APP) == limits(load, LIMITS) == NO_LIMITS
    assert float(TABLES["limits"]["cpu_window_secs"].default) == NO_LIMITS.cpu_window_secs


@pytest.mark.parametrize("text", ["limits = { nice = 5, tasks_max = 9 }\n", "limits.nice = 5\nlimits.tasks_max = 9\n"])
def test_they_may_stand_in_the_apps_own_table(load: Load, text: str) -> None:
    assert limits(load, APP + text) == Limits(nice=5, tasks_max=9)


def test_each_limit_is_taken_from_the_last_layer_that_has_it(load: Load) -> None:
    text = f"""
    [defaults.limits]
    nice = 1
    tasks_max = 1
    cpu_weight = 1
    {LIMITS}
    tasks_max = 2
    cpu_weight = 2
    [processes.app.profiles.production.limits]
    cpu_weight = 3
    """
    assert limits(load, text) == Limits(nice=1, tasks_max=2, cpu_weight=2)
    assert limits(load, text, profile="production") == Limits(nice=1, tasks_max=2, cpu_weight=3)


# --- another spelling ---


def test_resource_limits_max_memory_mb_is_memory_mb(load: Load) -> None:
    assert limits(load, APP + "[processes.app.resource_limits]\nmax_memory_mb = 512\n") == Limits(memory_mb=512)
    text = f"[defaults]\nresource_limits.max_memory_mb = 1\n{LIMITS}memory_mb = 2\n"
    assert limits(load, text) == Limits(memory_mb=2), "the app's own wins, however it is spelled"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "limits.memory_mb = 1\nresource_limits.max_memory_mb = 1\n",
            "4: processes.app.resource_limits.max_memory_mb: is the same as limits.memory_mb: write one of them",
        ),
        (
            "resource_limits.max_memory_mb = 0\n",
            "3: processes.app.resource_limits.max_memory_mb: expected 1 to 1000000000, got 0",
        ),
        (
            "resource_limits.max_memory = 1\n",
            "3: processes.app.resource_limits.max_memory: unknown key; did you mean max_memory_mb?",
        ),
        (
            "resource_limits.memory_mb = 1\n",
            "3: processes.app.resource_limits.memory_mb: unknown key; it belongs in limits: limits.memory_mb",
        ),
        ("resource_limits = 1\n", "3: processes.app.resource_limits: expected a table, got 1"),
    ],
)
def test_a_mistake_in_that_spelling_is_told_in_it(problems: Problems, text: str, told: str) -> None:
    assert problems(APP + text) == [told]


# --- mistakes ---

CPUS = 'expected CPUs as "0-3,8", got'

WRONG_VALUES = [
    ("memory_mb = 0", "expected 1 to 1000000000, got 0"),
    ('memory_mb = "1G"', 'expected a number, got "1G"'),
    ("memory_mb = inf", "expected 1 to 1000000000, got inf"),
    ("memory_mb = nan", "expected 1 to 1000000000, got nan"),
    ("cpu_percent = 0", "expected 1 to 1000000, got 0"),
    ("cpu_percent = true", "expected a number, got true"),
    ("cpu_window_secs = 0.5", "expected 1 to 86400, got 0.5"),
    ("memory_max_mb = 0.5", "expected 1 to 1000000000, got 0.5"),
    ("memory_high_mb = -1", "expected 1 to 1000000000, got -1"),
    ("swap_max_mb = -1", "expected 0 to 1000000000, got -1"),
    ("cpu_quota_percent = 0.9", "expected 1 to 1000000, got 0.9"),
    ("cpu_weight = 0", "expected 1 to 10000, got 0"),
    ("cpu_weight = 1.5", "expected a whole number, got 1.5"),
    ("tasks_max = 0", "expected 1 to 4194304, got 0"),
    ("io_weight = 10001", "expected 1 to 10000, got 10001"),
    ("open_files = 15", "expected 16 to 1000000000, got 15"),
    ("core_mb = -1", "expected 0 to 1000000000, got -1"),
    ("nice = 20", "expected -20 to 19, got 20"),
    ("oom_score_adj = -1001", "expected -1000 to 1000, got -1001"),
    ('required = "yes"', 'expected true or false, got "yes"'),
    ("cpus = 0", f"{CPUS} 0"),
    ('cpus = ""', f'{CPUS} ""'),
    ('cpus = "0,"', f'{CPUS} "0,"'),
    ('cpus = "all"', f'{CPUS} "all"'),
    ('cpus = "1-0"', "the range 1-0 goes backwards: write 0-1"),
    ('cpus = "0-99999999"', f"this host has no CPU {max(host_cpus()) + 1}: it has {show_cpus(host_cpus())}"),
    ('cpus = "123456"', f"this host has no CPU 123456: it has {show_cpus(host_cpus())}"),
    ("memory_max = 1", "unknown key; did you mean memory_max_mb?"),
    ("zzz = 1", "unknown key"),
    ("private_tmp = true", "unknown key; it belongs in sandbox: sandbox.private_tmp"),
    ("instances = 2", "unknown key; it belongs in the app's own table, above this one"),
    ('"a b" = 1', "unknown key"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_VALUES, ids=[text for text, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line_and_what_was_expected(problems: Problems, text: str, message: str) -> None:
    key = text.split(" =")[0]
    assert problems(f"{LIMITS}# a comment\n{text}\n") == [f"5: processes.app.limits.{key}: {message}"]


def test_limits_that_are_no_table(problems: Problems) -> None:
    assert problems(f"{APP}limits = 5\n") == ["3: processes.app.limits: expected a table, got 5"]


@pytest.mark.parametrize("key", ["memory_mb", "tasks_max", "private_tmp"])
def test_a_key_that_stands_outside_of_its_table_is_told_where_it_belongs(problems: Problems, key: str) -> None:
    table = "sandbox" if key == "private_tmp" else "limits"
    assert problems(f"{APP}{key} = 1\n") == [
        f"3: processes.app.{key}: unknown key; it belongs in {table}: {table}.{key}"
    ]


def test_a_mistake_in_the_defaults_or_a_profile_is_told_there_and_once(problems: Problems) -> None:
    other = '[processes.b]\ncommand = "sleep 1"\n'
    assert problems(f"[defaults.limits]\nnice = 99\n{APP}{other}") == [
        "2: defaults.limits.nice: expected -20 to 19, got 99"
    ]
    assert problems(f"{APP}[processes.app.profiles.x.limits]\nwat = 1\n") == [
        "4: processes.app.profiles.x.limits.wat: unknown key"
    ]


HIGH = "memory_high_mb (300) is above memory_max_mb (200): the kernel would kill before it slows down"
SOFT = "memory_mb (300) is above memory_max_mb (200): the kernel would kill before the graceful restart"


def test_a_limit_that_could_never_be_reached_is_told_with_the_one_below_it(problems: Problems, load: Load) -> None:
    assert problems(f"{LIMITS}memory_max_mb = 200\nmemory_high_mb = 300\n") == [
        f"5: processes.app.limits.memory_high_mb: {HIGH}"
    ]
    assert problems(f"{LIMITS}memory_mb = 300\nmemory_max_mb = 200\n") == [f"4: processes.app.limits.memory_mb: {SOFT}"]
    assert limits(load, f"{LIMITS}memory_mb = 200\nmemory_high_mb = 200\nmemory_max_mb = 200\n").memory_mb == 200


def test_of_two_that_clash_the_one_is_told_that_is_not_in_the_defaults(problems: Problems) -> None:
    assert problems(f"[defaults]\nlimits.memory_mb = 300\n{LIMITS}memory_max_mb = 200\n") == [
        f"6: processes.app.limits.memory_max_mb: {SOFT}"
    ]

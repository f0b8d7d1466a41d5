"""Schedules and watches, as they are written in an oxfile."""

from pathlib import Path

import pytest

from tests.unit.config.conftest import Load, Problems

APP = '[processes.app]\ncommand = "sleep 1"\n'


def test_a_job_is_run_at_its_times_and_not_restarted(load: Load) -> None:
    spec = load(APP + 'schedule = "30  2 * * *"\ntimezone = "Europe/Vienna"\ncatch_up = true\n')["app"]
    assert (spec.schedule, spec.timezone, spec.catch_up, spec.restart) == ("30 2 * * *", "Europe/Vienna", True, "never")
    assert load(APP + 'schedule = "@daily"\nrestart = "on-failure"\n')["app"].restart == "on-failure"


def test_a_service_is_restarted_at_its_times(load: Load) -> None:
    spec = load(APP + 'restart_schedule = "0 0 4 * * mon"\n')["app"]
    assert (spec.restart_schedule, spec.schedule, spec.restart) == ("0 0 4 * * mon", "", "on-failure")


def test_overlapping_runs_share_the_instances(load: Load) -> None:
    spec = load(APP + 'schedule = "* * * * *"\noverlap = true\ninstances = 3\n')["app"]
    assert (spec.overlap, spec.instances) == (True, 3)


def test_defaults_of_schedules_and_watches_may_be_for_others(load: Load) -> None:
    text = """
    [defaults]
    timezone = "UTC"
    catch_up = true
    overlap = true
    watch_ignore = ["tmp"]
    [processes.service]
    command = "sleep 1"
    [processes.job]
    command = "sleep 1"
    schedule = "@daily"
    instances = 2
    """
    specs = load(text)
    assert specs["service"].overlap is False and specs["job"].overlap is True


def test_watches(load: Load, folder: Path) -> None:
    (folder / "dist").mkdir()
    (folder / "app.toml").write_text("")
    assert load(APP + "watch = true\n")["app"].watch == [str(folder)]
    assert load(APP + 'watch = true\nworking_dir = "dist"\n')["app"].watch == [str(folder / "dist")]
    assert load(APP + "watch = false\n")["app"].watch == []
    spec = load(
        APP
        + 'watch = ["dist", "app.toml"]\nwatch_extensions = [".js", "*.json", "js"]\n'
        + 'watch_ignore = ["tmp/", "gen/**", "*.log"]\nwatch_delay_ms = 0\n'
    )["app"]
    assert spec.watch == [str(folder / "dist"), str(folder / "app.toml")]
    assert spec.watch_extensions == ["js", "json"] and spec.watch_ignore == ["tmp", "gen", "*.log"]
    assert spec.watch_delay_ms == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('schedule = "0 0 30 2 *"', 'processes.app.schedule: "0 0 30 2 *" is never due: there is no such day'),
        ('schedule = "0 25 * * *"', "processes.app.schedule: \"0 25 * * *\" holds '25', which is no hour"),
        ("schedule = 5", 'processes.app.schedule: expected a cron line as "30 2 * * *", got 5'),
        ('schedule = ""', "processes.app.schedule: expected a cron line"),
        ('restart_schedule = "@reboot"', 'processes.app.restart_schedule: "@reboot" is no time'),
        (
            'restart_schedule = "@daily"\ntimezone = "Europe/Viena"',
            'processes.app.timezone: there is no time zone "Europe/Viena"; did you mean Europe/Vienna?',
        ),
        ('timezone = "UTC"', "processes.app.timezone: says nothing without schedule or restart_schedule"),
        ("catch_up = true", "processes.app.catch_up: says nothing without"),
        ('restart_schedule = "@daily"\noverlap = true', "processes.app.overlap: says nothing without schedule"),
        ('schedule = "@daily"\noverlap = true', "processes.app.overlap: needs instances = 2 or more"),
        (
            'schedule = "@daily"\nrestart_schedule = "@daily"',
            "processes.app.restart_schedule: there is a schedule as well",
        ),
        (
            'schedule = "@daily"\nrestart = "always"',
            "processes.app.schedule: a job that is always restarted has no end",
        ),
        ('schedule = "@daily"\nrestart_on_exit = true', "processes.app.schedule: a job that is always restarted"),
        ('watch = ["nosuch"]', "nosuch does not exist"),
        ('watch = "dist"', 'processes.app.watch: expected true, false or an array of files and folders, got "dist"'),
        ("watch = [1]", "processes.app.watch: expected true, false or an array"),
        ('watch_extensions = ["js"]', "processes.app.watch_extensions: says nothing without watch"),
        ('watch = true\nwatch_extensions = ["a/b"]', 'watch_extensions: expected endings as "js" or ".js"'),
        (
            'watch = true\nwatch_ignore = ["/etc"]',
            "watch_ignore: expected a name, or a path from the watched folder on",
        ),
        ('watch = true\nwatch_ignore = [""]', "watch_ignore: expected a name"),
        ("watch = true\nwatch_delay_ms = 999999999", "watch_delay_ms: expected 0 to 3600000"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(problems: Problems, text: str, said: str) -> None:
    told = problems(APP + text + "\n")
    assert len(told) == 1 and said in told[0]
    assert told[0].startswith(("3: ", "4: "))


def test_nothing_can_wait_for_a_job(problems: Problems) -> None:
    text = APP + 'schedule = "@daily"\n[processes.other]\ncommand = "sleep 1"\ndepends_on = ["app"]\n'
    assert problems(text) == [
        "6: processes.other.depends_on: app has a schedule: it is run at its times, and nothing can wait for it"
    ]

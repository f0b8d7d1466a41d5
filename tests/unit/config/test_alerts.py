"""`[alerts]`, `[processes.NAME.alerts]`."""

from pathlib import Path

import pytest

from oxmgr.config.keys import TABLES
from oxmgr.model.check import spec_error
from oxmgr.model.spec import ALERT_KINDS, NO_ALERTS, Alerts
from tests.unit.config.conftest import Load, Problems, program

APP = '[processes.app]\ncommand = "sleep 1"\n'
ALERTS = f"{APP}[processes.app.alerts]\n"
SECRET = "s3cr3t"


def test_every_key_arrives(load: Load, folder: Path) -> None:
    program(folder, "notify.sh")
    text = """
    on = ["oom", "crash", "oom"]
    webhook = "https://hooks.example.com/T0/B0"
    headers = { Authorization = "Bearer x", X-Two = "" }
    command = "./notify.sh --loud"
    """
    found = load(ALERTS + text)["app"].alerts
    headers = {"Authorization": "Bearer x", "X-Two": ""}
    command = ["./notify.sh", "--loud"]
    assert found == Alerts(("oom", "crash"), "https://hooks.example.com/T0/B0", headers, command, str(folder))
    assert set(TABLES["alerts"]) | {"working_dir"} == set(Alerts.__struct_fields__)


def test_those_at_the_top_are_for_every_app_and_each_may_have_others(load: Load) -> None:
    top = '[alerts]\nwebhook = "http://a/"\non = ["crash"]\n[defaults.alerts]\non = ["oom"]\n'
    apps = '[processes.b]\ncommand = "sleep 1"\nalerts = { on = [] }\n[processes.c]\ncommand = "sleep 1"\n'
    own = '[processes.c.alerts]\nwebhook = "http://c/"\n'
    specs = load(top + APP + apps + own)
    assert specs["app"].alerts == Alerts(("oom",), "http://a/")
    assert specs["b"].alerts == Alerts((), "http://a/")
    assert specs["c"].alerts == Alerts(("oom",), "http://c/")


def test_headers_go_to_no_other_host_than_the_one_they_were_written_for(load: Load) -> None:
    top = '[alerts]\nwebhook = "http://a/"\nheaders = { Token = "a" }\n'
    other = '[processes.b]\ncommand = "sleep 1"\nalerts = { webhook = "http://b/" }\n'
    more = '[processes.c]\ncommand = "sleep 1"\nalerts = { command = "sleep 2" }\n'
    specs = load(top + APP + other + more)
    assert [specs[name].alerts.headers for name in ("app", "b", "c")] == [{"Token": "a"}, {}, {"Token": "a"}]


def test_without_a_table_there_are_none_and_one_key_keeps_the_others(load: Load) -> None:
    assert load(APP)["app"].alerts == NO_ALERTS
    assert load(ALERTS + 'webhook = "http://a/"')["app"].alerts.on == ALERT_KINDS


def test_secrets_come_from_variables(load: Load, environ: dict[str, str]) -> None:
    environ["TOKEN"] = SECRET
    text = 'webhook = "https://h/$TOKEN"\nheaders = { A = "Bearer ${TOKEN}" }\n'
    found = load(ALERTS + text)["app"].alerts
    assert found.webhook == f"https://h/{SECRET}" and found.headers == {"A": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "HTTPS://user:pw@example.com:8443/a?b=c#d",
        "http://[::1]:80/x",
        "http://[::1]",
        "http://10.0.0.1:65535",
        "https://h?x",
    ],
)
def test_urls_that_are_taken(load: Load, url: str) -> None:
    spec = load(f'{ALERTS}webhook = "{url}"')["app"]
    assert spec.alerts.webhook == url and spec_error(spec) is None


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        (f'webhook = "{SECRET}"', "webhook", "expected a URL that begins with http:// or https://"),
        (f'webhook = "ftp://h/{SECRET}"', "webhook", "begins with http"),
        (f'webhook = "http:/h/{SECRET}"', "webhook", "begins with http"),
        (f'webhook = "https:///{SECRET}"', "webhook", "names a host"),
        (f'webhook = "https://:80/{SECRET}"', "webhook", "names a host"),
        (f'webhook = "https://[]:80/{SECRET}"', "webhook", "names a host"),
        (f'webhook = "https://[::1/{SECRET}"', "webhook", "closes the ]"),
        (f'webhook = "https://h:99999/{SECRET}"', "webhook", "a number from 1 to 65535"),
        (f'webhook = "https://h:x/{SECRET}"', "webhook", "a number from 1 to 65535"),
        (f'webhook = "https://[::1]x/{SECRET}"', "webhook", "a number from 1 to 65535"),
        (f'webhook = "https://h/{SECRET} x"', "webhook", "no blank"),
        (f'webhook = "https://h/{SECRET}\\n"', "webhook", "no blank"),
        (f'webhook = "https://hä/{SECRET}"', "webhook", "printable ASCII"),
        (f'webhook = "https://h/{SECRET * 500}"', "webhook", "2000 are the most"),
        (f'webhook = ["{SECRET}"]', "webhook", "expected a URL as a string"),
        (f'webhook = "http://h/"\nheaders = {{ "A B" = "{SECRET}" }}', "headers", "'A B' cannot be a header's name"),
        (
            f'webhook = "http://h/"\nheaders = {{ A = "{SECRET}\\r\\nB: c" }}',
            "headers",
            "A holds what is not printable",
        ),
        (f'webhook = "http://h/"\nheaders = {{ Host = "{SECRET}" }}', "headers", "Host is set by oxmgr"),
        (f'webhook = "http://h/"\nheaders = "{SECRET}"', "headers", "expected a table of strings"),
        (f'headers = {{ A = "{SECRET}" }}', "headers", "are for a webhook, and there is none"),
        ('on = ["crashed"]\nwebhook = "http://h/"', "on", 'got "crashed"; did you mean crash?'),
        ('on = "crash"\nwebhook = "http://h/"', "on", "expected an array of words"),
        ('on = ["crash"]', "on", "nobody is told"),
        ('command = "nosuch --x"', "command", "nosuch"),
        ('command = ""', "command", "is empty"),
        ('web_hook = "http://h/"', "web_hook", "unknown key; did you mean webhook?"),
    ],
)
def test_mistakes_are_told_and_no_secret_is(problems: Problems, text: str, key: str, why: str) -> None:
    (problem,) = problems(ALERTS + text)
    assert problem.startswith(("4: ", "5: ")) and key in problem and why in problem
    assert SECRET not in problem


def test_a_mistake_at_the_top_is_told_once_with_its_line(problems: Problems) -> None:
    other = '[processes.b]\ncommand = "sleep 1"\n'
    (problem,) = problems(f'{APP}{other}[alerts]\nwebhook = "nope"\n')
    assert problem == "6: alerts.webhook: expected a URL that begins with http:// or https://"
    (problem,) = problems(f"alerts = 5\n{APP}")
    assert problem == "1: alerts: expected a table, got 5"

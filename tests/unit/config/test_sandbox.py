"""`[processes.NAME.sandbox]`: with which rights an app runs, and who may ask for them."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from oxmgr.config.keys import TABLES
from oxmgr.config.sandbox import Caller, this_caller
from oxmgr.model.spec import NO_SANDBOX, Sandbox
from tests.unit.config.conftest import Load, Problems

APP = '[processes.app]\ncommand = "sleep 1"\n'
SANDBOX = f"{APP}[processes.app.sandbox]\n"
ROOT = Caller(0, 0)
NOBODY = pwd.getpwnam("nobody")
A_USER = Caller(NOBODY.pw_uid, NOBODY.pw_gid)
UNUSED = next(number for number in range(54321, 2**31) if number not in {one.pw_uid for one in pwd.getpwall()})


def sandbox(load: Load, text: str, caller: Caller = ROOT, **options: object) -> Sandbox:
    return load(text, caller=caller, **options)["app"].sandbox


def test_every_key_arrives(load: Load, folder: Path, environ: dict[str, str]) -> None:
    environ.update(DIR="/usr", HOME="/")
    (folder / "data").mkdir()
    text = """
    user = "nobody"
    group = "root"
    umask = "027"
    no_new_privileges = true
    capabilities = ["CAP_NET_BIND_SERVICE", "chown", "Cap_Kill", "CHOWN"]
    private_tmp = true
    private_network = true
    read_only_paths = ["/usr/../etc", "$DIR", "~", "data"]
    deny_gpu = true
    """
    app = SANDBOX.replace("command", 'working_dir = "/usr"\ncommand')
    assert sandbox(load, app + text) == Sandbox(
        user="nobody",
        uid=NOBODY.pw_uid,
        gid=0,
        groups=os.getgrouplist("nobody", 0),
        home=NOBODY.pw_dir,
        shell=NOBODY.pw_shell,
        umask=0o27,
        no_new_privileges=True,
        capabilities=["CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_KILL"],
        private_tmp=True,
        private_network=True,
        read_only_paths=["/etc", "/usr", "/", str(folder / "data")],
        deny_gpu=True,
    )
    made = {"uid", "gid", "groups", "home", "shell"}
    assert {*TABLES["sandbox"], *made} == {*Sandbox.__struct_fields__, "group"}


def test_without_any_all_rights_stay_as_they_are(load: Load) -> None:
    assert sandbox(load, APP) == sandbox(load, SANDBOX) == NO_SANDBOX


def test_each_key_is_taken_from_the_last_layer_that_has_it(load: Load) -> None:
    text = f"""
    [defaults.sandbox]
    no_new_privileges = true
    umask = "077"
    capabilities = ["CHOWN", "KILL"]
    {SANDBOX}
    umask = "027"
    capabilities = ["KILL"]
    [processes.app.profiles.open]
    sandbox = {{ umask = "002" }}
    """
    plain = Sandbox(no_new_privileges=True, umask=0o27, capabilities=["CAP_KILL"])
    assert sandbox(load, text) == plain
    assert sandbox(load, text, profile="open").umask == 0o2


# --- users ---


@pytest.mark.parametrize("text", ['"nobody"', str(NOBODY.pw_uid), f'"{NOBODY.pw_uid}"'])
def test_a_user_brings_what_the_host_knows_of_it(load: Load, text: str) -> None:
    found = sandbox(load, f"{SANDBOX}user = {text}\n")
    assert (found.user, found.uid, found.gid) == ("nobody", NOBODY.pw_uid, NOBODY.pw_gid)
    assert (found.home, found.shell) == (NOBODY.pw_dir, NOBODY.pw_shell)
    assert found.groups == os.getgrouplist("nobody", NOBODY.pw_gid)


def test_a_number_that_nobody_has_stands_for_itself(load: Load) -> None:
    alone = Sandbox(user=str(UNUSED), uid=UNUSED, gid=UNUSED, groups=[UNUSED], home="/", shell="/bin/sh")
    assert sandbox(load, f"{SANDBOX}user = {UNUSED}\n") == alone
    with_group = sandbox(load, f"{SANDBOX}user = {UNUSED}\ngroup = 7\n")
    assert (with_group.uid, with_group.gid, with_group.groups) == (UNUSED, 7, [7])


def test_a_group_may_be_given_alone(load: Load) -> None:
    one = grp.getgrall()[-1]
    assert sandbox(load, f'{SANDBOX}group = "{one.gr_name}"\n') == Sandbox(gid=one.gr_gid, groups=[one.gr_gid])
    assert sandbox(load, f"{SANDBOX}group = {UNUSED}\n") == Sandbox(gid=UNUSED, groups=[UNUSED])


def test_user_in_the_apps_own_table_is_the_same(load: Load, problems: Problems) -> None:
    assert sandbox(load, f'{APP}user = "nobody"\n').uid == NOBODY.pw_uid
    text = f'[defaults]\nuser = "root"\n{SANDBOX}user = "nobody"\n'
    assert sandbox(load, text).user == "nobody", "the app's own wins, however it is spelled"
    assert problems(f'{APP}user = "nobody"\nsandbox = {{ user = "nobody" }}\n', caller=ROOT) == [
        "3: processes.app.user: is the same as sandbox.user: write one of them"
    ]
    assert problems(f'{APP}user = "nobdy"\n', caller=ROOT) == [
        '3: processes.app.user: there is no user "nobdy" on this host; did you mean nobody?'
    ]


# --- what a user who is not root may ask for ---


def test_what_takes_no_rights_is_anybodys(load: Load) -> None:
    text = f"""{SANDBOX}
    umask = "077"
    no_new_privileges = true
    deny_gpu = true
    private_tmp = false
    private_network = false
    read_only_paths = []
    """
    expected = Sandbox(umask=0o77, no_new_privileges=True, deny_gpu=True)
    assert sandbox(load, text, A_USER) == expected


def test_oneself_is_a_user_that_anybody_may_be(load: Load) -> None:
    """Nothing is to be set then: the numbers stay as they are."""
    found = sandbox(load, f'{SANDBOX}user = "nobody"\ngroup = {A_USER.gid}\n', A_USER)
    assert found == Sandbox(user="nobody", home=NOBODY.pw_dir, shell=NOBODY.pw_shell)


@pytest.mark.parametrize(
    "text",
    [
        'user = "root"',
        f"user = {UNUSED}",
        f"group = {UNUSED}",
        'capabilities = ["KILL"]',
        "capabilities = []",
        "private_tmp = true",
        "private_network = true",
        'read_only_paths = ["/usr"]',
    ],
)
def test_the_rest_needs_a_daemon_with_roots_rights(problems: Problems, load: Load, text: str) -> None:
    key = text.split(" =")[0]
    told = "needs a daemon with root's rights: yours has those of {}; start oxmgr as root, or take this out"
    assert problems(f"{SANDBOX}{text}\n", caller=A_USER) == [f"4: processes.app.sandbox.{key}: {told.format('nobody')}"]
    assert problems(f"{SANDBOX}{text}\n", caller=Caller(UNUSED + 1, UNUSED + 1)) == [
        f"4: processes.app.sandbox.{key}: {told.format(f'user {UNUSED + 1}')}"
    ]
    app = SANDBOX.replace("command", 'working_dir = "/usr"\ncommand')
    assert sandbox(load, f"{app}{text}\n", ROOT) != NO_SANDBOX


def test_whose_rights_count_is_this_process_unless_another_is_named() -> None:
    assert this_caller() == (os.geteuid(), os.getegid())


# --- a umask ---


@pytest.mark.parametrize(
    ("written", "mask"),
    [
        ('"027"', 0o27),
        ('"0o027"', 0o27),
        ('"27"', 0o27),
        ('"0027"', 0o27),
        ("0o27", 0o27),
        ("0o027", 0o27),
        ("0o777", 0o777),
        ("0", 0),
        ("7", 7),
        ('"000"', 0),
    ],
)
def test_a_umask_is_octal(load: Load, written: str, mask: int) -> None:
    assert sandbox(load, f"{SANDBOX}umask = {written}\n", A_USER).umask == mask
    assert sandbox(load, f"{APP}sandbox = {{ no_new_privileges = true, umask = {written} }}\n", A_USER).umask == mask


UMASK = 'expected an octal number from 000 to 777, as "027" or 0o027, got'
DECIMAL = "which TOML takes for a decimal one"
NUMBER = "or a number from 0 to 2147483647, got"

WRONG_VALUES = [
    ("umask = 27", f'expected an octal number, got 27, {DECIMAL}: write "027" or 0o027'),
    ("umask = 777", f'expected an octal number, got 777, {DECIMAL}: write "777" or 0o777'),
    ("umask = 18", f"expected an octal number, got 18, {DECIMAL}"),
    ("umask = 0x17", f'expected an octal number, got 23, {DECIMAL}: write "023" or 0o023'),
    ("umask = 8", f"{UMASK} 8"),
    ("umask = -1", f"{UMASK} -1"),
    ("umask = true", f"{UMASK} true"),
    ("umask = 0o1000", f'{UMASK} "0o1000"'),
    ('umask = "0o"', f'{UMASK} "0o"'),
    ('umask = "028"', f'{UMASK} "028"'),
    ('umask = "u=rwx"', f'{UMASK} "u=rwx"'),
    ('umask = "²"', f'{UMASK} "²"'),
    ('user = ""', 'expected the name or number of a user, got ""'),
    ("user = true", "expected the name or number of a user, got true"),
    ('user = "a\\u0000"', 'expected the name or number of a user, got "a\\u0000"'),
    ("user = []", "expected the name or number of a user, got an array"),
    ("user = -1", f"expected the name of a user {NUMBER} -1"),
    ("user = 4294967295", f"expected the name of a user {NUMBER} 4294967295"),
    (f'user = "{"9" * 5000}"', f"expected the name of a user {NUMBER} {'9' * 20}"),
    ('user = "qqqqqqqq"', 'there is no user "qqqqqqqq" on this host'),
    ('user = "nobodyy"', 'there is no user "nobodyy" on this host; did you mean nobody?'),
    ("group = 1.5", "expected the name or number of a group, got 1.5"),
    ("group = -1", f"expected the name of a group {NUMBER} -1"),
    ('group = "rooot"', 'there is no group "rooot" on this host; did you mean root?'),
    ("no_new_privileges = 1", "expected true or false, got 1"),
    ('capabilities = "KILL"', 'expected an array of names, got "KILL"'),
    ("capabilities = [5]", "expected an array of names, got an array"),
    ('capabilities = ["KILL", "net_rw"]', 'there is no capability "net_rw"; did you mean CAP_NET_RAW?'),
    ('capabilities = ["zzz"]', 'there is no capability "zzz"'),
    ('private_tmp = "yes"', 'expected true or false, got "yes"'),
    ("private_network = 1", "expected true or false, got 1"),
    ("deny_gpu = 1", "expected true or false, got 1"),
    ('read_only_paths = "/usr"', 'expected an array of paths, got "/usr"'),
    ("read_only_paths = [1]", "expected a path, got 1"),
    ('read_only_paths = ["/usr", "/nosuch/../nosuch"]', "/nosuch does not exist"),
    ('read_only_paths = ["$NOPE"]', "$NOPE is not set in your environment: set it, or write $$ for a $"),
    ("privat_tmp = true", "unknown key; did you mean private_tmp?"),
    ("memory_mb = 1", "unknown key; it belongs in limits: limits.memory_mb"),
    ("env = { A = 1 }", "unknown key; it belongs in the app's own table, above this one"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_VALUES, ids=[text[:40] for text, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line_and_what_was_expected(problems: Problems, text: str, message: str) -> None:
    key = text.split(" =")[0]
    assert problems(f"{SANDBOX}{text}\n", caller=ROOT) == [f"4: processes.app.sandbox.{key}: {message}"]


def test_a_private_tmp_must_not_hide_where_the_app_runs(load: Load, problems: Problems) -> None:
    text = f"{SANDBOX}private_tmp = true\n"
    elsewhere = text.replace("command", 'working_dir = "/usr"\ncommand')
    assert load(elsewhere, caller=ROOT)["app"].sandbox.private_tmp
    here = text.replace("command", 'working_dir = "/var/tmp"\ncommand')
    hint = "set working_dir to a folder not below /var/tmp"
    assert problems(here, caller=ROOT) == [
        f"5: processes.app.sandbox.private_tmp: hides /var/tmp, where the app is to run: {hint}"
    ]


def test_all_mistakes_of_a_sandbox_are_told_at_once(problems: Problems) -> None:
    text = f'{SANDBOX}user = "nobodyy"\ngroup = "rooot"\nprivate_tmp = true\nprivate_network = true\n'
    told = problems(text, caller=A_USER)
    assert [line.split(": ")[1].rpartition(".")[2] for line in told] == [
        "group",
        "user",
        "private_tmp",
        "private_network",
    ]

"""`listen` and what goes with it: how it is written, and what cannot be meant."""

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxmgr.config.listen import read_listen
from oxmgr.config.oxfile import load_oxfile
from oxmgr.config.sandbox import Caller
from oxmgr.model.check import spec_error
from oxmgr.model.listen import Address, read_address
from oxmgr.model.spec import Spec
from tests.unit.config.conftest import Load, Problems

APP = '[processes.app]\ncommand = "sleep 1"\n'
NODE = '[processes.app]\ncommand = "node server.js"\n'


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("3000", "[::]:3000"),
        (":3000", "[::]:3000"),
        ("*:3000", "[::]:3000"),
        ("[::]:3000", "[::]:3000"),
        ("0.0.0.0:3000", "0.0.0.0:3000"),
        ("localhost:3000", "127.0.0.1:3000"),
        ("tcp:127.0.0.1:3000", "127.0.0.1:3000"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("udp:0.0.0.0:53", "udp:0.0.0.0:53"),
        ("udp:53", "udp:[::]:53"),
        ("http=80", "http=[::]:80"),
        ("a.b_c-1=unix:/run/x.sock", "a.b_c-1=unix:/run/x.sock"),
        ("unix:x/../y.sock", "unix:/folder/y.sock"),
        ("unix:$RUN/a=b", "unix:/run/me/a=b"),
    ],
)
def test_each_spelling_means_one_address(written: str, meant: str) -> None:
    assert read_listen(written, "/folder", {"RUN": "/run/me"}) == [meant]
    assert read_address(meant).text == meant


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "expected a port from 1 to 65535"),
        ("0", "expected a port from 1 to 65535"),
        ("65536", "expected a port from 1 to 65535"),
        ("127.0.0.1", "expected a port from 1 to 65535"),
        ("::1:80", "an IPv6 address stands in brackets"),
        ("example.com:80", "'example.com' is no IP address; a name would have to be looked up"),
        ("1.2.3:80", "is no IP address"),
        ("[fe80::1%eth0]:80", "is no IP address"),
        ("unix:", "expected an absolute path behind unix:"),
        ("=80", "a socket's name has 1 to 64 of letters"),
        ("a b=80", "a socket's name has 1 to 64 of letters"),
        ("x" * 65 + "=80", "a socket's name has 1 to 64 of letters"),
        ("unix:/" + "x" * 200, "at most 107 bytes, this one has 201"),
    ],
)
def test_what_is_no_address_is_told(written: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        read_listen(written, "/folder", {})
    assert told in str(raised.value) and len(str(raised.value)) < 250


@given(st.text(max_size=200))
def test_any_text_is_an_address_that_reads_back_or_is_refused(text: str) -> None:
    try:
        found = read_address(text)
    except ValueError:
        return
    assert read_address(found.text) == found and isinstance(found, Address)


def test_what_a_file_says_is_what_the_daemon_takes(load: Load) -> None:
    specs = load(
        NODE + 'listen = [3000, "admin=127.0.0.1:9000", "unix:api.sock"]\nbacklog = 7\nsocket_mode = "666"\n'
        'ready = "fd:6"\nwatchdog_secs = 1.5\nshutdown_with_message = true\n'
    )
    spec: Spec = specs["app"]
    assert spec.listen[:2] == ["[::]:3000", "admin=127.0.0.1:9000"] and spec.listen[2].endswith("/project/api.sock")
    assert (spec.backlog, spec.socket_mode, spec.watchdog_secs, spec.shutdown_with_message) == (7, 0o666, 1.5, True)
    assert spec_error(spec) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('listen = ["3000", "[::]:3000"]', "3: app.listen: [::]:3000 is there twice"),
        ("listen = [true]", "3: app.listen: expected addresses"),
        (f"listen = {[*range(1, 66)]}", "3: app.listen: 65 sockets, 64 are the most"),
        ('listen = "3000"\nready = "fd:3"', '4: app.ready: fd 3 is what it is to listen at: take "fd:4"'),
        ('listen = ["80", "81"]\nready = "fd:4"', '4: app.ready: fds 3 to 4 are what it is to listen at: take "fd:5"'),
        ('listen = "3000"\nready = "listen"', "4: app.ready: what oxmgr holds listens from the start"),
        ("shutdown_with_message = true", "3: app.shutdown_with_message: is for Node apps, and sleep is none"),
        ("bind_shim = true", "3: app.bind_shim: there is no listen that it would be for"),
        ("reuse_port = true", "3: app.reuse_port: there is no listen that it would be for"),
        ('listen = "unix:/x"\nreuse_port = true', "4: app.reuse_port: a port can be shared so, unix:/x cannot"),
        ('socket_mode = "660"', '3: app.socket_mode: is for a "unix:/path" in listen, and there is none'),
        ('listen = "unix:/x"\nsocket_mode = "999"', "4: app.socket_mode: expected an octal number"),
        ('listen = "unix:/x"\nsocket_user = "no-such-one"', '4: app.socket_user: there is no user "no-such-one"'),
        ('listen = "80"\nsandbox.private_network = true', "3: app.listen: would be a way out of the private_network"),
        ("watchdog_secs = 0", "3: app.watchdog_secs: expected 0.1 to 86400, got 0"),
        ("backlog = 0", "3: app.backlog: expected 1 to 65535, got 0"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_line(problems: Problems, text: str, told: str) -> None:
    found = problems(APP + text)
    assert len(found) == 1 and found[0].replace("processes.", "").startswith(told), found


def test_who_binds_by_himself_can_tell_that_he_listens(load: Load) -> None:
    assert load(APP + 'listen = "80"\nbind_shim = true\nready = "listen"\n')["app"].bind_shim


def test_whose_the_sockets_are(folder: Path, environ: dict[str, str]) -> None:
    path = folder / "oxfile.toml"
    path.write_text(APP + 'listen = "unix:/x"\nsocket_user = "nobody"\nsocket_group = 0\n')
    (spec,) = load_oxfile(str(path), environ=environ, caller=Caller(0, 0))
    assert (spec.socket_uid, spec.socket_gid) == (pwd.getpwnam("nobody").pw_uid, 0)
    with pytest.raises(Exception, match="needs a daemon with root's rights") as raised:
        load_oxfile(str(path), environ=environ, caller=Caller(1234, 1234))
    told = str(raised.value).splitlines()
    assert len(told) == (1 if 0 in os.getgroups() else 2)

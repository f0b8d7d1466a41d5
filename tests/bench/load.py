"""`make load-campaign`: real servers under load while their instances are reloaded and killed; what became of each request.

    python -m tests.bench.load [RELOADS [KILLS [SERVER…]]]

Two instances of each, with a held socket, asked by a process with a thread a connection (asker.c), keep-alive on and
off. PM2 does the same with the same Node app. Prints a table, writes build/load.json; ends with 1 if oxmgr has lost a
request.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oxmgr.model.messages import Act
from oxmgr.model.spec import Spec
from tests.bench.__main__ import machine
from tests.conftest import REPOSITORY, Home, wait_until
from tests.integration.test_sockets import free_port

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
BUILD = REPOSITORY / "build"
NODE_APPS = BUILD / "node-apps"
PEERS = BUILD / "peers"
CONNECTIONS = 16
RATE = 400
"""Requests a second, of all connections together: so few that no server is out of breath, on two CPUs that all share."""
PAUSE = 0.1
"""Seconds between what is done, so that it meets servers at work."""
SLOW = 8
"""Connections that ask for what takes 1.2 s, without a pause."""
SLOW_RELOADS = 5

Counts = dict[str, Any]

LOST = ("refused", "reset", "cut", "wrong", "silent")
"""The outcomes of asker.c that are a failure in a reload."""
BROKEN = ("reset", "cut", "raced")
"""Those that a killed process may leave: it had taken the request."""


# --- the load ---


def build(name: str, *flags: str, out: Path | None = None) -> str:
    path = (out or BUILD) / Path(name).stem
    path.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", *flags, "-o", path, HERE / name], check=True
    )
    return str(path)


@contextmanager
def load(
    asker: str, port: int, *, keep: bool, path: str = "/", many: int = CONNECTIONS, rate: int = RATE
) -> Iterator[Counts]:
    """Filled in at the end."""
    counts: Counts = {}
    words = [asker, str(port), path, str(many), str(rate), str(int(keep))]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            yield counts
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate()[0]
    counts |= json.loads(said)


# --- the servers ---


def python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def node(name: str) -> "Callable[[Path, int], Spec]":
    def spec(folder: Path, port: int) -> Spec:
        return served(["node", str(APPS / f"{name}.js")], port, ready="listen")

    return spec


def uvicorn(folder: Path, port: int) -> Spec:
    argv = python("uvicorn", "--fd", "3", "--app-dir", str(APPS), "asgi:app")
    return served(argv, port, ready="log:Application startup complete")


def gunicorn(folder: Path, port: int) -> Spec:
    return served(python("gunicorn", "-w", "4", "--chdir", str(APPS), "wsgi:app"), port, ready="log:Booting worker")


def static(folder: Path, port: int) -> Spec:
    return served([build("apps/serve.c", "-static", out=folder)], port, ready="log:^ready$")


def served(argv: list[str], port: int, **keys: Any) -> Spec:
    env = {"PORT": str(port), "NODE_PATH": str(NODE_APPS / "node_modules")}
    listen = [f"127.0.0.1:{port}"]
    return Spec("web", argv[0], argv, str(APPS), instances=2, listen=listen, env=env, restart_delay_max_ms=0, **keys)


SERVERS: "dict[str, Callable[[Path, int], Spec]]" = {
    "Node http": node("http"),
    "Express": node("express"),
    "Fastify": node("fastify"),
    "uvicorn": uvicorn,
    "gunicorn": gunicorn,
    "static binary": static,
}


# --- what is done to them ---


def pause(seconds: float) -> None:
    select.select([], [], [], seconds)


def reload(home: Home) -> None:
    pause(PAUSE)
    done = home.request(Act("reload", ["web"]))
    assert not done.failed, done.failed


def kill(home: Home, number: int) -> None:
    """One instance of two; until the next one of its number is ready."""
    name = f"web:{number % 2}"
    pid = home.until(name, lambda view: view.ready).pid
    assert pid is not None
    pause(PAUSE)
    os.kill(pid, signal.SIGKILL)
    home.until(name, lambda view: view.pid not in (None, pid) and view.ready)


def lost(counts: Counts, by: str) -> int:
    return sum(counts[outcome] for outcome in LOST if by != "SIGKILL" or outcome not in BROKEN)


class Table:
    def __init__(self) -> None:
        self.rows: list[Counts] = []
        self.lost = 0

    def add(
        self, server: str, by: str, times: int, keep: bool, seconds: float, counts: Counts, path: str = "/"
    ) -> None:
        failed = lost(counts, by)
        row = {
            "server": server,
            "by": by,
            "times": times,
            "keep_alive": keep,
            "path": path,
            "seconds": round(seconds, 1),
        }
        self.rows.append({**row, **counts, "failed": failed})
        if not by.startswith("PM2"):
            self.lost += failed
        print(self.line(self.rows[-1]), flush=True)
        (BUILD / "load.json").write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1) + "\n")

    HEAD = (
        "| server | what is done | keep-alive | answered | failed | raced | cut by the kill | p99 ms | longest ms |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )

    @staticmethod
    def line(row: Counts) -> str:
        killed = row["by"] == "SIGKILL"
        broken = sum(row[one] for one in BROKEN) if killed else ""
        what = f"{row['times']} × {row['by']}" + (", requests of 1.2 s" if row["path"] == "/slow" else "")
        words = [
            row["server"],
            what,
            "on" if row["keep_alive"] else "off",
            row["answered"],
            why_failed(row),
            "" if killed else row["raced"],
            broken,
            row["p99_ms"],
            row["max_ms"],
        ]
        return "| " + " | ".join(map(str, words)) + " |"


def why_failed(row: Counts) -> str:
    kinds = [f"{row[one]} {one}" for one in LOST if row[one] and not (row["by"] == "SIGKILL" and one in BROKEN)]
    return f"{row['failed']} ({', '.join(kinds)})" if kinds else "0"


def with_oxmgr(table: Table, asker: str, server: str, reloads: int, kills: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ox-"))
    home, port = Home(folder), free_port()
    home.guarded = True
    try:
        home.start_daemon()
        done = home.apply(SERVERS[server](folder, port))
        assert not done.failed, (done.failed, home.log("web:0", "err"))
        for keep in (True, False):
            begun = time.monotonic()
            with load(asker, port, keep=keep) as counts:
                for _ in range(reloads):
                    reload(home)
            table.add(server, "reload", reloads, keep, time.monotonic() - begun, counts)
            begun = time.monotonic()
            with load(asker, port, keep=keep, path="/slow", many=SLOW, rate=0) as counts:
                for _ in range(min(SLOW_RELOADS, reloads)):
                    reload(home)
            table.add(server, "reload", min(SLOW_RELOADS, reloads), keep, time.monotonic() - begun, counts, "/slow")
            begun = time.monotonic()
            with load(asker, port, keep=keep) as counts:
                for number in range(kills):
                    kill(home, number)
            table.add(server, "SIGKILL", kills, keep, time.monotonic() - begun, counts)
    finally:
        home.end()
        home.end_cgroups()
        shutil.rmtree(folder)


# --- PM2 ---


def install_pm2() -> str:
    program = PEERS / "node_modules/.bin/pm2"
    if not program.exists():
        words = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(PEERS), "pm2"]
        subprocess.run(words, check=True)
    return str(program)


def with_pm2(table: Table, asker: str, times: int) -> None:
    folder, port = Path(tempfile.mkdtemp(prefix="oxpm2-")), free_port()
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PM2_HOME": str(folder / "home"), "PORT": str(port)}
    program = install_pm2()

    def run(*words: str) -> None:
        subprocess.run([program, *words], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with load(asker, port, keep=False, many=1, rate=0) as counts:
            pause(0.05)
        return bool(counts["answered"])

    try:
        run("start", str(APPS / "http.js"), "--name", "web", "-i", "2")
        wait_until(answers, "PM2's first answer")
        for what in ("reload", "restart"):
            for keep in (True, False):
                begun = time.monotonic()
                with load(asker, port, keep=keep) as counts:
                    for _ in range(times):
                        run(what, "web")
                table.add("Node http", f"PM2 {what}", times, keep, time.monotonic() - begun, counts)
            if what == "reload":
                begun = time.monotonic()
                with load(asker, port, keep=True, path="/slow", many=SLOW, rate=0) as counts:
                    for _ in range(min(SLOW_RELOADS, times)):
                        run(what, "web")
                slow = min(SLOW_RELOADS, times)
                table.add("Node http", f"PM2 {what}", slow, True, time.monotonic() - begun, counts, "/slow")
    finally:
        run("kill")
        shutil.rmtree(folder)


def main(words: list[str]) -> int:
    reloads = int(words[0]) if words else 50
    kills = int(words[1]) if len(words) > 1 else 200
    servers = words[2:]
    asker, table = build("asker.c"), Table()
    print(Table.HEAD, flush=True)
    for server in servers or ("Node http", "PM2", *list(SERVERS)[1:]):
        if server == "PM2":
            with_pm2(table, asker, reloads)
        else:
            with_oxmgr(table, asker, server, reloads, kills // 2)
    return int(table.lost > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

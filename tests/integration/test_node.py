"""Node apps, unchanged: they take held sockets, say when they listen, and speak over Node's own channel.

Express and Fastify are in build/node-apps, where packaging/bootstrap --dev puts them. Next, of 340 MB, is not: its test runs
after `npm install --prefix build/node-apps --no-save next react react-dom`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import oxmgr
from oxmgr.client.launch import daemon_argv
from oxmgr.model.codec import replace
from oxmgr.model.messages import Act, ReplaceDaemon
from oxmgr.model.spec import NEVER, Sandbox, Spec
from oxmgr.supervisor.node import Preload
from tests.conftest import DEADLINE, REPOSITORY, Home, wait_until
from tests.integration.test_notify import later
from tests.integration.test_sockets import ask, free_port, held, inode_of

NODE = shutil.which("node")
APPS = REPOSITORY / "build/node-apps"
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")

SERVE = "require('net').createServer((c) => c.end('x ' + process.pid)).listen"


def node(home: Home, script: str, *listen: str, name: str = "web", ending: str = "js", **keys: Any) -> Spec:
    path = home.folder / f"{name}.{ending}"
    path.write_text(script)
    keys = {"working_dir": str(home.folder), "ready": "listen", "listen": [*listen], **keys}
    return Spec(name, f"node {path}", ["node", str(path)], **keys)


def run(home: Home, script: str, *listen: str, **keys: Any) -> Any:
    """What a script prints as JSON and then ends."""
    home.apply(prune=True)
    home.apply(node(home, script, *listen, ready="started", restart=NEVER, **keys))
    view = home.until("web", lambda view: view.status in ("exited", "errored"))
    assert view.exit_code == 0, home.log("web", "err")
    return json.loads(home.log("web").splitlines()[-1])


FORMS = """
const net = require('net'), http = require('http'), fs = require('fs'), events = require('events');
const { once } = events;
const inodes = Object.fromEntries(process.env.OXMGR_LISTEN.split('|').map((row) => row.split(':').slice(0, 2).reverse()));
const [port, other, path, free] = PLACES;
const forms = {
  port: [port], text: [String(port)], options: [{ port }], textual: [{ port: String(port) }],
  backlog: [port, 7], all: [port, '0.0.0.0'], all6: [port, '::'], callback: [port, () => {}],
  whole: [port, '::', 7, () => {}], signal: [{ port, signal: new AbortController().signal }],
  loopback: [other, '127.0.0.1'], localhost: [{ port: other, host: 'localhost' }], any: [other],
  path: [path], paths: [{ path }],
  none: [], zero: [0], stranger: [free], stranger2: [{ port: free, host: '127.0.0.1' }],
};
(async () => {
  const found = {};
  for (const make of [net, http, require('http2')]) {
    for (const [name, args] of Object.entries(forms)) {
      if (make !== net && !['port', 'path', 'stranger'].includes(name)) continue;
      const server = make.createServer();
      const result = server.listen(...args);
      if (result !== server) throw new Error('listen returns its server');
      await once(server, 'listening');
      const fd = server._handle.fd, ino = String(fs.fstatSync(fd).ino);
      const address = server.address();
      found[name + (make === net ? '' : make === http ? '/http' : '/http2')] =
        [ino in inodes, address && (address.port === undefined ? address : address.address)];
      server.close();
      await once(server, 'close');
    }
  }
  console.log(JSON.stringify(found));
})();
"""


def test_each_form_of_listen_takes_the_socket_that_it_means(home: Home) -> None:
    port, other, path, free = free_port(), free_port(), f"{home.folder}/x.sock", free_port()
    script = FORMS.replace("PLACES", json.dumps([port, other, path, free]))
    # More servers than there are copies would find none left.
    found: dict[str, Any] = {}
    names = [
        "port text options textual backlog".split(),
        "all all6 callback whole signal loopback localhost any path".split(),
        "paths none zero stranger stranger2".split(),
    ]
    for some in names:
        only = f"for (const name of Object.keys(forms)) if (!{json.dumps(some)}.includes(name)) delete forms[name];\n(async"
        found |= run(home, script.replace("(async", only, 1), f"[::]:{port}", f"127.0.0.1:{other}", f"unix:{path}")
    assert {name: what for name, what in found.items() if what != [True, "::"]} == {
        "loopback": [True, "127.0.0.1"],
        "localhost": [True, "127.0.0.1"],
        "any": [True, "127.0.0.1"],
        "path": [True, path],
        "path/http": [True, path],
        "path/http2": [True, path],
        "paths": [True, path],
        "none": [False, "::"],
        "zero": [False, "::"],
        "stranger": [False, "::"],
        "stranger/http": [False, "::"],
        "stranger/http2": [False, "::"],
        "stranger2": [False, "127.0.0.1"],
    }
    assert {"port", "port/http", "port/http2", "text", "whole", "signal", "all", "all6"} <= set(found)


def test_all_else_of_a_server_stays_as_it_is(home: Home) -> None:
    script = """
const net = require('net');
const { once } = require('events');
const port = PORT, found = {};
(async () => {
  const one = net.createServer().listen(port);
  await once(one, 'listening');
  const two = net.createServer().listen(port);
  found.second = (await once(two, 'error'))[0].code;
  try { one.listen(port); } catch (error) { found.again = error.code; }
  const local = net.createServer().listen(port, '127.0.0.1');
  found.narrower = (await once(local, 'error'))[0].code;
  try { net.createServer().listen(70000); } catch (error) { found.range = error.code; }
  try { net.createServer().listen({}); } catch (error) { found.nothing = error.code; }
  found.key = one._connectionKey; found.name = net.Server.prototype.listen.name; found.length = one.listen.length;
  one.unref();
  one.close();
  await once(one, 'close');
  const three = net.createServer((c) => c.end()).listen({ port, signal: AbortSignal.timeout(50) });
  await once(three, 'close');
  found.aborted = three.listening;
  const four = net.createServer((c) => c.end('hello')).listen(port);
  await once(four, 'listening');
  const client = net.connect(port, '127.0.0.1');
  found.answer = String((await once(client, 'data'))[0]);
  four.unref();
  console.log(JSON.stringify(found));
})();
"""
    port = free_port()
    assert run(home, script.replace("PORT", str(port)), f"[::]:{port}") == {
        "second": "EADDRINUSE",
        "again": "ERR_SERVER_ALREADY_LISTEN",
        "narrower": "EADDRINUSE",
        "range": "ERR_SOCKET_BAD_PORT",
        "nothing": "ERR_INVALID_ARG_VALUE",
        "key": f"6::::{port}",
        "name": "",
        "length": 0,
        "aborted": False,
        "answer": "hello",
    }


CLUSTER = """
const cluster = require('cluster');
if (cluster.isPrimary) { cluster.fork(); cluster.fork(); setInterval(() => {}, 1000); }
else SERVE(PORT);
"""
FORK = """
if (process.argv[2] === 'child') SERVE(PORT);
else require('child_process').fork(__filename, ['child']);
"""
SPAWN = """
if (process.argv[2] === 'child') SERVE(PORT);
else require('child_process').spawn('sh', ['-c', `node ${__filename} child & wait`], { stdio: 'inherit' });
"""
THREAD = """
const { Worker, isMainThread } = require('worker_threads');
if (isMainThread) new Worker(__filename);
else SERVE(PORT);
"""
PLAIN = "SERVE(PORT)"
MODULE = """
import net, { createServer } from 'node:net';
createServer((c) => c.end('x ' + process.pid)).listen({ port: PORT });
"""


@pytest.mark.parametrize(
    ("script", "ending"),
    [(CLUSTER, "js"), (FORK, "js"), (SPAWN, "js"), (THREAD, "js"), (PLAIN, "cjs"), (MODULE, "mjs")],
    ids=["cluster", "fork", "spawn", "thread", "commonjs", "module"],
)
def test_whoever_of_it_listens_has_the_socket(home: Home, script: str, ending: str) -> None:
    port = free_port()
    text = script.replace("SERVE", SERVE).replace("PORT", str(port))
    spec = node(home, text, f"127.0.0.1:{port}", ending=ending, restart_delay_max_ms=0)
    done = home.apply(spec)
    assert not done.failed, home.log("web", "err")
    first, before = ask(("127.0.0.1", port))[1], inode_of(home)
    os.kill(home.pid("web"), signal.SIGKILL)
    home.until("web", lambda view: view.restarts == 1 and view.ready)
    assert ask(("127.0.0.1", port))[1] != first
    assert before in held(home.pid("web"))


def test_who_removes_its_file_before_it_listens_has_one_of_its_own(home: Home) -> None:
    path = f"{home.folder}/x.sock"
    script = f"require('fs').unlinkSync('{path}'); {SERVE}('{path}')"
    assert not home.apply(node(home, script, f"unix:{path}", stop_timeout_ms=60_000)).failed
    view = home.until("web", lambda view: view.ready)
    assert ask(path)[1] == view.pid and any("is not held" in text for text in view.warnings)
    home.request(Act("restart", ["web"]))
    assert ask(path)[1] == home.until("web", lambda view: view.ready).pid != view.pid


TERMINATE = """
const { Worker, isMainThread, parentPort } = require('worker_threads');
const { once } = require('events');
const net = require('net');
const inodes = process.env.OXMGR_LISTEN.split(':')[1];
async function serve() {
  const server = net.createServer().listen(PORT, '127.0.0.1');
  await once(server, 'listening');
  return String(require('fs').fstatSync(server._handle.fd).ino) === inodes;
}
(async () => {
  if (!isMainThread) return parentPort.postMessage(await serve());
  const found = [];
  for (let i = 0; i < 3; i++) {
    const worker = new Worker(__filename);
    found.push((await once(worker, 'message'))[0]);
    await worker.terminate();
  }
  found.push(await serve());
  console.log(JSON.stringify(found));
  process.exit();
})();
"""


def test_what_a_thread_had_that_was_terminated_can_be_taken_again(home: Home) -> None:
    port = free_port()
    assert run(home, TERMINATE.replace("PORT", str(port)), f"127.0.0.1:{port}") == [True] * 4


def test_through_npm(home: Home) -> None:
    if not shutil.which("npm"):
        pytest.skip("needs npm")
    port = free_port()
    (home.folder / "package.json").write_text('{"scripts": {"start": "node server.js"}}')
    (home.folder / "server.js").write_text(f"{SERVE}({port})")
    spec = Spec("web", "npm start", ["npm", "start"], str(home.folder), listen=[f"[::]:{port}"], ready="listen")
    done = home.apply(spec)
    assert not done.failed, home.log("web", "err")
    assert ask(("127.0.0.1", port))[1] != home.pid("web")


def test_what_the_user_has_in_node_options_stays(home: Home) -> None:
    (home.folder / "his own.cjs").write_text("globalThis.his = 1")
    port = free_port()
    script = "console.log(JSON.stringify([globalThis.his, process.execArgv, require('v8').getHeapStatistics().heap_size_limit]))"
    options = f'--require "{home.folder}/his own.cjs" --max-old-space-size=64'
    found = run(home, script, f"127.0.0.1:{port}", env={"NODE_OPTIONS": options})
    assert found[:2] == [1, []] and found[2] < 200_000_000


def test_an_app_without_listen_has_nothing_of_it(home: Home) -> None:
    script = "console.log(JSON.stringify([process.env.NODE_OPTIONS === undefined, process.send === undefined]))"
    assert run(home, script) == [True, True]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_with_another_user(home: Home) -> None:
    port = free_port()
    os.chmod(home.folder, 0o711)
    spec = node(home, f"{SERVE}({port})", f"127.0.0.1:{port}", sandbox=Sandbox(uid=65534, gid=65534, private_tmp=False))
    (home.folder / "web.js").chmod(0o644)
    done = home.apply(spec)
    assert not done.failed, (done, home.log("web", "err"))
    assert ask(("127.0.0.1", port))[1] == home.pid("web")


def test_who_cannot_read_the_file_gets_a_copy_or_is_told(home: Home, tmp_path: Path) -> None:
    spec = node(home, "", "127.0.0.1:1", sandbox=Sandbox(uid=65534, gid=65534))
    preload = Preload(home.places)
    preload._own = str(tmp_path / "preload.cjs")
    shutil.copy(Path(oxmgr.__file__).parent / "node/preload.cjs", preload._own)
    os.chmod(tmp_path, 0o700)
    assert preload.place(spec)[0] == "" and "neither" in preload.place(spec)[1]
    for folder in (home.folder, Path(home.places.run)):
        os.chmod(folder, 0o711)
    path, why = preload.place(spec)
    assert (path, why) == (f"{home.places.run}/preload.cjs", "")
    assert Path(path).read_bytes() == Path(preload._own).read_bytes() and os.stat(path).st_mode & 0o777 == 0o644


# --- Node's channel ---


def test_an_app_says_that_it_is_ready(home: Home) -> None:
    go = home.folder / "go"
    script = f"""
const fs = require('fs');
process.send({{ready: 'not yet'}}); process.send('ready?'); process.send('x'.repeat(1000000));
setInterval(() => {{ if (fs.existsSync({json.dumps(str(go))})) process.send('ready'); }}, 5);
"""
    later(home, node(home, script, ready="node"))
    wait_until(lambda: "web" in home.views(), "it to be there")
    pid = home.until("web", lambda view: view.pid).pid
    assert home.views()["web"].status == "starting"
    go.touch()
    assert home.until("web", lambda view: view.ready).pid == pid


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_flood_costs_bounded_memory_and_cpu_and_others_go_on(home: Home, size: int) -> None:
    """Of small messages, one after the other, and of large ones."""
    script = f"""
process.send('ready');
const text = 'x'.repeat({size});
const more = () => {{ for (let i = 0; i < 50; i++) process.send(text); setImmediate(more); }};
more();
"""
    other = home.sh("other", "exec sleep 1000", restart_delay_max_ms=0)
    home.apply(node(home, script, ready="node"), other)
    daemon = home.about_daemon().pid
    before, began = cpu_of(daemon), time.monotonic()
    # Others are served meanwhile: each is restarted at once.
    for _ in range(10):
        pid = home.pid("other")
        os.kill(pid, 9)
        home.until("other", lambda view, pid=pid: view.pid not in (None, pid))  # type: ignore[misc]
    wait_until(lambda: time.monotonic() > began + 2, "two seconds of the flood")
    asked = time.monotonic()
    home.views()
    assert time.monotonic() - asked < 5
    home.apply(prune=True)
    assert (cpu_of(daemon) - before) / (time.monotonic() - began) < 0.5
    status = Path(f"/proc/{daemon}/status").read_text()
    assert next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) < 64 * 1024


def cpu_of(pid: int) -> float:
    """Seconds (Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize("how", ["killed", "reexec"])
def test_the_channel_outlives_the_daemon(empty_home: Home, how: str) -> None:
    home, go = empty_home, empty_home.folder / "go"
    home.guarded = True
    home.start_daemon()
    script = f"""
const fs = require('fs');
process.on('message', (m) => {{ fs.writeFileSync({json.dumps(str(home.folder / "said"))}, JSON.stringify(m)); process.exit(0); }});
process.on('disconnect', () => process.exit(9));
const timer = setInterval(() => {{ if (fs.existsSync({json.dumps(str(go))})) {{ process.send('ready'); clearInterval(timer); }} }}, 5);
"""
    later(home, node(home, script, ready="node", shutdown_with_message=True))
    wait_until(lambda: "web" in home.views(), "it to be there")
    pid = home.until("web", lambda view: view.pid).pid
    if how == "killed":
        home.kill_guarded()
    else:
        home.request(ReplaceDaemon(daemon_argv()))
    go.touch()
    assert home.until("web", lambda view: view.ready).pid == pid
    begun = time.monotonic()
    home.request(Act("stop", ["web"]))
    assert time.monotonic() - begun < 5 and (home.folder / "said").read_text() == '"shutdown"'


def test_a_stop_by_message_falls_back_to_the_signal_and_ends_by_force(home: Home) -> None:
    home.apply(
        node(home, "process.disconnect(); setInterval(() => {}, 1000)", ready="started", shutdown_with_message=True)
    )
    wait_until(lambda: not [one for one in held(home.pid("web")) if one], "it to disconnect")
    home.request(Act("stop", ["web"]))
    assert home.views()["web"].signal == "SIGTERM"
    deaf = "process.on('message', () => {}); setInterval(() => {}, 1000)"
    home.apply(node(home, deaf, ready="started", shutdown_with_message=True, stop_timeout_ms=300))
    home.request(Act("stop", ["web"]))
    assert home.views()["web"].signal == "SIGKILL"


# --- under load ---


class Load:
    """Clients in threads, a request a connection, each told apart: answered, cut off, refused."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.port = port
        self.answered = self.cut = 0
        self.refused: list[str] = []
        self.by: set[bytes] = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask_on(self) -> None:
        while not self._over.is_set():
            try:
                asking = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
            except OSError as error:
                self.refused.append(str(error))
                continue
            with asking:
                try:
                    asking.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    data = b""
                    while more := asking.recv(4096):
                        data += more
                except ConnectionError:
                    data = b""
                except TimeoutError:
                    self.refused.append("no answer")
                    continue
            if data.startswith(b"HTTP/1.1 200"):
                self.answered += 1
                self.by.add(data.rpartition(b"\r\n")[2])
            else:
                self.cut += 1

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


HTTP = "require('http').createServer((q, r) => r.end(String(process.pid))).listen(PORT)"
EXPRESS = """
const app = require('express')();
app.get('/', (q, r) => r.send(String(process.pid)));
app.listen(PORT);
"""
FASTIFY = """
const app = require('fastify')();
app.get('/', async () => String(process.pid));
app.listen({ port: PORT, host: '127.0.0.1' });
"""
FASTIFY_LOCALHOST = FASTIFY.replace(", host: '127.0.0.1'", "")


@pytest.mark.parametrize(
    ("script", "kills"),
    [(HTTP, 200), (EXPRESS, 30), (FASTIFY, 30), (FASTIFY_LOCALHOST, 10)],
    ids=["http", "express", "fastify", "fastify-localhost"],
)
def test_nobody_is_refused_while_instances_are_killed(home: Home, script: str, kills: int) -> None:
    port = free_port()
    spec = node(home, script.replace("PORT", str(port)), f"127.0.0.1:{port}", instances=2, restart_delay_max_ms=0)
    spec = replace(spec, env={"NODE_PATH": f"{APPS}/node_modules"})
    assert not home.apply(spec).failed
    load = Load(port)
    try:
        for number in range(kills):
            name = f"web:{number % 2}"
            pid = home.until(name, lambda view: view.ready).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            answered = load.answered
            wait_until(lambda answered=answered: load.answered > answered, "it to answer")  # type: ignore[misc]
            home.until(name, lambda view, pid=pid: view.pid not in (None, pid))  # type: ignore[misc]
    finally:
        load.end()
    print(f"{load.answered} answered, {load.cut} cut off, {len(load.refused)} refused")
    assert load.refused == [] and load.answered > kills and len(load.by) > 2


def test_nobody_is_refused_or_cut_off_while_instances_are_replaced(home: Home) -> None:
    port = free_port()
    script = f"""
const server = require('http').createServer((q, r) => setTimeout(() => r.end(String(process.pid)), 20)).listen({port});
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"""
    assert not home.apply(node(home, script, str(f"[::]:{port}"), instances=2)).failed
    load = Load(port)
    try:
        for _ in range(10):
            assert not home.request(Act("reload", ["web"])).failed
    finally:
        load.end()
    print(f"{load.answered} answered, {load.cut} cut off, {len(load.refused)} refused")
    assert (load.refused, load.cut) == ([], 0) and len(load.by) >= 20


NEXT = {
    "package.json": '{"scripts": {"build": "next build", "start": "next start"}}',
    "pages/index.js": "export default function Home({ pid }) { return pid }\nexport const getServerSideProps = async () => ({ props: { pid: String(process.pid) } })\n",
}


def test_next(home: Home) -> None:
    next_program = APPS / "node_modules/next/dist/bin/next"
    if not next_program.exists():
        pytest.skip("Next is large: make next-test")
    # Beside its libraries: they may not lie above the folder that is built.
    folder = Path(tempfile.mkdtemp(dir=APPS))
    try:
        build_next(next_program, folder)
        serve_next(home, next_program, folder)
    finally:
        home.apply(prune=True)
        shutil.rmtree(folder)


def build_next(program: Path, folder: Path) -> None:
    (folder / "pages").mkdir()
    for name, text in NEXT.items():
        (folder / name).write_text(text)
    build = subprocess.run(
        ["node", str(program), "build"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert build.returncode == 0, build


def serve_next(home: Home, program: Path, folder: Path) -> None:
    port = free_port()
    argv = ["node", str(program), "start", "-p", str(port)]
    spec = Spec("web", "next start", argv, str(folder), listen=[f"[::]:{port}"], ready="listen", restart_delay_max_ms=0)
    assert not home.apply(spec).failed, home.log("web", "err")
    load = Load(port, 2)
    try:
        for _ in range(5):
            pid = home.until("web", lambda view: view.ready).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            home.until("web", lambda view, pid=pid: view.pid not in (None, pid))  # type: ignore[misc]
        answered = load.answered
        wait_until(lambda: load.answered > answered, "it to answer")
    finally:
        load.end()
    assert load.refused == []

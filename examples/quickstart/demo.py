"""`make run`: starts the two instances of this folder's oxfile, kills one, and tells what a client saw of it."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OXMGR = str(Path(sys.executable).with_name("oxmgr"))
HOME = Path(os.environ["OXMGR_HOME"])
PORT = 3000
DEADLINE = 20.0


def fail(why: str) -> None:
    sys.exit(f"the quickstart did not work: {why}")


def oxmgr(*words: str) -> str:
    """What the command prints; shown as a person would type it."""
    print(f"$ oxmgr {' '.join(words)}", flush=True)
    done = subprocess.run([OXMGR, *words], stdout=subprocess.PIPE, text=True, check=False, cwd=HERE)
    if done.returncode:
        print(done.stdout)
        fail(f"oxmgr {words[0]} ended with {done.returncode}")
    return done.stdout


def instances() -> list[dict[str, object]]:
    # Without a daemon it says so on stderr, which is no news here.
    done = subprocess.run([OXMGR, "list", "--json"], capture_output=True, text=True, check=False)
    return [one for one in json.loads(done.stdout or "[]") if one["app"] == "api"]


def ask(port: int) -> int | None:
    """The pid that answers there, or None."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := client.recv(4096):
                answer += data
    except OSError:
        return None
    body = answer.rpartition(b"\r\n\r\n")[2].strip()
    return int(body) if body.isdigit() else None


def wait_for(port: int, other_than: int | None = None) -> int:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        pid = ask(port)
        if pid is not None and pid != other_than:
            return pid
        select.select([], [], [], 0.002)
    fail(f"nobody answers on port {port} after {DEADLINE:.0f} s: see oxmgr logs api")
    raise AssertionError


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_file() -> tuple[Path, int]:
    """The oxfile for this machine, and its port: the file as it is, or with another port where 3000 is taken."""
    file = HERE / ("oxfile.toml" if shutil.which("node") else "oxfile.python.toml")
    ours = any(one["pid"] for one in instances())
    if ours or (is_free(PORT) and is_free(PORT + 1)):
        return file, PORT
    port = next(port for port in range(PORT + 10, PORT + 1000, 2) if is_free(port) and is_free(port + 1))
    text = file.read_text().replace(f'"{PORT}"', f'"{port}"')
    text = text.replace("[processes.api]", f'[processes.api]\nworking_dir = "{HERE}"')
    HOME.mkdir(0o700, parents=True, exist_ok=True)
    other = HOME / "oxfile.toml"
    other.write_text(text)
    print(f"port {PORT} is taken, so this is {file.name} with port {port}")
    return other, port


def main() -> None:
    file, port = choose_file()
    if any(one["pid"] for one in instances()):
        # An earlier run's; its port is in its environment.
        env = dict(line.split("=", 1) for line in oxmgr("env", "api").splitlines())
        port = int(env["PORT"])
    else:
        print(oxmgr("start", "--config", str(file.relative_to(HERE) if file.parent == HERE else file)), end="")
    wait_for(port + 1)
    victim = wait_for(port)
    print(oxmgr("list"), end="")

    # So that a crash in an earlier run does not make this one wait longer.
    oxmgr("reset", "api")
    print(f"$ kill -9 {victim}", flush=True)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    heir = wait_for(port, victim)
    away = (time.monotonic() - killed) * 1000
    print(oxmgr("list"), end="")
    back = next((one for one in instances() if one["pid"] == heir), None)
    if back is None or not back["restarts"]:
        fail("the table does not show the restart")
    print(
        f"\napi:0 was killed as pid {victim} and is back as pid {heir}. A client saw it away for {away:.0f} ms:\n"
        "100 ms are the restart_delay_ms of the oxfile, the rest is the app's own start and under 2 ms of oxmgr.\n"
        f"\nIt goes on running: http://127.0.0.1:{port} and {port + 1}. What to type next:\n"
        f"  export OXMGR_HOME={HOME} PATH={Path(OXMGR).parent}:$PATH\n"
        '  oxmgr list\n  oxmgr logs api -f\n  oxmgr restart api\n  oxmgr start "sleep 1000" --name mine\n'
        "  make stop"
    )


if __name__ == "__main__":
    main()

"""msgspec's core loaded alone, as the command and the daemon have it, against msgspec as its authors load it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oxmgr.client.launch import daemon_argv

SCRIPT = """
import json, sys
if {full}:
    import msgspec
from oxmgr.model import codec, messages, spec
assert ("typing" in sys.modules) == {full}, "this is the one that it should be"

def refusal(kind, value, convert=False):
    try:
        return repr(codec.convert(value, kind) if convert else codec.Decoder(kind).decode(value))
    except codec.DecodeError as error:
        return f"{{type(error).__name__}}: {{error}}"

one = spec.Spec("app", "sleep 1", ["sleep", "1"], "/", env={{"A": "é"}}, restart_window_secs=1.5, depends_on={{"b": "exited"}})
view = messages.InstanceView(*[""] * len(messages.InstanceView.__struct_fields__))
said = [
    messages.Apply([one], b"A=1\\0", True),
    messages.Act("stop", ["a", "b"], None),
    messages.Scale("a", -1, True),
    messages.GetInstances(),
    messages.Done([messages.Change("a", "add", ["env"])], [], {{"a": "why"}}, ["w"]),
    messages.Event(1, 2.5, "started", "a", exit_code=0),
    messages.Observed("a", 3, "running", signal=9),
    messages.SavedApp(one, "0", [1]),
    messages.EventsEnd(),
]
packed = [codec.encode(value) for value in said]
unions = [messages.Request, messages.Reply, messages.Saved, messages.Journaled]
out = {{
    "packed": [data.hex() for data in packed],
    "decoded": [refusal(union, data) for union in unions for data in packed],
    "torn": [refusal(union, data[:cut]) for union in unions for data in packed for cut in range(0, len(data), 7)],
    "wrong": [
        refusal(messages.Request, codec.encode(value))
        for value in (1, None, [], {{}}, {{"type": 1}}, {{"type": "act"}}, {{"type": "act", "verb": 1, "targets": []}},
                      {{"type": "act", "verb": "stop", "targets": [1]}}, {{"type": "nope"}},
                      {{"type": "apply", "specs": [{{"name": 1}}]}})
    ],
    "converted": [refusal(spec.Spec, value, True) for value in (
        {{"name": "a", "command": "b", "argv": ["b"], "working_dir": "/"}},
        {{"name": "a", "command": "b", "argv": ["b"], "working_dir": "/", "instances": "2"}}, {{}}, 1)],
    "replaced": repr(codec.replace(one, instances=2)),
    "dict": repr(codec.asdict(one)),
    "builtins": repr(codec.to_builtins(said[4])),
    "json": codec.format_json(codec.encode_json([view, {{"a": 1.5, "b": None}}]), indent=2).decode(),
    "equal": one == codec.replace(one, instances=1) != codec.replace(one, instances=2),
    "frozen": [type(error).__name__ for error in [None]],
}}
print(json.dumps(out))
"""


def outcome(*, full: bool) -> dict[str, object]:
    """In a bare interpreter, with the folders that the daemon gets."""
    argv = daemon_argv()
    folders = argv[argv.index("supervise") + 1].split(":")
    script = f"import sys; sys.path[:0] = {folders!r}\n" + SCRIPT.format(full=full)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_core_alone_does_what_all_of_msgspec_does() -> None:
    bare, full = outcome(full=False), outcome(full=True)
    assert bare == full
    refused = [text for text in full["wrong"] if not str(text).startswith("ValidationError")]  # type: ignore[attr-defined]
    assert refused == []


def test_a_core_that_does_not_fit_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "msgspec").mkdir()
    (tmp_path / "msgspec" / "__init__.py").write_text("")
    (tmp_path / "msgspec" / "_core.py").write_text(
        "class StructMeta(type): pass\nclass Struct: pass\n"
        "StructMeta = lambda *a: (lambda *v: v)\nmsgpack_encode = lambda v: b''\n"
        "class MsgpackDecoder:\n    def __init__(self, t): pass\n    def decode(self, b): return None\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {root!r}]; import oxmgr.model.codec"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "install msgspec 0.20 to 0.22" in done.stderr


@pytest.mark.parametrize("module", ["oxmgr.model.codec"])
def test_without_msgspec_it_says_so(module: str, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    script = f"import sys; sys.path.insert(0, {root!r}); import {module}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "msgspec is not installed: pip install msgspec" in done.stderr

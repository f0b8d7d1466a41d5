"""What the daemon is made of."""

import subprocess
import sys

from oxmgr.client.launch import daemon_argv
from tests.conftest import Home


def test_the_daemon_imports_what_it_may_and_nothing_else(home: Home) -> None:
    """Reads the daemon's own list of loaded libraries and Python files."""
    assert home.daemon is not None
    script = (
        "import sys\n"
        f"sys.path[1:1] = {[*daemon_argv()[5].split(':')]!r}\nimport oxmgr.supervisor.daemon\nprint('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    allowed = {
        "sys", "builtins", "_frozen_importlib", "_imp", "_thread", "_warnings", "_weakref", "_io", "marshal", "posix",
        "_frozen_importlib_external", "time", "zipimport", "_codecs", "codecs", "encodings", "encodings.aliases",
        "encodings.utf_8", "_signal", "_abc", "abc", "io", "__main__", "os", "os.path", "posixpath", "genericpath", "stat",
        "_stat", "_collections_abc", "_datetime", "datetime", "types", "msgspec", "msgspec._core", "fcntl", "resource",
        "_prctl", "_cffi_backend", "select", "heapq", "_heapq", "_socket", "binascii", "errno", "_bisect", "_tokenize",
        "_distutils_hack", "warnings", "zlib",
    }  # fmt: skip
    strangers = {name for name in loaded if not name.startswith("oxmgr") and name not in allowed}
    assert not strangers
    assert not {name for name in loaded if name.startswith(("oxmgr.cli", "oxmgr.config", "oxmgr.client"))}

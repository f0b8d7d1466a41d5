"""A daemon that may have too few files open to do anything: what is said, and what to do."""

import subprocess

import pytest

from tests.conftest import Home, wait_until
from tests.integration.conftest import COMMAND, Ox


@pytest.mark.parametrize("files", [8, 16, 63])
def test_a_limit_that_no_daemon_can_live_with_is_told_with_what_to_do(empty: Ox, files: int) -> None:
    ox = empty
    words = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", COMMAND, "start", "sleep 1000"]
    done = subprocess.run(words, cwd=ox.folder, env=ox.env, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and ox.daemon() is None
    assert f"only {files} files may be open here" in done.stderr and "`ulimit -n 4096`" in done.stderr


@pytest.mark.parametrize("files", range(13, 17))
def test_a_daemon_that_runs_out_of_files_at_its_start_says_what_to_do(empty_home: Home, files: int) -> None:
    with pytest.raises(AssertionError, match=r"Too many open files: it may have .*; raise the limit, with `ulimit -n`"):
        empty_home.start_daemon(nofile=files)
    assert empty_home.daemon is not None
    wait_until(lambda: empty_home.daemon.poll() is not None, "its end")  # type: ignore[union-attr]

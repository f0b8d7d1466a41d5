"""The formatter under AddressSanitizer and UndefinedBehaviorSanitizer, with bytes that are not chosen by its author;
`make fuzz` goes on for longer."""

import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def test_random_bytes_in_any_cutting_give_the_same_lines_and_no_step_over_an_edge(tmp_path: Path) -> None:
    program = tmp_path / "fuzz"
    sources = [REPOSITORY / "tests/faults/fuzz_format.c", REPOSITORY / "csrc/format.c"]
    subprocess.run(["cc", *FLAGS, "-o", program, *sources], check=True)
    subprocess.run([program, "10000"], check=True)

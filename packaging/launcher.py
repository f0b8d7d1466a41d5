"""Writes .venv/bin/oxmgr: a start without `site`, which is 5 ms faster than the one that pip writes."""

import sys
import sysconfig
from pathlib import Path

LINE_LIMIT = 255  # of a `#!` line, execve(2)

repository = Path(__file__).resolve().parent.parent
first = f"#!{sys.executable} -IS"
script = f"""{first}
import sys
sys.path[1:1] = [{str(repository)!r}, {sysconfig.get_path("purelib")!r}]
from oxmgr.__main__ import main
sys.exit(main())
"""
if " " not in sys.executable and len(first) <= LINE_LIMIT:
    Path(sys.executable).with_name("oxmgr").write_text(script)

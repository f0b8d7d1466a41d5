"""Builds oxmgr/_native from the C files here. oxmgr.h is the one declaration of what Python may call.

With OXMGR_SANITIZE=1 in the environment: with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
# setuptools wants paths relative to setup.py.
SOURCES = sorted(f"csrc/{path.name}" for path in HERE.glob("*.c") if path.name not in ("guard.c", "shim.c"))
DECLARATIONS = (HERE / "oxmgr.h").read_text().partition("/* cdef begin */")[2].partition("/* cdef end */")[0]

SANITIZE = (
    ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] if os.environ.get("OXMGR_SANITIZE") else []
)

ffi = FFI()
ffi.cdef(DECLARATIONS)
ffi.set_source(
    "oxmgr._native",
    '#include "oxmgr.h"',
    sources=SOURCES,
    depends=["csrc/oxmgr.h", "csrc/spawn.h", "csrc/lines.h"],
    include_dirs=[str(HERE)],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=[
        "-std=gnu11",
        "-fvisibility=hidden",
        *(["-O1", "-g", "-fno-omit-frame-pointer"] if SANITIZE else ["-O2"]),
        *SANITIZE,
    ],
    extra_link_args=SANITIZE,
)

"""Builds the extension, and beside it the guard, which is a program of its own, and what is loaded into apps."""

import os

from setuptools import setup
from setuptools.command.build_ext import build_ext

GUARD = "oxmgr-guard"
# Without a C library where csrc/bare.h knows how, else with a static one, else with the system's.
WAYS = (
    ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie"],
    ["-static", "-DOX_LIBC"],
    ["-DOX_LIBC"],
)
SHIM = "oxmgr-shim.so"
SHIM_WAYS = (
    ["-shared", "-fPIC", "-nostdlib", "-fno-stack-protector", "-fvisibility=hidden"],
    ["-shared", "-fPIC", "-DOX_LIBC", "-fvisibility=hidden"],
)
SANITIZED = (["-DOX_LIBC", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],)


class Build(build_ext):
    def run(self) -> None:
        super().run()
        folder = os.path.dirname(self.get_ext_fullpath("oxmgr._native"))
        self.build("csrc/guard.c", os.path.join(folder, GUARD), SANITIZED if os.environ.get("OXMGR_SANITIZE") else WAYS)
        self.build("csrc/shim.c", os.path.join(folder, SHIM), SHIM_WAYS)

    def build(self, source: str, target: str, ways: "tuple[list[str], ...]") -> None:
        """In the first way that this host has."""
        command = [*self.compiler.compiler_so[:1], "-std=gnu11", "-D_GNU_SOURCE", "-O2", source]
        for way in ways:
            # Renamed into its place: one that runs cannot be written to.
            try:
                self.spawn([*command, *way, "-o", f"{target}.new"])
            except Exception:
                if way is ways[-1]:
                    raise
                continue
            os.rename(f"{target}.new", target)
            return

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), *(os.path.join(self.build_lib, "oxmgr", name) for name in (GUARD, SHIM))]


setup(cffi_modules=["csrc/build.py:ffi"], cmdclass={"build_ext": Build})

"""Gets the kernel that the VM boots: Debian's stock one, unpacked below build/kernel, never installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

METAPACKAGE = "linux-image-amd64"


class CannotGetKernel(Exception):
    """A sentence for the user."""


class Kernel(NamedTuple):
    release: str
    image: Path
    modules: Path


def get_kernel(folder: Path) -> Kernel:
    """The one that is in the folder. The newest of Debian's is put there when there is none, until `make clean`."""
    folder.mkdir(parents=True, exist_ok=True)
    for whole in folder.glob("linux-image-*"):
        return kernel_in(whole)
    print("downloading a kernel for the VM, 70 MB", flush=True)
    # Unpacked aside and renamed at the end, so what has its name is whole, wherever this was interrupted.
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=folder) as aside:
        package = download(Path(aside))
        image = Path(aside) / "image"
        run("dpkg-deb", "-x", str(package), str(image))
        run("depmod", "-b", str(image), kernel_in(image).release)
        return kernel_in(image.rename(folder / package.stem))


def kernel_in(whole: Path) -> Kernel:
    [image] = whole.glob("boot/vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    return Kernel(release, image, whole / "lib" / "modules" / release)


def download(folder: Path) -> Path:
    """The package, named after its version."""
    try:
        fetch(folder)
    except CannotGetKernel:
        # The lists are missing, or older than what the archive still has.
        if os.getuid() != 0:
            raise
        run("apt-get", "update", "-qq")
        fetch(folder)
    [package] = folder.glob("*.deb")
    return package


def fetch(folder: Path) -> None:
    depends = run("apt-cache", "depends", "--important", METAPACKAGE)
    names = [line.removeprefix("Depends:").strip() for line in map(str.strip, depends.splitlines()[1:])]
    if len(names) != 1:
        raise CannotGetKernel(f"{METAPACKAGE} should depend on one package, not on {names}")
    # As root apt would rather download as a user of its own, who may not write here, and warns.
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", names[0], cwd=folder)


def run(*command: str, cwd: Path | None = None) -> str:
    # depmod is in a folder that a user's PATH often lacks.
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    if shutil.which(command[0], path=env["PATH"]) is None:
        raise CannotGetKernel(f"cannot get a kernel for the VM: there is no {command[0]} here, and it takes Debian's")
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotGetKernel(f"cannot get a kernel for the VM: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout

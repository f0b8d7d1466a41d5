"""The sandbox of an app, as the spawn in C takes it, and what its environment says of it."""

import os

from oxmgr.model.capabilities import capability_mask
from oxmgr.model.spec import Sandbox, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Rights(TypedDict):
        """Keywords of native.spawn."""

        mounts: bytes
        nice: int | None
        oom_score_adj: int | None
        uid: int
        gid: int
        groups: list[int]
        capabilities: int | None
        no_new_privileges: bool


TMP_FOLDERS = ("/tmp", "/var/tmp")

# Where NVIDIA's, AMD's (ROCm) and the kernel's own graphics drivers have their devices.
_GPU_PREFIXES = ("nvidia", "kfd", "dri", "dxg")
_NO_GPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "NVIDIA_VISIBLE_DEVICES": "none",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
}


def rights(spec: Spec) -> "Rights":
    sandbox, limits = spec.sandbox, spec.limits
    return {
        "mounts": b"".join(os.fsencode(f"{kind}{path}\0") for kind, path in _mounts(sandbox)),
        "nice": limits.nice,
        "oom_score_adj": limits.oom_score_adj,
        "uid": sandbox.uid,
        "gid": sandbox.gid,
        "groups": sandbox.groups,
        "capabilities": None if sandbox.capabilities is None else capability_mask(sandbox.capabilities),
        "no_new_privileges": sandbox.no_new_privileges,
    }


def mount_words(sandbox: Sandbox, number: int) -> str:
    """What the mount of that number was for."""
    kind, path = _mounts(sandbox)[number]
    return {"r": f"{path} read-only", "t": f"a private {path}"}.get(kind, f"nothing over {path}")


def _mounts(sandbox: Sandbox) -> list[tuple[str, str]]:
    """In this order, so that a private /tmp can be written to although / is read-only."""
    found = [("r", path) for path in sandbox.read_only_paths]
    if sandbox.deny_gpu and os.geteuid() == 0:
        for name in sorted(os.listdir("/dev")):
            if name.startswith(_GPU_PREFIXES):
                path = f"/dev/{name}"
                found.append(("h" if os.path.isdir(path) else "n", path))
    if sandbox.private_tmp:
        found += [("t", path) for path in TMP_FOLDERS if os.path.isdir(path) and not os.path.islink(path)]
    return found


def sandbox_env(sandbox: Sandbox) -> dict[str, str]:
    """What follows the user, and what tells libraries that there is no GPU."""
    env = dict(_NO_GPU) if sandbox.deny_gpu else {}
    if sandbox.user or sandbox.uid >= 0:
        name = sandbox.user or str(sandbox.uid)
        env |= {"USER": name, "LOGNAME": name, "HOME": sandbox.home or "/", "SHELL": sandbox.shell or "/bin/sh"}
    return env


def not_in_force(sandbox: Sandbox) -> list[str]:
    """What this daemon cannot do in full, as words."""
    if sandbox.deny_gpu and os.geteuid():
        return [
            "sandbox.deny_gpu is a request to libraries only: to hide the devices needs a daemon with root's rights"
        ]
    return []

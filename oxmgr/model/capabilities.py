"""Linux capabilities by name: the bits of linux/capability.h."""

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
_BITS = {f"CAP_{name}": bit for bit, name in enumerate(_NAMES)}


def capability_name(text: str) -> str | None:
    """`CAP_NET_RAW` for `CAP_NET_RAW`, `net_raw` and the like; None when there is no such capability."""
    word = text.strip().upper()
    word = word if word.startswith("CAP_") else f"CAP_{word}"
    return word if word in _BITS else None


def capability_names() -> list[str]:
    return list(_BITS)


def capability_mask(names: list[str]) -> int:
    """One bit for each name, all of which are known."""
    return sum(1 << _BITS[name] for name in set(names))

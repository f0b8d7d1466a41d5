"""What the kernel's refusal says to users, with what they can do about it where file descriptors have run out."""

from errno import EMFILE, ENFILE

_HELP = {
    EMFILE: "raise the daemon's limit of open files (`ulimit -n`, or LimitNOFILE= of its unit)",
    ENFILE: "raise the machine's, fs.file-max, with sysctl",
}
"""EMFILE is our own limit, ENFILE the machine's (open(2))."""


def reason(error: OSError) -> str:
    why = error.strerror or str(error)
    help_ = _HELP.get(error.errno or 0)
    return f"{why}: {help_}" if help_ else why

# What `signal` wraps in enums, plain. typeshed has no stub of it.
from signal import pidfd_send_signal as pidfd_send_signal
from signal import signal as signal

SIG_DFL: int
SIGCHLD: int
SIGCONT: int
SIGHUP: int
SIGINT: int
SIGKILL: int
SIGPIPE: int
SIGQUIT: int
SIGRTMAX: int
SIGRTMIN: int
SIGSTOP: int
SIGTERM: int

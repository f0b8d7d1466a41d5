"""The words for what is true of an instance. There are no others."""

STOPPED = "stopped"
WAITING = "waiting"
STARTING = "starting"
RUNNING = "running"
BACKOFF = "backoff"
STOPPING = "stopping"
EXITED = "exited"
ERRORED = "errored"

ALL = (STOPPED, WAITING, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, ERRORED)

DOWN = frozenset({STOPPED, EXITED, ERRORED})
"""No process, and none will come by itself."""

LIVE = frozenset({STARTING, RUNNING, STOPPING})
"""There is a process, or something of one."""

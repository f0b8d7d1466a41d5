"""Which apps are run by Node. Pure."""

from oxmgr.model.spec import Spec

PROGRAMS = frozenset("node nodejs npm npx pnpm yarn tsx ts-node next nuxt".split())
ENDINGS = (".js", ".mjs", ".cjs", ".ts")


def is_node(argv: list[str], command: str) -> bool:
    words = [word.rpartition("/")[2] for word in (*argv, *command.split())]
    return any(word in PROGRAMS or word.endswith(ENDINGS) for word in words)


def is_preloaded(spec: Spec) -> bool:
    """Whether it gets oxmgr/node/preload.cjs, which takes held sockets and tells when the app listens."""
    return (bool(spec.listen) or spec.ready == "listen") and is_node(spec.argv, spec.command)


def has_channel(spec: Spec) -> bool:
    """Whether it is born with an IPC channel, as child_process.fork makes one."""
    return spec.ready == "node" or spec.shutdown_with_message

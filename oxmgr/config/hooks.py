"""`[processes.NAME.hooks]` → Hooks."""

from oxmgr.config.sandbox import Caller, Tell
from oxmgr.model.spec import Hooks


def make_hooks(values: dict[str, object], caller: Caller, tell: Tell) -> Hooks:
    return Hooks(**values)  # type: ignore[arg-type]

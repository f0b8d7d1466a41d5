"""Views to be shown."""

from typing import Any

from oxmgr.model.messages import InstanceView


def view(**keys: Any) -> InstanceView:
    usual: dict[str, Any] = dict.fromkeys(InstanceView.__struct_fields__)
    usual |= {"name": "app", "app": "app", "instance": 0, "namespace": "default", "status": "running", "restarts": 0}
    usual |= {"reason": "", "command": "x", "working_dir": "/", "desired": "running", "log_file": "", "ready": True}
    usual |= {"error_log_file": "", "oom_kills": 0, "limits": {}, "warnings": []}
    return InstanceView(**usual | keys)

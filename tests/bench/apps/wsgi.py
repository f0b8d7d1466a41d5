"""For gunicorn: no framework."""

import os
import time
from collections.abc import Callable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.2)
    body = b"%d\n" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

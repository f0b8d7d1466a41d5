"""`listen = […]`: where an app listens."""

import os

from oxmgr.config.env import expand
from oxmgr.model.listen import MOST, read_address


def read_listen(value: object, folder: str, environ: dict[str, str]) -> list[str]:
    """As the daemon takes it. Paths start from `folder`. ValueError, as a sentence."""
    places: list[str] = []
    found: list[str] = []
    words = value if isinstance(value, list) else [value]
    if len(words) > MOST:
        raise ValueError(f"{len(words)} sockets, {MOST} are the most")
    for word in words:
        if not isinstance(word, str | int) or isinstance(word, bool):
            raise ValueError('expected addresses, as ["127.0.0.1:3000", "unix:/run/api.sock"]')
        one = read_address(_whole_path(str(word), folder, environ))
        if one.place in places:
            raise ValueError(f"{one.place} is there twice")
        places.append(one.place)
        found.append(one.text)
    return found


def _whole_path(text: str, folder: str, environ: dict[str, str]) -> str:
    before, unix, path = text.partition("unix:")
    if not unix or (before and not before.endswith("=")) or not path:
        return text
    return f"{before}unix:{os.path.normpath(os.path.join(folder, expand(path, environ)))}"

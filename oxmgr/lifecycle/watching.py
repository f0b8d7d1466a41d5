"""Which changes in a folder count. Pure.

A pattern is of literal characters, `*` (any run, also of slashes) and `?` (any one). One without a slash is compared
with the name of a file or folder, one with a slash with its path from the watched folder on. What is below an ignored
folder is not looked at. What a spec names to be watched is never ignored itself.
"""

from oxmgr.model.spec import Spec
from oxmgr.model.targets import matches

IGNORED = frozenset((".git", ".hg", ".svn", "node_modules", "__pycache__", "logs", "4913"))
"""4913 is what Vim makes to see whether it may."""
IGNORED_ENDINGS = ("~", ".swp", ".swx", ".swo")
"""Of copies that editors make."""
EMACS_LOCK = ".#"


class Filter:
    """Of one spec."""

    __slots__ = ("_endings", "_names", "_paths", "_plain")

    def __init__(self, spec: Spec) -> None:
        patterns = spec.watch_ignore
        self._plain = IGNORED.union(one for one in patterns if not set(one) & set("*?/"))
        self._names = [one for one in patterns if "/" not in one and one not in self._plain]
        self._paths = [one for one in patterns if "/" in one]
        self._endings = tuple(f".{ending}" for ending in spec.watch_extensions)

    def ignores(self, root: str, path: str) -> bool:
        """Of what is somewhere below root; each folder on the way to it is asked about before."""
        name = path.rpartition("/")[2]
        if name in self._plain or name.endswith(IGNORED_ENDINGS) or name.startswith(EMACS_LOCK):
            return True
        if any(matches(pattern, name) for pattern in self._names):
            return True
        below = path[len(root) :].lstrip("/") if self._paths else ""
        return any(matches(pattern, below) for pattern in self._paths)

    @property
    def has_endings(self) -> bool:
        """Whether only files of some endings count."""
        return bool(self._endings)

    def counts(self, path: str) -> bool:
        """Of a file that is not ignored."""
        return not self._endings or path.endswith(self._endings)


def describe(paths: "list[str]", folder: str, limit: int) -> str:
    """What has changed, in words: the first of the paths, short where it is in the folder. As many as `limit`: perhaps
    there are more."""
    first = paths[0].removeprefix(folder.rstrip("/") + "/")
    others = len(paths) - 1
    if not others:
        return f"{first} has changed"
    plus = " or more" if len(paths) >= limit else ""
    return f"{first} and {others}{plus} other{'' if others == 1 else 's'} have changed"

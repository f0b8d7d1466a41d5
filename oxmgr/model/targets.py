"""What a command acts on: `api`, `api:1`, `@namespace`, `web-*`, `all`. Pure."""


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text fits a pattern of literal characters, `*` (any run) and `?` (any one)."""
    star = -1
    mark = at = here = 0
    while here < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, mark = at, here
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[here]):
            at += 1
            here += 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return pattern[at:].strip("*") == ""


def selects(target: str, app: str, index: int, namespace: str) -> bool:
    """Whether this target means that instance."""
    if target == "all":
        return True
    if target.startswith("@"):
        return matches(target[1:], namespace)
    name, colon, number = target.partition(":")
    return matches(name, app) and (not colon or matches(number, str(index)))

"""Signal names and numbers of Linux, without the `signal` module: its enums cost 3 ms of every command."""

import _signal

_NAMES = {
    value: name
    for name, value in vars(_signal).items()
    if name.startswith("SIG") and not name.startswith("SIG_") and name not in ("SIGCLD", "SIGPOLL", "SIGIOT")
    if isinstance(value, int)
}
_NUMBERS = {name: number for number, name in _NAMES.items()}
_LAST = 64


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; `SIGRTMIN+3` for a real-time signal."""
    name = _NAMES.get(number)
    if name is None and _signal.SIGRTMIN < number < _signal.SIGRTMAX:
        return f"SIGRTMIN+{number - _signal.SIGRTMIN}"
    return name or f"signal {number}"


def signal_number(text: str) -> int | None:
    """The number of `TERM`, `SIGTERM`, `sigterm`, `15` or `RTMIN+3`; None when there is no such signal."""
    word = text.strip().upper()
    if word.isascii() and word.isdigit():
        number = int(word)
        return number if 1 <= number <= _LAST else None
    if not word.startswith("SIG"):
        word = f"SIG{word}"
    base, plus, offset = word.partition("+")
    if plus and base == "SIGRTMIN" and offset.isascii() and offset.isdigit():
        number = int(_signal.SIGRTMIN) + int(offset)
        return number if number <= _signal.SIGRTMAX else None
    return _NUMBERS.get(word)


def signal_names() -> list[str]:
    """Every name, in the order of the numbers."""
    return [_NAMES[number] for number in sorted(_NAMES)]

"""Several logs as one, by time. The lines of one stay in their order, also when a clock was set back."""

from heapq import heapify, heappop, heapreplace

from oxmgr.client.logfile import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def merge(logs: "Iterable[Iterator[Run]]") -> "Iterator[Run]":
    """Oldest first; each of `logs` is."""
    return _merge(logs, 1)


def merge_backward(logs: "Iterable[Iterator[Run]]") -> "Iterator[Run]":
    """Latest first; each of `logs` is. Reversed, it is what merge() gives."""
    return _merge(logs, -1)


def _merge(logs: "Iterable[Iterator[Run]]", sign: int) -> "Iterator[Run]":
    heap: list[tuple[int, int, int, Run, Iterator[Run]]] = []
    for number, log in enumerate(logs):
        run = next(log, None)
        if run is not None:
            heap.append((sign * run.time_ns, sign * run.file.source.rank, number, run, log))
    heapify(heap)
    while len(heap) > 1:
        _, rank, number, run, log = heap[0]
        yield run
        following = next(log, None)
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (sign * following.time_ns, rank, number, following, log))
    if heap:
        yield heap[0][3]
        yield from heap[0][4]

"""Dependencies as a graph: app name → the names it depends on. Pure."""


def find_cycle(graph: dict[str, list[str]]) -> list[str] | None:
    """A cycle as `[a, b, …, a]`, or None. Names that are no keys are leaves."""
    done: set[str] = set()
    for root in graph:
        if root in done:
            continue
        path: list[str] = []
        stack = [(root, iter(graph[root]))]
        path.append(root)
        while stack:
            name, rest = stack[-1]
            for other in rest:
                if other in path:
                    return [*path[path.index(other) :], other]
                if other not in done and other in graph:
                    path.append(other)
                    stack.append((other, iter(graph[other])))
                    break
            else:
                done.add(name)
                path.pop()
                stack.pop()
    return None


def start_order(graph: dict[str, list[str]]) -> list[str]:
    """The keys, dependencies first, otherwise in their own order. ValueError on a cycle."""
    cycle = find_cycle(graph)
    if cycle:
        raise ValueError(" → ".join(cycle))
    order: dict[str, None] = {}
    for root in graph:
        stack = [root]
        while stack:
            name = stack[-1]
            missing = [other for other in graph[name] if other in graph and other not in order]
            if missing:
                stack.extend(reversed(missing))
            else:
                stack.pop()
                order[name] = None
    return list(order)

def build_order(needs: dict[str, list[str]]) -> list[str] | None:
    waiting = {name: set(names) for name, names in needs.items()}
    for names in needs.values():
        for name in names:
            waiting.setdefault(name, set())
    order: list[str] = []
    while waiting:
        ready = [name for name, names in waiting.items() if names <= set(order)]
        if not ready:
            return None
        order.append(min(ready))
        del waiting[order[-1]]
    return order

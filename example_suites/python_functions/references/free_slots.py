def free_slots(busy: list[list[int]], start: int, end: int, least: int) -> list[list[int]]:
    free = []
    for begin, finish in [*sorted(busy), [end, end]]:
        begin = min(begin, end)
        if begin - start >= least:
            free.append([start, begin])
        start = max(start, finish)
    return free

# Mistake: expects the busy spans in order.
def free_slots(busy, start, end, least):
    free = []
    for begin, finish in [*busy, [end, end]]:
        if min(begin, end) - start >= least:
            free.append([start, min(begin, end)])
        start = max(start, finish)
    return free

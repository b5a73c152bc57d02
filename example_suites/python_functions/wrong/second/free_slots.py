# Mistake: a short span within a long one gives time free that is not.
def free_slots(busy, start, end, least):
    free = []
    for begin, finish in [*sorted(busy), [end, end]]:
        if min(begin, end) - start >= least:
            free.append([start, min(begin, end)])
        start = finish
    return free

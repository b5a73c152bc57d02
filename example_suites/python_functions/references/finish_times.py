import heapq


def finish_times(arrivals: list[int], durations: list[int], counters: int) -> list[int]:
    free_at = [0] * counters
    done = []
    for arrival, duration in zip(arrivals, durations, strict=True):
        end = max(arrival, free_at[0]) + duration
        heapq.heapreplace(free_at, end)
        done.append(end)
    return done

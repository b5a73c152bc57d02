# Mistake: customers are served before they arrive.
import heapq


def finish_times(arrivals, durations, counters):
    free_at = [0] * counters
    done = []
    for duration in durations:
        end = heapq.heappop(free_at) + duration
        heapq.heappush(free_at, end)
        done.append(end)
    return done

# Mistake: customers take the counters in turn, also when another one is free.
def finish_times(arrivals, durations, counters):
    free_at = [0] * counters
    done = []
    for number, (arrival, duration) in enumerate(zip(arrivals, durations, strict=True)):
        counter = number % counters
        free_at[counter] = max(free_at[counter], arrival) + duration
        done.append(free_at[counter])
    return done

# Mistake: compares with the reading before, not with the one kept before.
def thin_out(readings, gap):
    if len(readings) < 2:
        return readings
    inner = range(1, len(readings) - 1)
    kept = [readings[place] for place in inner if abs(readings[place] - readings[place - 1]) >= gap]
    return [readings[0], *kept, readings[-1]]

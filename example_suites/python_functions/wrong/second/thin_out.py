# Mistake: forgets to keep the last reading.
def thin_out(readings, gap):
    kept = readings[:1]
    for reading in readings[1:]:
        if abs(reading - kept[-1]) >= gap:
            kept.append(reading)
    return kept

def thin_out(readings: list[int], gap: int) -> list[int]:
    kept = readings[:1]
    for reading in readings[1:-1]:
        if abs(reading - kept[-1]) >= gap:
            kept.append(reading)
    return kept + readings[1:][-1:]

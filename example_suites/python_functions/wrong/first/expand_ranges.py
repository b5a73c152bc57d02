# Mistake: takes the sign of a number for the hyphen of a range.
def expand_ranges(text):
    numbers = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        step = 1 if start <= end else -1
        numbers += range(start, end + step, step)
    return numbers

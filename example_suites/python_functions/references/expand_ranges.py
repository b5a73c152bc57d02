import re


def expand_ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(",") if text.strip() else []:
        first, last = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?", part).groups()
        start, end = int(first), int(last or first)
        step = 1 if start <= end else -1
        numbers += range(start, end + step, step)
    return numbers

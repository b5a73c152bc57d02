# Mistake: a range that goes downwards is empty.
import re


def expand_ranges(text):
    numbers = []
    for first, last in re.findall(r"(-?\d+)(?:\s*-\s*(-?\d+))?", text):
        numbers += range(int(first), int(last or first) + 1)
    return numbers

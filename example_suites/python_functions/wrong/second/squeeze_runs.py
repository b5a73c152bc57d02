# Mistake: keeps one character of a run, and shortens pairs too.
from itertools import groupby


def squeeze_runs(text):
    return "".join(character for character, _ in groupby(text))

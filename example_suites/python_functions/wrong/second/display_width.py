# Mistake: characters that add nothing to a line count as one column.
from unicodedata import east_asian_width


def display_width(text):
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)

from itertools import takewhile
from unicodedata import combining


def initials(name: str) -> str:
    result = ""
    for word in name.split():
        marks = "".join(takewhile(combining, word[1:]))
        result += word[0].upper() + marks + "."
    return result

# Mistake: keeps one combining mark at most.
from unicodedata import combining


def initials(name):
    result = ""
    for word in name.split():
        end = 2 if len(word) > 1 and combining(word[1]) else 1
        result += word[:end].upper() + "."
    return result

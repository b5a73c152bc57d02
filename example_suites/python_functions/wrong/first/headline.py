# Mistake: `title()` begins a new word after an apostrophe.
SMALL = {"A", "An", "And", "In", "Of", "The", "To"}


def headline(title):
    words = title.title().split()
    for place in range(1, len(words) - 1):
        if words[place] in SMALL:
            words[place] = words[place].lower()
    return " ".join(words)

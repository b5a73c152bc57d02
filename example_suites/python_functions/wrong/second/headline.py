# Mistake: forgets that the last word is never small.
SMALL = {"a", "an", "and", "in", "of", "the", "to"}


def headline(title):
    words = title.lower().split()
    return " ".join(
        word if place and word in SMALL else word.capitalize() for place, word in enumerate(words)
    )

SMALL = {"a", "an", "and", "in", "of", "the", "to"}


def headline(title: str) -> str:
    words = title.lower().split()
    ends = (0, len(words) - 1)
    return " ".join(
        word if word in SMALL and place not in ends else word[0].upper() + word[1:]
        for place, word in enumerate(words)
    )

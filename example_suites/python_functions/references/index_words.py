from itertools import groupby


def index_words(documents: dict[str, str]) -> dict[str, list[str]]:
    index: dict[str, list[str]] = {}
    for name in sorted(documents):
        runs = ("".join(run) for letters, run in groupby(documents[name].lower(), str.isalpha) if letters)
        for word in set(runs):
            index.setdefault(word, []).append(name)
    return index

from os.path import commonprefix


def common_ends(words: list[str]) -> list[str]:
    start = commonprefix(words)
    reversed_rests = [word[len(start) :][::-1] for word in words]
    return [start, commonprefix(reversed_rests)[::-1]]

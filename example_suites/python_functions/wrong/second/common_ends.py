# Mistake: goes on after the first difference.
def common_ends(words):
    if not words:
        return ["", ""]

    def shared(texts):
        return "".join(letters[0] for letters in zip(*texts, strict=False) if len(set(letters)) == 1)

    start = shared(words)
    return [start, shared([word[len(start) :][::-1] for word in words])[::-1]]

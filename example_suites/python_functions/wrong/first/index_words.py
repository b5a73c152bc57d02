# Mistake: words end at whitespace only.
def index_words(documents):
    index = {}
    for name, text in sorted(documents.items()):
        for word in set(text.lower().split()):
            index.setdefault(word.strip(".,!?"), []).append(name)
    return index

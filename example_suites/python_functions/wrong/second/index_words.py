# Mistake: names come in the order of the documents, and once for each time the word does.
import re


def index_words(documents):
    index = {}
    for name, text in documents.items():
        for word in re.findall(r"[^\W\d_]+", text.lower()):
            index.setdefault(word, []).append(name)
    return index

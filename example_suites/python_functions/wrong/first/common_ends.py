# Mistake: beginning and end may overlap in a short word.
from os.path import commonprefix


def common_ends(words):
    return [commonprefix(words), commonprefix([word[::-1] for word in words])[::-1]]

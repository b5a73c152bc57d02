# Mistake: names that are equal but for case and accents do not stay in their order.
from unicodedata import combining, normalize


def sort_names(names):
    def bare(name):
        return "".join(character for character in normalize("NFD", name) if not combining(character))

    return sorted(names, key=lambda name: (bare(name).casefold(), name))

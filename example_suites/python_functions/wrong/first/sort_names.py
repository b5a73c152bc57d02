# Mistake: accents are not ignored.
def sort_names(names):
    return sorted(names, key=str.casefold)

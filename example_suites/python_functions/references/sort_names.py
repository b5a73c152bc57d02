from unicodedata import combining, normalize


def sort_names(names: list[str]) -> list[str]:
    def key(name: str) -> str:
        bare = "".join(character for character in normalize("NFD", name) if not combining(character))
        return bare.casefold()

    return sorted(names, key=key)

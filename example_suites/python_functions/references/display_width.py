from unicodedata import category, east_asian_width


def display_width(text: str) -> int:
    columns = 0
    for character in text:
        if category(character) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if east_asian_width(character) in "WF" else 1
    return columns

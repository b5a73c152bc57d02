from string import ascii_lowercase, ascii_uppercase, digits


def shift_code(text: str, by: int) -> str:
    table = {}
    for alphabet in (ascii_lowercase, ascii_uppercase, digits):
        for place, character in enumerate(alphabet):
            table[ord(character)] = alphabet[(place + by) % len(alphabet)]
    return text.translate(table)

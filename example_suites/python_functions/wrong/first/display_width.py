# Mistake: everything outside of ASCII is wide.
def display_width(text):
    return sum(1 if character.isascii() else 2 for character in text)

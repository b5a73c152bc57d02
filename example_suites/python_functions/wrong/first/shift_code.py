# Mistake: takes é for a letter of the alphabet.
def shift_code(text, by):
    result = ""
    for character in text:
        if character.isdigit():
            result += str((int(character) + by) % 10)
        elif character.isalpha():
            base = ord("a") if character.islower() else ord("A")
            result += chr((ord(character) - base + by) % 26 + base)
        else:
            result += character
    return result

# Mistake: moves digits in steps modulo 26.
def shift_code(text, by):
    by %= 26
    result = ""
    for character in text:
        if character in "0123456789":
            result += str((int(character) + by) % 10)
        elif "a" <= character <= "z":
            result += chr((ord(character) - ord("a") + by) % 26 + ord("a"))
        elif "A" <= character <= "Z":
            result += chr((ord(character) - ord("A") + by) % 26 + ord("A"))
        else:
            result += character
    return result

# Mistake: negative numbers come out as 0.
def balanced_ternary(number):
    digits = ""
    while number > 0:
        digit = (number + 1) % 3 - 1
        digits = "0+-"[digit] + digits
        number = (number - digit) // 3
    return digits or "0"

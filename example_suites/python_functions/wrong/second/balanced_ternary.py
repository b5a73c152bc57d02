# Mistake: zero has no digits.
def balanced_ternary(number):
    digits = []
    while number:
        number, digit = divmod(number + 1, 3)
        digits.append("-0+"[digit])
    return "".join(reversed(digits))

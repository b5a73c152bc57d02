def balanced_ternary(number: int) -> str:
    digits = ""
    while number:
        digit = (number + 1) % 3 - 1
        digits = "0+-"[digit] + digits
        number = (number - digit) // 3
    return digits or "0"

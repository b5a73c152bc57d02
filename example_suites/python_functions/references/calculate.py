import re


def calculate(expression: str) -> int | None:
    tokens = re.findall(r"\d+|[-+*/()]", expression)
    tokens.append("")

    def sum_() -> int:
        value = product()
        while tokens[0] in ("+", "-"):
            value += product() if tokens.pop(0) == "+" else -product()
        return value

    def product() -> int:
        value = factor()
        while tokens[0] in ("*", "/"):
            if tokens.pop(0) == "*":
                value *= factor()
            else:
                divisor = factor()
                quotient = abs(value) // abs(divisor)
                value = quotient if (value < 0) == (divisor < 0) else -quotient
        return value

    def factor() -> int:
        token = tokens.pop(0)
        if token == "-":
            return -factor()
        if token == "(":
            value = sum_()
            tokens.pop(0)
            return value
        return int(token)

    try:
        return sum_()
    except ZeroDivisionError:
        return None

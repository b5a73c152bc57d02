# Mistake: works from right to left, so that 10-4-3 is 9.
import re


def calculate(expression):
    tokens = re.findall(r"\d+|[-+*/()]", expression)

    def parse(operators):
        left = parse("*/") if operators == "+-" else factor()
        if tokens and tokens[0] in operators:
            operator = tokens.pop(0)
            right = parse(operators)
            if operator == "/":
                return int(left / right)
            return {"+": left + right, "-": left - right, "*": left * right}[operator]
        return left

    def factor():
        token = tokens.pop(0)
        if token == "-":
            return -factor()
        if token == "(":
            value = parse("+-")
            tokens.pop(0)
            return value
        return int(token)

    try:
        return parse("+-")
    except ZeroDivisionError:
        return None

# Mistake: `//` rounds down, not towards zero.
import re


def calculate(expression):
    if not re.fullmatch(r"[-+*/() \d]*", expression):
        return None
    try:
        return eval(expression.strip().replace("/", "//"))
    except ZeroDivisionError:
        return None

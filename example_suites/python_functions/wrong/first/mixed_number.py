# Mistake: rounds the whole part of a negative number down.
from math import gcd


def mixed_number(numerator, denominator):
    if denominator == 0:
        return "undefined"
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    whole, rest = divmod(numerator, denominator)
    if rest == 0:
        return str(whole)
    common = gcd(rest, denominator)
    fraction = f"{rest // common}/{denominator // common}"
    return f"{whole} {fraction}" if whole else fraction

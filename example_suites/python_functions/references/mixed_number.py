from math import gcd


def mixed_number(numerator: int, denominator: int) -> str:
    if denominator == 0:
        return "undefined"
    sign = "-" if numerator * denominator < 0 else ""
    numerator, denominator = abs(numerator), abs(denominator)
    whole, rest = divmod(numerator, denominator)
    if rest == 0:
        return f"{sign}{whole}"
    common = gcd(rest, denominator)
    fraction = f"{rest // common}/{denominator // common}"
    return f"{sign}{whole} {fraction}" if whole else f"{sign}{fraction}"

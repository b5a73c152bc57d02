# Mistake: forgets to reduce the fraction.
def mixed_number(numerator, denominator):
    if denominator == 0:
        return "undefined"
    sign = "-" if numerator * denominator < 0 else ""
    whole, rest = divmod(abs(numerator), abs(denominator))
    parts = [str(whole)] if whole or not rest else []
    if rest:
        parts.append(f"{rest}/{abs(denominator)}")
    return sign + " ".join(parts)

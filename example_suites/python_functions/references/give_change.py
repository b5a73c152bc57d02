def give_change(stock: list[list[int]], amount: int) -> list[int] | None:
    if amount == 0:
        return []
    if not stock:
        return None
    (value, count), *smaller = stock
    best = None
    for used in range(min(count, amount // value), -1, -1):
        rest = give_change(smaller, amount - used * value)
        if rest is not None and (best is None or used + len(rest) < len(best)):
            best = [value] * used + rest
    return best

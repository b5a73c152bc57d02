def split_bill(cents: int, shares: list[int]) -> list[int]:
    total = sum(shares)
    parts = [cents * share // total for share in shares]
    by_loss = sorted(range(len(shares)), key=lambda place: -(cents * shares[place] % total))
    for place in by_loss[: cents - sum(parts)]:
        parts[place] += 1
    return parts

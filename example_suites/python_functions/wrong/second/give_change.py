# Mistake: there is no end to the coins in stock.
def give_change(stock, amount):
    best = {0: []}
    for total in range(1, amount + 1):
        ways = [[value, *best[total - value]] for value, _ in stock if total - value in best]
        if ways:
            best[total] = min((sorted(way, reverse=True) for way in ways), key=len)
    return best.get(amount)

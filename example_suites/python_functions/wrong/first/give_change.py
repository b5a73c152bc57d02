# Mistake: takes the largest coin that fits, even when that leads nowhere.
def give_change(stock, amount):
    coins = []
    for value, count in stock:
        used = min(count, amount // value)
        coins += [value] * used
        amount -= used * value
    return coins if amount == 0 else None

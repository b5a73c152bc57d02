# Mistake: the cents that are left go to the first ones, not to those who lost most.
def split_bill(cents, shares):
    parts = [cents * share // sum(shares) for share in shares]
    for place in range(cents - sum(parts)):
        parts[place] += 1
    return parts

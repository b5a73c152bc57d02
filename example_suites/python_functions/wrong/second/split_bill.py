# Mistake: rounds everyone's part by itself, so that the parts need not add up.
def split_bill(cents, shares):
    return [round(cents * share / sum(shares)) for share in shares]

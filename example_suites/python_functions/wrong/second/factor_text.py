# Mistake: loses a prime factor that is left at the end.
def factor_text(number):
    factors = []
    prime = 2
    while prime * prime <= number:
        power = 0
        while number % prime == 0:
            number //= prime
            power += 1
        if power:
            factors.append(f"{prime}^{power}" if power > 1 else f"{prime}")
        prime += 1
    return " * ".join(factors) or str(number)

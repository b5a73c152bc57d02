# Mistake: a year has 365 days.
from datetime import date


def age_on(birth, day):
    days = (date.fromisoformat(day) - date.fromisoformat(birth)).days
    return None if days < 0 else days // 365

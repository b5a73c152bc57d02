# Mistake: moves a birthday on 29 February to 28 February.
from datetime import date


def age_on(birth, day):
    born, today = date.fromisoformat(birth), date.fromisoformat(day)
    if today < born:
        return None
    try:
        birthday = born.replace(year=today.year)
    except ValueError:
        birthday = born.replace(year=today.year, day=28)
    return today.year - born.year - (today < birthday)

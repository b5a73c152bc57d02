from datetime import date


def age_on(birth: str, day: str) -> int | None:
    born, today = date.fromisoformat(birth), date.fromisoformat(day)
    if today < born:
        return None
    before_birthday = (today.month, today.day) < (born.month, born.day)
    return today.year - born.year - before_birthday

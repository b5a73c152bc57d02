from calendar import monthrange
from datetime import date


def nth_weekday(year: int, month: int, weekday: int, n: int) -> str | None:
    _, length = monthrange(year, month)
    days = [date(year, month, day) for day in range(1, length + 1)]
    matches = [day for day in days if day.weekday() == weekday]
    if n == 0 or not -len(matches) <= n <= len(matches):
        return None
    return matches[n - 1 if n > 0 else n].isoformat()

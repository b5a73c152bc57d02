# Mistake: looks for the first such weekday after the first of the month only.
from datetime import date, timedelta


def nth_weekday(year, month, weekday, n):
    day = date(year, month, 1)
    days = []
    while True:
        day += timedelta((weekday - day.weekday()) % 7 or 7)
        if day.month != month:
            break
        days.append(day.isoformat())
    if n == 0 or not -len(days) <= n <= len(days):
        return None
    return days[n - 1] if n > 0 else days[n]

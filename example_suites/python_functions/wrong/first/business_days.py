# Mistake: counts the last day too.
from datetime import date, timedelta


def business_days(start, end, holidays):
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    if last < first:
        return -business_days(end, start, holidays)
    days = [first + timedelta(offset) for offset in range((last - first).days + 1)]
    return sum(day.weekday() < 5 and day.isoformat() not in holidays for day in days)

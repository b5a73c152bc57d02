# Mistake: subtracts all holidays, also those at weekends, on other days or given twice.
from datetime import date, timedelta


def business_days(start, end, holidays):
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    if last < first:
        return -business_days(end, start, holidays)
    days = [first + timedelta(offset) for offset in range((last - first).days)]
    return sum(day.weekday() < 5 for day in days) - len(holidays)

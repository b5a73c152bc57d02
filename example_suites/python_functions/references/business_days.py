from datetime import date, timedelta


def business_days(start: str, end: str, holidays: list[str]) -> int:
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    if last < first:
        return -business_days(end, start, holidays)
    days = (first + timedelta(offset) for offset in range((last - first).days))
    return sum(day.weekday() < 5 and day.isoformat() not in holidays for day in days)

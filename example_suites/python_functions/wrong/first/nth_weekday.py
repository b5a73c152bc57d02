# Mistake: the fifth may lie in the next month.
from datetime import date, timedelta


def nth_weekday(year, month, weekday, n):
    if n == 0:
        return None
    if n > 0:
        first = date(year, month, 1)
        start = first + timedelta((weekday - first.weekday()) % 7)
        return (start + timedelta(7 * (n - 1))).isoformat()
    following = date(year + month // 12, month % 12 + 1, 1)
    last = following - timedelta(1)
    end = last - timedelta((last.weekday() - weekday) % 7)
    return (end + timedelta(7 * (n + 1))).isoformat()

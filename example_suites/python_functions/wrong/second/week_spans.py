# Mistake: begins weeks on Sunday.
from datetime import date, timedelta


def week_spans(start, end):
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    spans = []
    while first <= last:
        saturday = first + timedelta((5 - first.weekday()) % 7)
        spans.append([first.isoformat(), min(saturday, last).isoformat()])
        first = saturday + timedelta(1)
    return spans

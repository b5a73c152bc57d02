# Mistake: begins a week every seven days from the start.
from datetime import date, timedelta


def week_spans(start, end):
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    spans = []
    while first <= last:
        spans.append([first.isoformat(), min(first + timedelta(6), last).isoformat()])
        first += timedelta(7)
    return spans

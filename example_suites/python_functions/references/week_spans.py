from datetime import date, timedelta


def week_spans(start: str, end: str) -> list[list[str]]:
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    spans = []
    while first <= last:
        sunday = first + timedelta(6 - first.weekday())
        spans.append([first.isoformat(), min(sunday, last).isoformat()])
        first = sunday + timedelta(1)
    return spans

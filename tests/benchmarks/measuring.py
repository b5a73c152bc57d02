"""How everything here is measured: what is compared takes turns in one run, and the median of many samples counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

NOTHING = "-"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    floor: str = NOTHING
    """The least that the same could cost, measured in the same run."""
    ratio: str = NOTHING
    target: str = NOTHING
    samples: int = 1


def timed(function: Callable[[], _T]) -> tuple[_T, float]:
    """What one call returns, and the seconds that it took."""
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


def seconds_of(function: Callable[[], object]) -> float:
    """How long one call takes."""
    return timed(function)[1]


def taking_turns(samples: int, *functions: Callable[[], object], warm_up: int = 0) -> list[float]:
    """Median duration of each function, of so many calls each, one after the other in turns.

    A slow moment of the machine then meets all of them alike.
    """
    for _ in range(warm_up):
        for function in functions:
            function()
    durations: list[list[float]] = [[] for _ in functions]
    for _ in range(samples):
        for function, found in zip(functions, durations, strict=True):
            found.append(seconds_of(function))
    return [median(found) for found in durations]


def milliseconds(seconds: float) -> str:
    """A duration as the table shows it: three digits that mean something."""
    value = seconds * 1000
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f} ms"


def times(ratio: float) -> str:
    """A ratio as the table shows it."""
    return f"{ratio:.2f} x"


def compared(
    what: str, measured: float, floor: float, *, samples: int, target: str = NOTHING, name: str = ""
) -> Row:
    """A row about two durations; `name` says what the floor is."""
    shown = milliseconds(floor) + (f" {name}" if name else "")
    return Row(what, milliseconds(measured), shown, times(measured / floor), target, samples)


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | measured | floor | ratio | target | samples |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.measured} | {row.floor} | {row.ratio} | {row.target} | {row.samples:,} |"
        for row in rows
    ]
    return "\n".join(lines)

"""What has to be looked at when: the deadlines of a pool's state, of which only the first matters to whoever waits."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.pool.state import Shelf


class Agenda:
    """At most one time for each shelf, its earliest."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Shelf]] = []
        self._order = itertools.count()

    def note(self, shelf: Shelf, when: float) -> None:
        """Look at a shelf at that time, if nothing is to be seen to there before."""
        if when < shelf.look_at:
            shelf.look_at = when
            heapq.heappush(self._heap, (when, next(self._order), shelf))

    @property
    def due(self) -> float:
        """When the first is; infinite if none is."""
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float) -> list[Shelf]:
        """Those that are due, which are then no longer noted."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            when, _, shelf = heapq.heappop(self._heap)
            if when == shelf.look_at:  # else it was due before, too
                shelf.look_at = math.inf
                due.append(shelf)
        return due

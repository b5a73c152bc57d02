"""Time that passes only when somebody runs it, and hands whose work takes some of it."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any


class VirtualClock:
    """Runs what is to happen, in its order, without waiting for anything."""

    def __init__(self) -> None:
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def at(self, when: float, what: Callable[[], object]) -> None:
        """Have something happen then, or else as soon as possible."""
        heapq.heappush(self._events, (max(when, self._now), next(self._order), what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        """Have something happen so much later."""
        self.at(self._now + seconds, what)

    def alarm(self, ring: Callable[[], None]) -> VirtualAlarm:
        """See `pool.alarm.Clock`."""
        return VirtualAlarm(self, ring)

    def step(self) -> bool:
        """Have the next thing happen; returns whether there was any."""
        if not self._events:
            return False
        self._now, _, what = heapq.heappop(self._events)
        what()
        return True

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self._now + seconds
        while self._events and self._events[0][0] <= until:
            self.step()
        self._now = max(self._now, until)

    def run_until(self, condition: Callable[[], object], seconds: float = 1e9) -> None:
        """Let time pass until something is so. Raises AssertionError when that is not within so many seconds."""
        until = self._now + seconds
        while not condition():
            assert self._events, "nothing will ever happen any more"
            assert self._events[0][0] <= until, f"it is not so after {seconds} s"
            self.step()


class VirtualAlarm:
    """Rings when its clock gets there."""

    def __init__(self, clock: VirtualClock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._when = math.inf
        self._closed = False

    def be_there(self) -> None:
        """See `pool.alarm.Alarm`."""

    def set(self, when: float) -> None:
        """See `pool.alarm.Alarm`."""
        if when < self._when:
            self._when = when
            self._clock.at(when, lambda: self._is_time(when))

    def _is_time(self, when: float) -> None:
        if when == self._when and not self._closed:  # else it was set to an earlier time, and has rung
            self._when = math.inf
            self._ring()

    def close(self) -> None:
        """See `pool.alarm.Alarm`."""
        self._closed = True


class VirtualTeam:
    """Does each chore at the end of the time that it takes, as many at once as there are."""

    def __init__(
        self, clock: VirtualClock, begin: Callable[[Any], tuple[float, Callable[..., object]]]
    ) -> None:
        """`begin` is told what a chore is about, and says how long that takes and how it is done in the end."""
        self._clock = clock
        self._begin = begin
        self._under_way = 0

    def be_there(self) -> None:
        """See `pool.crew.Team`."""

    def do(self, chore: Callable[[Any], None], subject: Any) -> None:
        """See `pool.crew.Team`."""
        seconds, do = self._begin(subject)
        self._under_way += 1

        def end() -> None:
            self._under_way -= 1
            do(chore, subject)

        self._clock.after(seconds, end)

    def close(self) -> None:
        """See `pool.crew.Team`."""
        while self._under_way:
            assert self._clock.step(), "something is under way that never ends"

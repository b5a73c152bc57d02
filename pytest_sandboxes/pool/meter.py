"""Sandbox-seconds: how long sandboxes have existed, in sum."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What a run may use."""

    seconds: float
    """Sandbox-seconds."""
    source: str
    """Where that was set, in words for messages."""


class Meter:
    """Runs for each sandbox from its `begin` to its `end`."""

    def __init__(self) -> None:
        self._ended = 0.0
        self._running = 0
        self._beginnings = 0.0

    def begin(self, now: float) -> None:
        """There is one more."""
        self._running += 1
        self._beginnings += now

    def end(self, began: float, now: float) -> None:
        """One that began then is no more."""
        self._running -= 1
        self._beginnings -= began
        self._ended += now - began

    def total(self, now: float) -> float:
        """Sandbox-seconds so far."""
        if not self._running:
            self._beginnings = 0.0  # nor is there anything left of rounding
        return self._ended + self._running * now - self._beginnings

    def reaches(self, amount: float, now: float) -> float:
        """When the total will be `amount`, if nothing changes; infinite when it will not."""
        left = amount - self.total(now)
        if left <= 0:
            return now
        return now + left / self._running if self._running else math.inf

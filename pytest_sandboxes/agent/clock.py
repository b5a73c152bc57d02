"""The clock of a job's deadline, which stands still while somebody debugs the test."""

from __future__ import annotations

import time


class Clock:
    """Monotonic seconds without those for which it was stopped."""

    __slots__ = ("_left_out", "_stopped_at")

    def __init__(self) -> None:
        self._left_out = 0.0
        self._stopped_at: float | None = None

    def now(self) -> float:
        """Seconds since some moment."""
        return (time.monotonic() if self._stopped_at is None else self._stopped_at) - self._left_out

    @property
    def is_stopped(self) -> bool:
        """It stands still."""
        return self._stopped_at is not None

    def stop(self) -> None:
        """Stand still, if it does not yet."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()

    def go_on(self) -> None:
        """Go on from where it stopped, if it has."""
        if self._stopped_at is not None:
            self._left_out += time.monotonic() - self._stopped_at
            self._stopped_at = None

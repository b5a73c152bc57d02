"""When a sandbox may be started: no faster than a backend takes starts, and later after each that failed."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import StartRate
    from pytest_sandboxes.pool.state import Shelf

_FIRST_PAUSE = 1.0  # seconds after the first start that a backend has turned away
_LONGEST_PAUSE = 60.0  # also of those that a backend asks for
_FIRST_DELAY = 0.1  # seconds after the first failure
_LONGEST_DELAY = 10.0
_UNKNOWN_RATE = (
    64.0  # starts per second of a backend that has named no rate, and takes fewer than it was asked for
)
_SLOWEST = 1 / 64  # of the rate
_RECOVERY = 1 / 16  # of the rate, with each start that succeeds
_WHOLE = 1 - 1e-9  # a token, however its parts were rounded


class Setbacks:
    """Starts of one recipe that have failed, in a row."""

    def __init__(self) -> None:
        self.count = 0
        """Times that starts have failed, those together that were begun together."""
        self.retry_at = -math.inf
        """No start before."""
        self.last_error: Exception | None = None
        """What the last one failed with."""

    def add(self, now: float, jitter: random.Random) -> None:
        """A start has failed: the next is to wait twice as long as the last one, and never as long as another's."""
        if now < self.retry_at:  # begun before the one that has failed already
            return
        self.count += 1
        self.retry_at = now + _backoff(self.count, _FIRST_DELAY, _LONGEST_DELAY, jitter)

    def told(self) -> None:
        """Those who waited have been told. Who asks next has all attempts before it, but not before `retry_at`."""
        self.count = 0

    def overcome(self) -> None:
        """A start has succeeded."""
        self.count = 0
        self.retry_at = -math.inf
        self.last_error = None


def _backoff(times: int, first: float, longest: float, jitter: random.Random) -> float:
    return min(longest, first * 2.0 ** min(times - 1, 64)) * jitter.uniform(0.5, 1)


class StartGate:
    """What the starts of one backend pass, those of all its recipes: a bucket of tokens that fills at its rate.

    A backend that turns starts away is left alone for a while, then asked at half the rate, and at the whole rate again
    once starts have gone well.
    """

    def __init__(self, rate: StartRate | None, jitter: random.Random) -> None:
        self._rate = rate
        self._jitter = jitter
        self._pace = 1.0
        """The share of its rate at which the backend is asked."""
        self._tokens = self._burst
        self._filled = -math.inf
        self._shut_until = -math.inf
        self._turned_away = 0
        """Times in a row."""
        self.held: dict[Shelf, None] = {}
        """Those that would start a sandbox if they might; served together, or none would have its turn."""

    @property
    def _burst(self) -> float:
        return 1.0 if self._rate is None else float(self._rate.burst)

    @property
    def _per_second(self) -> float:
        if self._rate is not None:
            return self._rate.per_second * self._pace
        return math.inf if self._pace == 1 else _UNKNOWN_RATE * self._pace

    def opens(self, now: float) -> float:
        """When the next start may be: not later than `now` when it may be now."""
        self._fill(now)
        if self._tokens >= _WHOLE:
            return self._shut_until
        return max(self._shut_until, now + (1 - self._tokens) / self._per_second)

    def _fill(self, now: float) -> None:
        shut = min(now, self._shut_until) - self._filled
        if shut > 0:  # nothing more than the first start after it, or it would be followed by a burst
            self._tokens = max(self._tokens, min(1.0, self._tokens + shut * self._per_second))
        passed = now - max(self._filled, self._shut_until)
        if passed > 0:
            self._tokens = min(self._burst, self._tokens + passed * self._per_second)
        self._filled = now

    def pass_through(self) -> None:
        """A start is made now."""
        if not math.isinf(self._per_second):
            self._tokens -= 1

    def turned_away(self, now: float, retry_after: float | None) -> None:
        """The backend has taken a start for one too many, and may have said for how many seconds it wants none."""
        wanted = 0.0 if retry_after is None or not retry_after > 0 else min(retry_after, _LONGEST_PAUSE)
        if now < self._shut_until:  # begun before it was shut: no news, but for how long it wants
            self._shut_until = max(self._shut_until, now + wanted)
            return
        self._fill(now)
        self._turned_away += 1
        pause = wanted or _backoff(self._turned_away, _FIRST_PAUSE, _LONGEST_PAUSE, self._jitter)
        self._shut_until = now + pause
        self._pace = max(_SLOWEST, self._pace / 2)
        self._tokens = min(1.0, self._tokens)

    def succeeded(self) -> None:
        """A start has gone well."""
        self._turned_away = 0
        self._pace = min(1.0, self._pace + _RECOVERY)

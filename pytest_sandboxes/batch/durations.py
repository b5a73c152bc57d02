"""How long each test took when it last ran in a shard: kept in pytest's cache, for the next run's partition."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

_KEY = "sandboxes/durations"
_MOST = 100_000
"""Tests that are remembered; the file is read as a whole."""


class Durations:
    """Seconds by node id, over all phases of a test. Where the cache is switched off, nothing is known or kept."""

    def __init__(self, config: pytest.Config) -> None:
        self._cache: pytest.Cache | None = getattr(config, "cache", None)
        found = None if self._cache is None else self._cache.get(_KEY, None)
        self.recorded: dict[str, float] = {}
        if isinstance(found, dict):  # anybody may have written to the file
            self.recorded = {
                nodeid: float(seconds)
                for nodeid, seconds in found.items()
                if isinstance(seconds, int | float) and 0 <= seconds < float("inf")
            }
        self._measured: dict[str, float] = {}
        self._begun = time.monotonic()

    def measured(self, nodeid: str, seconds: Iterable[float]) -> None:
        """A test has run; `seconds` has the duration of each phase, by the word of its shard.

        None has taken longer than this run: whoever says so wants the next run's shards to be uneven.
        """
        self._measured[nodeid] = round(min(sum(seconds), time.monotonic() - self._begun), 4)

    def save(self) -> None:
        """Keep what was measured, beside what is known of other tests."""
        if self._cache is None or not self._measured:
            return
        old = {nodeid: each for nodeid, each in self.recorded.items() if nodeid not in self._measured}
        kept = [*old.items(), *self._measured.items()][-_MOST:]
        self._cache.set(_KEY, dict(kept))

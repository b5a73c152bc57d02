"""Waiting for conditions, never for time: the deadline is only there to make a hang a failure."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 60.0
"""Seconds after which what has not happened does not happen, on however busy a machine."""


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Return once `condition` holds. Raises AssertionError when it never does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.001)

"""Slots of failed tests that are left standing after the run, with `--sandbox-keep-failed`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import SandboxesError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool.pool import Pool

KEEP_SECONDS = 3600.0
"""How long the slot of a failed test lives on."""
KEEP_AT_MOST = 20
"""Slots kept, of all failed tests of a run."""


@dataclass(frozen=True)
class _Entry:
    """What the summary says of a slot, and what ends it."""

    said: str
    end: Callable[[], None] = lambda: None
    not_ended: str = ""
    """Why it may live on, though the test has been run once more."""

    @property
    def text(self) -> str:
        if not self.not_ended:
            return self.said
        return f"{self.said}\n  of an attempt before the last, and not ended: {self.not_ended}"

    def ended(self) -> _Entry | None:
        """End it; None where that has been done, and what there is to say otherwise."""
        try:
            self.end()
        except (SandboxesError, OSError) as error:
            return replace(self, not_ended=one_line(str(error), 300))
        return None


class Keeper:
    """Keeps slots, and knows what the summary says of them. Its methods may be called from any thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()  # of what is known; nothing is waited for under it
        self._kept: dict[str, list[_Entry]] = {}

    @property
    def kept(self) -> list[str]:
        """What the summary says of each failed test whose slots were to be kept."""
        with self._lock:
            return [entry.text for entries in self._kept.values() for entry in entries]

    def keep(self, lease: Lease, nodeid: str) -> None:
        """Let the sandboxes of a failed test live on for a while, and say how to enter and to end them."""
        with self._lock:
            if lease.losses or (nodeid not in self._kept and len(self._kept) >= KEEP_AT_MOST):
                return
            self._kept.setdefault(nodeid, [])  # one of the places, from now on
        try:
            kept = self._pool.keep(lease, KEEP_SECONDS)
        except (SandboxesError, TimeoutError, NotImplementedError) as error:
            entries = [_Entry(f"{nodeid}: not kept: {error}")]
        else:
            entries = [
                _Entry(f"{nodeid}\n  enter: {each.enter}\n  end:   {each.end_by_hand}", each.end)
                for each in kept
            ]
        with self._lock:
            self._kept.setdefault(nodeid, []).extend(entries)

    def end(self, nodeid: str) -> None:
        """End what was kept of a test that turns out to be run once more. What cannot be ended is still told of."""
        with self._lock:
            entries = list(self._kept.get(nodeid, ()))
        left = [left for entry in entries if (left := entry.ended()) is not None]
        with self._lock:
            self._kept.pop(nodeid, None)
            if left:
                self._kept[nodeid] = left

"""Those who wait for sandboxes of one recipe, in the order of their turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.pool.state import Waiter


class Queue:
    """Wishes for an exchange go first, in their order, then all others in theirs."""

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()
        self.slots = 0
        """What they ask for in sum."""
        self.alone = 0
        """How many of them wish to be alone."""

    def add(self, waiter: Waiter) -> None:
        """Behind all whose turns are before its own."""
        if waiter.is_exchange:
            place = next((at for at, each in enumerate(self._waiters) if not each.is_exchange), len(self))
            self._waiters.insert(place, waiter)
        else:
            self._waiters.append(waiter)
        self.slots += waiter.count
        self.alone += waiter.alone

    def remove(self, waiter: Waiter) -> None:
        """It waits no more."""
        if self._waiters[0] is waiter:
            self._waiters.popleft()
        else:
            self._waiters.remove(waiter)
        self.slots -= waiter.count
        self.alone -= waiter.alone

    @property
    def first(self) -> Waiter:
        """Whose turn is next."""
        return self._waiters[0]

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    def __len__(self) -> int:
        return len(self._waiters)

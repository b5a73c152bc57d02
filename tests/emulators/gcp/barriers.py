"""Where tasks wait for each other."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Barriers:
    """Those of a job, by the index of their runnable. Belongs to the emulator's loop."""

    def __init__(self, count: int) -> None:
        """`count` is how many tasks there are."""
        self._count = count
        self._arrived: defaultdict[int, set[int]] = defaultdict(set)
        self._gone: set[int] = set()
        self._change = asyncio.Condition()

    async def arrive(self, barrier: int, task: int) -> None:
        """Wait until all tasks have come there, or will never come."""
        async with self._change:
            self._arrived[barrier].add(task)
            self._change.notify_all()
            await self._change.wait_for(lambda: len(self._arrived[barrier] | self._gone) == self._count)

    async def leave(self, task: int) -> None:
        """It has ended, and comes to no barrier any more."""
        async with self._change:
            self._gone.add(task)
            self._change.notify_all()

"""One round of handing out what there is, and of seeing to what is missing, in the order in which it was asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pytest_sandboxes.pool.forecast import Forecast
from pytest_sandboxes.pool.standstill import exchanges, owners

if TYPE_CHECKING:
    from pytest_sandboxes.pool.state import Occupancy, Plan, Shelf, Waiter


class Round:
    """Goes through all who wait on some shelves, once, and then through what these shelves keep warm."""

    def __init__(
        self,
        shelves: Sequence[Shelf],
        plan: Plan,
        now: float,
        *,
        room: float,
        leaving: int,
        end: Callable[[Occupancy, Plan], None],
        drain: Callable[[Occupancy], None],
    ) -> None:
        """`room`: how many may be started; `leaving`: how many are ending, and make room by themselves.

        `end` ends an idle sandbox to make room, `drain` keeps everybody from getting into one.
        """
        self._shelves = shelves
        self._plan = plan
        self._now = now
        self._room = room
        self._leaving = leaving
        self._end = end
        self._drain = drain
        self._forecasts: dict[Shelf, Forecast] = {}
        """Of those shelves where somebody has to wait, behind whom nobody else of that shelf is served."""
        self._seen_to: set[Shelf] = set()
        """Those of them where nothing can be done for anybody else."""
        self._is_full = False
        """Nothing can make room any more."""

    def serve(self) -> None:
        """Put into the plan what is to be done for those who wait."""
        for shelf in self._shelves:
            shelf.gate.held.pop(shelf, None)
        queues = [self._queue(shelf) for shelf in self._shelves if shelf.waiting]
        if not queues:
            return
        in_turn = queues[0] if len(queues) == 1 else heapq.merge(*queues, key=lambda each: each[0])
        for _, shelf, waiter in in_turn:
            if shelf not in self._forecasts:
                if shelf.can_serve(waiter):
                    shelf.waiting.remove(waiter)
                    shelf.serve(waiter)
                    self._plan.granted.append(waiter)
                    continue
                self._forecasts[shelf] = Forecast(shelf)
            self._see_to(shelf, waiter)

    def _queue(self, shelf: Shelf) -> Iterator[tuple[int, Shelf, Waiter]]:
        while shelf.waiting and shelf not in self._forecasts:
            yield shelf.waiting.first.turn, shelf, shelf.waiting.first
        if not shelf.waiting:
            return
        behind = islice(shelf.waiting, 1, None)
        while shelf not in self._seen_to:
            waiter = self._forecasts[shelf].first_short(behind)
            if waiter is None:
                break
            yield waiter.turn, shelf, waiter

    def _see_to(self, shelf: Shelf, waiter: Waiter) -> None:
        """Have started what a wish lacks, if anything can be started for those who wait on its shelf."""
        forecast = self._forecasts[shelf]
        if self._room <= 0 and len(self._forecasts) == len(self._shelves):  # nobody is left to make any
            self._is_full = True
        if self._is_full or not forecast.is_short or not self._may_start(shelf):
            self._seen_to.add(shelf)  # without going through all of them, which may be many
            return
        if len(self._shelves) == 1 and not shelf.waiting.alone:
            wanted = forecast.claim_all()
            self._seen_to.add(shelf)
        else:
            wanted = forecast.claim(waiter)
        if not all(self._get_one(shelf) for _ in range(wanted)):
            self._seen_to.add(shelf)

    def _get_one(self, shelf: Shelf) -> bool:
        """Start a sandbox, or see to room for one; returns whether the same may be done for another."""
        if self._room > 0:
            if not self._start(shelf):
                return False
            self._room -= 1
            return True
        if self._leaving > 0:  # it makes room for this one
            self._leaving -= 1
            return True
        self._is_full = not self._make_room([each for each in self._shelves if each not in self._forecasts])
        return not self._is_full

    def _start(self, shelf: Shelf) -> bool:
        """Start a sandbox, if that may be now; returns whether it was."""
        if not self._may_start(shelf):
            return False
        shelf.gate.pass_through()
        shelf.starting += 1
        self._plan.start.append(shelf)
        return True

    def _may_start(self, shelf: Shelf) -> bool:
        """Whether a sandbox may be started now; if not, it is seen to when it may."""
        opens = shelf.gate.opens(self._now)
        if opens > self._now:
            shelf.gate.held[shelf] = None
        opens = max(opens, shelf.setbacks.retry_at)
        if opens > self._now:
            shelf.agenda.note(shelf, opens)
        return opens <= self._now

    def _make_room(self, shelves: Sequence[Shelf]) -> bool:
        """End one sandbox of these shelves, or see that one becomes empty."""
        idle = [next(iter(shelf.idle)) for shelf in shelves if shelf.idle]
        if idle:
            self._end(min(idle, key=lambda each: each.idle_since), self._plan)
            return True
        # what those hold who wait themselves does not become empty, and they may wait for just what is free in it
        waiting = {waiter.lease_of for shelf in self._shelves for waiter in exchanges(shelf)}
        used = [
            each
            for shelf in shelves
            for each in shelf.sandboxes.values()
            if not each.draining and not each.is_leaving and waiting.isdisjoint(owners(each))
        ]
        if used:
            self._drain(min(used, key=lambda each: len(each.leased) + len(each.resetting)))
        return bool(used)

    def warm_up(self) -> None:
        """Put into the plan what is to be started ahead of need."""
        for shelf in self._shelves:
            forecast = self._forecasts.get(shelf) or Forecast(shelf)
            while self._room > 0 and forecast.warm_up():
                if not self._start(shelf):
                    break
                self._room -= 1

"""What carries out the decisions of a pool, and tells it of all that happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_sandboxes.errors import (
    ConfigurationError,
    PoolClosedError,
    RateLimitedError,
    SandboxStartError,
)
from pytest_sandboxes.pool.crew import Crew, Start, Team
from pytest_sandboxes.pool.statistics import Counts

if TYPE_CHECKING:
    from pytest_sandboxes.lease import Lease
    from pytest_sandboxes.pool.alarm import Clock
    from pytest_sandboxes.pool.state import Plan, Shelf, Waiter
    from pytest_sandboxes.pool.stock import Stock
    from pytest_sandboxes.sandbox import Sandbox, SandboxSlot


class Machinery:
    """Threads and an alarm around a stock, which changes under the lock only."""

    def __init__(self, stock: Stock, clock: Clock, start: Start, team: Callable[[str], Team]) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # notified when a reset has ended, one way or another
        self._clock = clock
        self._stock = stock
        self._progressed: dict[Shelf, float] = {}
        """When something last happened to each."""
        self._leases: dict[Waiter, Lease] = {}
        self._given_up: set[Sandbox] = set()
        """Lost, or not clean, and not closed yet."""
        self._counts = Counts()
        self._crew = Crew(
            start,
            team,
            started=self._started,
            start_failed=self._start_failed,
            was_reset=self._was_reset,
            has_closed=self._has_closed,
            was_parked=self._was_parked,
        )
        self._alarm = self._clock.alarm(self._look)
        self.not_parked: list[str] = []
        """Why sandboxes that were to wait for the next run do not, once it is closed."""

    # -- decisions

    def _decided(self, plan: Plan, *progressed: Shelf) -> Plan:
        """Keep account of what a change of state has brought about; under the lock, as the change itself."""
        if plan.granted or plan.reset or plan.close:
            now = self._clock.now()
            for shelf in progressed:
                self._progressed[shelf] = now
            self._given_up.difference_update(plan.close)
        plan.due = self._stock.due
        return plan

    def _carry_out(self, plan: Plan) -> None:
        """Do what a change of state has made necessary; called without the lock."""
        for waiter in plan.granted:
            if (answered := waiter.answered) is not None:
                answered.set_result(None)
        for waiter, error in plan.failed:
            if (answered := waiter.answered) is not None:
                answered.set_exception(error)
        if plan.start:
            self._crew.be_there()
            self._alarm.be_there()
        self._crew.carry_out(plan)
        self._alarm.set(plan.due)

    def _look(self) -> None:
        """Something has become due."""
        with self._lock:
            plan = self._decided(self._stock.look())
        self._carry_out(plan)

    def _lost(self, sandbox: Sandbox, error: Exception) -> None:
        """A sandbox has ended by itself: each lease that has a slot of it learns of it, before any of its requests."""
        with self._lock:
            if (shelf := self._stock.shelf_of(sandbox)) is None:
                return
            self._give_up(sandbox)
            held = [
                (self._leases[waiter], slot)
                for slot, waiter in self._stock.leases_of(sandbox).items()
                if waiter in self._leases
            ]
            plan = self._decided(self._stock.lost(sandbox), shelf)
            self._changed.notify_all()
        for lease, slot in held:
            lease.record_loss(slot, error)
        self._carry_out(plan)

    def _give_up(self, sandbox: Sandbox) -> None:
        """Count a sandbox that has to be replaced, under the lock; once, if it is unclean and then lost."""
        self._counts.replacements += sandbox not in self._given_up
        self._given_up.add(sandbox)

    # -- what the crew has done

    def _started(self, shelf: Shelf, sandbox: Sandbox) -> None:
        with self._lock:
            self._counts.sandboxes_started += 1
            self._counts.taken_over += sandbox.is_taken_over
            sandbox.lost = lambda error: self._lost(sandbox, error)
            plan = self._decided(self._stock.started(shelf, sandbox))
            self._progressed[shelf] = self._clock.now()
        if not sandbox.alive:  # before there was anybody to tell
            self._lost(sandbox, SandboxStartError(f"{sandbox.name} was lost as soon as it had started"))
        self._carry_out(plan)

    def _start_failed(self, shelf: Shelf, error: Exception) -> None:
        final = isinstance(error, ConfigurationError | PoolClosedError)
        with self._lock:
            if isinstance(error, RateLimitedError):
                self._counts.rate_limited += 1
            else:
                self._counts.start_failures += not isinstance(error, PoolClosedError)
            plan = self._decided(self._stock.start_failed(shelf, error, final=final))
        self._carry_out(plan)

    def _was_reset(self, slot: SandboxSlot, problem: Exception | None) -> None:
        with self._lock:
            shelf = self._stock.shelf_of(slot.sandbox)
            if shelf is None:  # lost, or closed, meanwhile
                return
            if problem is not None:
                self._give_up(slot.sandbox)
            plan = self._decided(self._stock.was_reset(slot, clean=problem is None), shelf)
            self._changed.notify_all()
        self._carry_out(plan)

    def _has_closed(self, sandbox: Sandbox) -> None:
        with self._lock:
            plan = self._decided(self._stock.has_closed(sandbox))
        self._carry_out(plan)

    def _was_parked(self, problem: Exception | None) -> None:
        with self._lock:
            if problem is None:
                self._counts.parked += 1
            elif not isinstance(
                problem, NotImplementedError
            ):  # where that is known, it has been said before the run
                self.not_parked.append(str(problem) or type(problem).__name__)

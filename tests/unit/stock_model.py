"""A simpler account of what a pool has and who has what, beside which all its decisions are made."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from pytest_sandboxes.backends.base import StartRate
from pytest_sandboxes.errors import (
    BudgetExceededError,
    SandboxLostError,
)
from pytest_sandboxes.pool.meter import Budget
from pytest_sandboxes.pool.state import Plan, Shelf, Waiter
from pytest_sandboxes.pool.stock import Stock
from tests.unit.fake_stock import Time, recipe

seconds = st.none() | st.integers(1, 20)
recipes = st.builds(
    recipe,
    maximum=st.integers(1, 4),
    buffer=st.integers(0, 3),
    minimum=st.integers(0, 3),
    slots=st.integers(1, 3),
    target_slots_per_sandbox=st.none() | st.integers(1, 2),
    idle_timeout=seconds,
    scaledown_window=seconds,
    max_lifetime=seconds,
    max_uses=st.none() | st.integers(1, 3),
    rate=st.none() | st.just(StartRate(0.5, 2)),
)


class StockModel(RuleBasedStateMachine):
    """Carries out the plans of a stock, knows only what it was told, and checks what always has to hold."""

    @initialize(
        cap=st.none() | st.integers(1, 5),
        made=st.lists(recipes, min_size=1, max_size=4),
        attempts=st.integers(1, 3),
        budget=st.none() | st.integers(1, 100),
    )
    def make(self, cap: int | None, made: list[Any], attempts: int, budget: int | None) -> None:
        self.attempts = attempts
        self.time = Time()
        self.stock = Stock(
            cap,
            attempts,
            budget=None if budget is None else Budget(budget, "test"),
            now=self.time,
            jitter=random.Random(0),
        )
        self.shelves = [self.stock.add_shelf(*each) for each in made]
        self.starting: Counter[Shelf] = Counter()
        self.home: dict[Any, Shelf] = {}
        """Where each sandbox is that is there."""
        self.came_from: dict[Any, Shelf] = {}
        """Where each has been, for those that still have slots of one that is gone."""
        self.lost_ones: set[Any] = set()
        self.spoilt: set[Any] = set()
        self.closing: dict[Any, Shelf] = {}
        self.resetting: dict[Any, Waiter | None] = {}
        self.queues: dict[Shelf, list[Waiter]] = {shelf: [] for shelf in self.shelves}
        self.held: dict[Waiter, list[Any]] = {}
        self.given_up: dict[Waiter, list[Any]] = {}
        self.begun: dict[Shelf, list[float]] = {}
        """When sandboxes of a backend with a rate have been started."""

    def shelf_of(self, waiter: Waiter) -> Shelf:
        return next(shelf for shelf, queue in self.queues.items() if waiter in queue)

    def holder(self, slot: Any) -> Waiter | None:
        return next((waiter for waiter, slots in self.held.items() if slot in slots), None)

    def others_in(self, sandbox: Any, waiter: Waiter) -> bool:
        return any(self.holder(slot) not in (None, waiter) for slot in sandbox.slots)

    def carry_out(self, plan: Plan, error: Exception | None = None) -> None:
        """Do what a plan says, and check that it may."""
        for slot in plan.reset:
            assert slot.sandbox.can_reset
            assert self.holder(slot) is None, "reset under its owner"
            assert slot in self.resetting or slot.sandbox in self.home
            self.resetting.setdefault(slot, None)
        for waiter in plan.granted:
            self.take_grant(waiter)
        for waiter, told in plan.failed:
            if isinstance(told, BudgetExceededError):
                assert self.stock.used_up
                assert waiter.lease_of is waiter, "it goes on"
            elif told is not error:
                assert isinstance(told, SandboxLostError)
                self.was_in_vain(waiter)
            for queue in self.queues.values():
                if waiter in queue:
                    queue.remove(waiter)
        for shelf in plan.start:
            self.starting[shelf] += 1
            self.may_start(shelf)
        for sandbox in plan.close:
            in_use = any(self.holder(slot) for slot in sandbox.slots)
            assert sandbox in self.lost_ones or not in_use, "closed under its owner"
            assert not self.stock.closed or sandbox in self.home
            for slot in sandbox.slots:
                assert self.resetting.pop(slot, None) is None or self.stock.closed
            self.closing[sandbox] = self.home.pop(sandbox)  # a KeyError means: closed twice

    def may_start(self, shelf: Shelf) -> None:
        """Nothing is started that nobody may have, nor faster than its backend takes it."""
        assert not self.stock.used_up or any(each.is_exchange for each in self.queues[shelf])
        rate = shelf.backend.start_rate
        if rate is not None:
            begun = self.begun.setdefault(shelf, [])
            begun.append(self.time.now)
            for number, then in enumerate(begun):
                allowed = rate.burst + (self.time.now - then) * rate.per_second
                assert len(begun) - number <= allowed + 1e-6, "too fast"

    @property
    def stuck(self) -> set[Waiter]:
        """Leases that give nothing back before they have got what they wait for."""
        waiting = [waiter for queue in self.queues.values() for waiter in queue]
        return {waiter.lease_of for waiter in waiting if waiter.lease_of is not waiter}

    def has_something(self, owner: Waiter) -> bool:
        """Whether a lease takes room, or will again after a reset."""
        heirs = [heir.lease_of for heir in self.resetting.values() if heir]
        return owner in heirs or any(slot.sandbox in self.home for slot in self.held.get(owner, []))

    def was_in_vain(self, waiter: Waiter) -> None:
        """Nobody is told so whose wish would have come true by others' doing."""
        assert self.has_something(waiter.lease_of), "somebody else is in its way"
        of_slot = {slot: self.holder(slot) for sandbox in self.home for slot in sandbox.slots}
        of_slot |= {slot: heir.lease_of for slot, heir in self.resetting.items() if heir}
        full = {slot.sandbox for slot, owner in of_slot.items() if owner in self.stuck}
        at_home = [self.home[sandbox] for sandbox in full if sandbox in self.home]
        at_maximum = any(at_home.count(shelf) == shelf.maximum for shelf in self.shelves)
        assert at_maximum or len(at_home) == self.stock.cap, "there was room"

    def take_grant(self, waiter: Waiter) -> None:
        slots = waiter.granted
        assert slots is not None
        assert len(set(slots)) == len(slots) == waiter.count, "served in part"
        (heir_of,) = [slot for slot, heir in self.resetting.items() if heir is waiter] or [None]
        if heir_of is not None:
            assert slots == [heir_of]
            del self.resetting[heir_of]
        else:
            queue = self.queues[self.shelf_of(waiter)]
            assert queue.pop(0) is waiter, "served out of order"
            for slot in slots:
                assert slot.sandbox in self.home, "gone"
                assert slot.sandbox not in self.spoilt, "not clean, or lost"
                assert slot not in self.resetting, "not clean yet"
                assert self.holder(slot) is None, "somebody else's"
        for slot in slots:
            assert not (waiter.alone and self.others_in(slot.sandbox, waiter.lease_of)), "not alone"
            neighbours = {self.holder(each) for each in slot.sandbox.slots} - {None, waiter.lease_of}
            assert not any(each and each.alone for each in neighbours), "somebody was to be alone"
        self.held.setdefault(waiter.lease_of, []).extend(slots)

    # -- what always holds

    @invariant()
    def agrees(self) -> None:
        stock = self.stock
        assert set(stock.sandboxes) == set(self.home)
        assert stock.total == self.starting.total() + len(self.home) + len(self.closing)
        for shelf in self.shelves:
            here = [sandbox for sandbox, home in self.home.items() if home is shelf]
            assert shelf.waiting.slots == sum(waiter.count for waiter in shelf.waiting)
            assert shelf.waiting.alone == sum(waiter.alone for waiter in shelf.waiting)
            inside = shelf.sandboxes.values()
            assert shelf.usable == sum(not each.is_leaving for each in inside)
            assert shelf.load == sum(len(each.leased) for each in inside if not each.is_leaving)
            assert (shelf.starting, set(shelf.sandboxes)) == (self.starting[shelf], set(here))
            assert shelf.closing == sum(home is shelf for home in self.closing.values())
            assert list(shelf.waiting) == self.queues[shelf]
            slots = [slot for sandbox in here for slot in sandbox.slots]
            assert shelf.leased == sum(self.holder(slot) is not None for slot in slots)
            assert shelf.resetting == sum(slot in self.resetting for slot in slots)
            filed = [*shelf.idle, *shelf.partly, *shelf.crowded]
            assert shelf.free == sum(len(each.free) for each in filed)
            assert shelf.coming == sum(each.coming for each in shelf.sandboxes.values())
            assert not any(each.sandbox in self.spoilt for each in filed)
            assert all(each.is_empty for each in shelf.idle)
            assert not any(each.is_empty for each in [*shelf.partly, *shelf.crowded])

    @invariant()
    def never_too_many(self) -> None:
        cap = self.stock.cap
        assert cap is None or self.starting.total() + len(self.home) + len(self.closing) <= cap
        assert all(shelf.total <= shelf.maximum for shelf in self.shelves)

    @invariant()
    def what_is_spoilt_ends_once_nobody_is_in_it(self) -> None:
        for sandbox in self.home:
            in_use = any(self.holder(slot) or slot in self.resetting for slot in sandbox.slots)
            assert in_use or sandbox not in self.spoilt

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        waiting = [waiter for queue in self.queues.values() for waiter in queue]
        if not waiting or self.starting.total() or self.resetting or self.closing:
            return
        if any(shelf.waiting and shelf.look_at < math.inf for shelf in self.shelves):
            return  # a start has to wait for its time, which will come
        assert any(owner not in self.stuck and self.has_something(owner) for owner in self.held), (
            "in a circle"
        )
        first = min(waiting, key=lambda waiter: waiter.turn)
        shelf = self.shelf_of(first)
        assert not shelf.can_serve(first), "what is there is not handed out"
        if shelf.total < shelf.maximum:
            assert self.stock.cap is not None
            assert self.stock.total == self.stock.cap, "nothing will ever come"
            assert not any(each.idle for each in self.shelves if each is not shelf), "others' are left idle"

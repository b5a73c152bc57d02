"""All that the pool's decisions need of sandboxes, slots, backends and profiles."""

from __future__ import annotations

from itertools import count
from math import inf
from types import SimpleNamespace
from typing import Any

from pytest_sandboxes.backends.base import StartRate
from pytest_sandboxes.pool.meter import Budget
from pytest_sandboxes.pool.state import Plan, Waiter
from pytest_sandboxes.pool.stock import Stock

_numbers = count(1)


class Time:
    """Time as the stock sees it, which passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def until_due(self, stock: Stock) -> Plan:
        """Let that time come at which something is due, and see to it."""
        assert stock.due < inf, "nothing will ever be due"
        self.now = max(self.now, stock.due)
        return stock.look()


class FakeSandbox:
    """All that the state needs of a sandbox."""

    def __init__(self, slots: int, *, can_reset: bool, age: float = 0.0, uses: int = 0) -> None:
        self.number = next(_numbers)
        self.name = f"fake-{self.number}"
        self.can_reset = can_reset
        self.age_before = age
        self.uses = uses
        self.slots = tuple(SimpleSlot(self, index) for index in range(slots))

    def __repr__(self) -> str:
        return self.name


class SimpleSlot:
    """All that the state needs of a slot."""

    def __init__(self, sandbox: FakeSandbox, index: int) -> None:
        self.sandbox = sandbox
        self.index = index

    def __repr__(self) -> str:
        return f"{self.sandbox}/{self.index}"


class One:
    """A stock with one shelf."""

    def __init__(
        self, *, attempts: int = 2, slots: int = 1, budget: Budget | None = None, **fields: Any
    ) -> None:
        self.time = Time()
        self.stock = Stock(None, attempts, budget=budget, now=self.time)
        self.shelf = self.stock.add_shelf(*recipe(slots=slots, **fields))

    def expect(self, leases: int) -> int:
        return len(self.stock.expect(self.shelf, leases).start)

    def ask(self, slots: int = 1, *, alone: bool = False) -> tuple[Waiter, Plan]:
        waiter = Waiter(slots, "somebody", alone=alone)
        return waiter, self.stock.ask(self.shelf, waiter)

    def start(self, *, can_reset: bool = False, age: float = 0.0, uses: int = 0) -> tuple[Any, Plan]:
        """`age` and `uses`: of one that an earlier run has left."""
        fresh: Any = FakeSandbox(self.shelf.slots_each, can_reset=can_reset, age=age, uses=uses)
        return fresh, self.stock.started(self.shelf, fresh)

    def fail(self, error: Exception, *, final: bool = False) -> Plan:
        return self.stock.start_failed(self.shelf, error, final=final)

    def exchange(self, slot: Any, owner: Waiter) -> tuple[Waiter, Plan]:
        waiter = Waiter(1, "somebody", alone=owner.alone, lease_of=owner)
        return waiter, self.stock.exchange(self.shelf, slot, waiter)

    def idle(self, number: int) -> list[Any]:
        """So many sandboxes with nobody in them."""
        return [self.start(can_reset=True)[0] for _ in range(number)]

    def look_after(self, seconds: float) -> Plan:
        """Let time pass; something must have become due by then."""
        self.time.now += seconds
        assert self.stock.due <= self.time.now, "nobody would look"
        return self.stock.look()


def recipe(
    maximum: int = 4,
    buffer: int = 0,
    minimum: int = 0,
    slots: int = 1,
    rate: StartRate | None = None,
    **fields: Any,
) -> tuple[Any, Any]:
    """A backend and a profile, as far as the state looks at them."""
    profile = SimpleNamespace(
        **{
            "max_sandboxes": maximum,
            "buffer_sandboxes": buffer,
            "min_sandboxes": minimum,
            "target_slots_per_sandbox": None,
            "idle_timeout": None,
            "scaledown_window": None,
            "max_lifetime": None,
            "max_uses": None,
            "name": "made-up",
            **fields,
        }
    )
    backend = SimpleNamespace(slots_per_sandbox=lambda _: slots, start_rate=rate, name="fake")
    return backend, profile


def give_back(stock: Stock, slots: Any) -> Plan:
    """Give back what is one lease's, whoever's that is."""
    owner = next((stock.leases_of(slot.sandbox).get(slot) for slot in slots), None)
    return stock.give_back(slots, owner or Waiter(1, "nobody"))

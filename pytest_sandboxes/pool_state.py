"""What the pool knows, and what follows from it: decisions only, no I/O, no threads, no clock of its own.

Every method changes the state and returns a `Plan`: what has to be done outside the lock. One `Shelf` holds the
sandboxes of one recipe on one backend.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """All that the state needs of a sandbox."""

    name: str

    @property
    def can_reset(self) -> bool:
        """It can be made as new in place."""


S = TypeVar("S", bound=Closable)


class Waiter(Generic[S]):
    """A wish for `count` sandboxes at once."""

    def __init__(self, count: int, holder: str) -> None:
        self.count = count
        self.holder = holder
        self.granted: list[S] | None = None


@dataclass
class Plan(Generic[S]):
    """What to do once the lock is released."""

    granted: list[Waiter[S]] = field(default_factory=list)
    failed: list[tuple[Waiter[S], Exception]] = field(default_factory=list)
    start: int = 0
    reset: list[S] = field(default_factory=list)
    """To be made as new; `was_reset` has to follow for each."""
    close: list[S] = field(default_factory=list)


class Shelf(Generic[S]):
    """The sandboxes of one recipe: at most `maximum`, of which `buffer` are kept warm beyond demand.

    Invariants: `starting + idle + leased + resetting <= maximum`; a sandbox is in one place; waiters are served in
    order, each with all it asked for at once; as long as a waiter waits, a sandbox is starting or being reset, or all
    there may be are leased.
    """

    def __init__(self, maximum: int, buffer: int, minimum: int, start_attempts: int) -> None:
        self.maximum = maximum
        self.buffer = buffer
        self.minimum = minimum
        self.start_attempts = start_attempts
        self.expected = 0
        """Leases that are still to come, as far as is known: what is warmed up beyond them would be for nobody."""
        self.starting = 0
        self.idle: deque[S] = deque()
        self.leased: dict[S, Waiter[S]] = {}
        self.resetting: set[S] = set()
        self.waiting: deque[Waiter[S]] = deque()
        self.failures = 0
        """Starts that have failed in a row."""
        self.discouraged = False
        """Too many have: nothing is warmed up until somebody waits again."""
        self.closed = False

    def expect(self, leases: int) -> Plan[S]:
        """So many more leases are to come."""
        self.expected += leases
        return self._settle(Plan())

    def ask(self, waiter: Waiter[S]) -> Plan[S]:
        """Queue a wish."""
        if waiter.count > self.maximum:
            raise ValueError(f"{waiter.count} slots are more than the {self.maximum} that there may be")
        self.discouraged = False
        self.waiting.append(waiter)
        self.expected = max(0, self.expected - waiter.count)
        return self._settle(Plan())

    def exchange(self, sandbox: S, waiter: Waiter[S]) -> Plan[S]:
        """One of a lease's sandboxes is used up, and its wish for another goes first.

        Both at once, so that nobody gets in between: a lease that holds something must not wait behind others.
        """
        self.discouraged = False
        plan: Plan[S] = Plan()
        self._take_back(sandbox, plan)
        self.waiting.appendleft(waiter)
        return self._settle(plan)

    def give_up(self, waiter: Waiter[S]) -> Plan[S]:
        """A wish is withdrawn; what it was granted meanwhile comes back."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            return self._settle(Plan())
        return self.give_back(waiter.granted or [])

    def started(self, sandbox: S) -> Plan[S]:
        """A start has succeeded."""
        self.starting -= 1
        self.failures = 0
        self.discouraged = False
        if self.closed:
            return Plan(close=[sandbox])
        self.idle.append(sandbox)
        return self._settle(Plan())

    def start_failed(self, error: Exception, *, final: bool) -> Plan[S]:
        """A start has failed. After `start_attempts` in a row, or a `final` one, those who wait are told."""
        self.starting -= 1
        self.failures += 1
        plan: Plan[S] = Plan()
        if final or self.failures >= self.start_attempts:
            plan.failed = [(waiter, error) for waiter in self.waiting]
            self.waiting.clear()
            self.failures = 0
            self.discouraged = True
        return self._settle(plan)

    def give_back(self, sandboxes: list[S]) -> Plan[S]:
        """A lease has ended. Its sandboxes are reset where that can be, else others take their place."""
        plan: Plan[S] = Plan()
        for sandbox in sandboxes:
            self._take_back(sandbox, plan)
        return self._settle(plan)

    def _take_back(self, sandbox: S, plan: Plan[S]) -> None:
        if self.leased.pop(sandbox, None) is None:
            return
        if sandbox.can_reset and not self.closed:
            self.resetting.add(sandbox)
            plan.reset.append(sandbox)
        else:
            plan.close.append(sandbox)

    def was_reset(self, sandbox: S, *, clean: bool) -> Plan[S]:
        """A reset has ended. What is not clean for certain is for nobody any more."""
        if sandbox not in self.resetting:  # all has been closed meanwhile
            return Plan()
        self.resetting.remove(sandbox)
        if not clean:
            return self._settle(Plan(close=[sandbox]))
        self.idle.append(sandbox)
        return self._settle(Plan())

    def lost(self, sandbox: S) -> tuple[bool, Plan[S]]:
        """A sandbox has ended by itself; tells whether it was leased, in which case its lease goes on holding it."""
        if sandbox in self.idle:
            self.idle.remove(sandbox)
            return False, self._settle(Plan(close=[sandbox]))
        return sandbox in self.leased, Plan()

    def close(self, error: Exception) -> Plan[S]:
        """End everything; those who wait get `error`."""
        self.closed = True
        plan: Plan[S] = Plan(close=[*self.idle, *self.leased, *self.resetting])
        plan.failed = [(waiter, error) for waiter in self.waiting]
        self.idle.clear()
        self.leased.clear()
        self.resetting.clear()
        self.waiting.clear()
        return plan

    @property
    def total(self) -> int:
        """Sandboxes that there are or will be."""
        return self.starting + len(self.idle) + len(self.leased) + len(self.resetting)

    def _settle(self, plan: Plan[S]) -> Plan[S]:
        """Grant what can be granted, and start what is missing."""
        if self.closed:
            return plan
        while self.waiting and len(self.idle) >= self.waiting[0].count:
            waiter = self.waiting.popleft()
            waiter.granted = [self.idle.popleft() for _ in range(waiter.count)]
            for sandbox in waiter.granted:
                self.leased[sandbox] = waiter
            plan.granted.append(waiter)
        demand = sum(waiter.count for waiter in self.waiting)
        warm = max(min(self.buffer, self.expected), self.minimum - len(self.leased) - demand)
        if self.discouraged:
            warm = 0
        missing = demand + warm - len(self.idle) - len(self.resetting) - self.starting
        plan.start = max(0, min(missing, self.maximum - self.total))
        self.starting += plan.start
        return plan

"""All sandboxes of a pool, and who gets which next: decisions only, no I/O, no threads, time as it is told.

Every method that changes something returns a `Plan`: what has to be done outside the lock.

Without a cap, each shelf is served by itself, together with those whose starts wait for the same backend. Under a cap
on the sandboxes of all shelves, those who wait are served in the order in which they asked, whatever their recipe. For
whoever is first and lacks a sandbox, one is started if there is room for it under the cap; else one that is idle on
another shelf is ended, the longest idle first; else the one with the fewest leases takes no new ones until it can be
ended. Whoever asked later gets what that leaves. So nobody is overtaken for ever, and nobody holds anything while
waiting for the rest, but for a lease that wants one of its slots anew: that goes first, and fails at once where it
could only wait for itself.

What becomes due by the mere passing of time is noted in an agenda: at `due` somebody has to call `look`.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pytest_sandboxes.errors import BudgetExceededError, RateLimitedError, SandboxLostError
from pytest_sandboxes.pool.agenda import Agenda
from pytest_sandboxes.pool.forecast import not_needed, worn_out
from pytest_sandboxes.pool.inventory import Inventory
from pytest_sandboxes.pool.meter import Budget
from pytest_sandboxes.pool.rate import StartGate
from pytest_sandboxes.pool.round import Round
from pytest_sandboxes.pool.standstill import in_vain, owners
from pytest_sandboxes.pool.state import Plan, Shelf, Waiter
from pytest_sandboxes.pool.wording import describe_budget

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Backend
    from pytest_sandboxes.profiles.profile import Profile
    from pytest_sandboxes.sandbox import Sandbox, SandboxSlot

_FIRST = -(1 << 62)


class Stock(Inventory):
    """The shelves of a pool, and whose turn it is.

    Invariants: `total <= cap`; a slot has one owner; as long as a wish waits, something is starting, being reset or
    closing, or is to be started when its time has come, or all that may be is leased, not only by those who wait.
    """

    def __init__(
        self,
        cap: int | None,
        start_attempts: int,
        *,
        budget: Budget | None = None,
        now: Callable[[], float] = time.monotonic,
        jitter: random.Random | None = None,
    ) -> None:
        """`budget`: after which nothing is leased any more."""
        super().__init__(now)
        self.cap = cap
        self.budget = budget
        self._start_attempts = start_attempts
        self._jitter = jitter or random.Random()  # noqa: S311 - it keeps no secret
        self._agenda = Agenda()
        self._turns = itertools.count()
        self._exchanges = itertools.count(_FIRST)
        self.used_up = False
        """The budget is."""
        self.closed = False

    # -- what there is

    def add_shelf(self, backend: Backend, profile: Profile) -> Shelf:
        """A shelf for the sandboxes of one more recipe."""
        gates = (each.gate for each in self.shelves if each.backend is backend)
        gate = next(gates, None) or StartGate(backend.start_rate, self._jitter)
        shelf = Shelf(backend, profile, gate, self._agenda, self._now)
        self.shelves.append(shelf)
        return shelf

    @property
    def due(self) -> float:
        """When to `look`; infinite if nothing will become due by itself."""
        if self.closed:
            return math.inf
        if self.used_up or self.budget is None:
            return self._agenda.due
        return min(self._agenda.due, self._meter.reaches(self.budget.seconds, self._now()))

    # -- what users do

    def expect(self, shelf: Shelf, leases: int) -> Plan:
        """So many more slots are to be leased."""
        shelf.expected += leases
        shelf.foreseen = shelf.foreseen or leases > 0
        shelf.dormant = False
        return self._settle(Plan(), shelf)

    def has(self, shelf: Shelf, waiter: Waiter) -> bool:
        """Whether a wish would be granted at once."""
        waiter.alone = waiter.alone and shelf.slots_each > 1
        return not self.closed and not self.used_up and not shelf.waiting and shelf.can_serve(waiter)

    def ask(self, shelf: Shelf, waiter: Waiter) -> Plan:
        """Queue a wish behind all others. Raises ValueError for more than there can ever be."""
        most = shelf.maximum if self.cap is None else min(shelf.maximum, self.cap)
        if shelf.sandboxes_for(waiter) > most:
            raise ValueError(f"{waiter.count} slots are more than {most} sandboxes have")
        waiter.turn = next(self._turns)
        shelf.expected = max(0, shelf.expected - waiter.count)
        return self._queue(shelf, waiter, Plan())

    def exchange(self, shelf: Shelf, slot: SandboxSlot, waiter: Waiter) -> Plan:
        """A lease wants one of its slots anew: reset, where that can be; else another, before everybody's wishes.

        A lease that holds something must not wait behind others, and fails rather than wait for itself.
        """
        plan = Plan()
        occupancy = self._of.get(slot.sandbox)
        if (
            occupancy is not None
            and not occupancy.spoilt
            and slot.sandbox.can_reset
            and occupancy.leased.get(slot) is waiter.lease_of
        ):
            with shelf.refiling(occupancy):
                del occupancy.leased[slot]
                occupancy.resetting[slot] = waiter
            plan.reset.append(slot)
            return plan
        self._take_back(slot, plan)
        waiter.turn = next(self._exchanges)
        return self._queue(shelf, waiter, plan)

    def _queue(self, shelf: Shelf, waiter: Waiter, plan: Plan) -> Plan:
        waiter.alone = waiter.alone and shelf.slots_each > 1
        shelf.waiting.add(waiter)
        shelf.discouraged = shelf.dormant = False
        return self._settle(plan, shelf)

    def _queue_heir(self, shelf: Shelf, waiter: Waiter) -> None:
        """A slot was to go back to it, and cannot."""
        waiter.turn = next(self._exchanges)
        shelf.waiting.add(waiter)

    def give_up(self, shelf: Shelf, waiter: Waiter) -> Plan:
        """A wish is withdrawn; what it was granted meanwhile comes back."""
        if waiter in shelf.waiting:
            shelf.waiting.remove(waiter)
            return self._settle(Plan(), shelf)
        for occupancy in shelf.sandboxes.values():
            for slot, heir in occupancy.resetting.items():
                if heir is waiter:
                    with shelf.refiling(occupancy):
                        occupancy.resetting[slot] = None
                    return self._settle(Plan(), shelf)
        return self.give_back(waiter.granted or [], waiter.lease_of)

    def give_back(self, slots: Iterable[SandboxSlot], owner: Waiter) -> Plan:
        """A lease has ended. Its slots are reset where that can be, else their sandboxes ended.

        Slots that are not `owner`'s any more are left alone: it has given up waiting for their reset.
        """
        plan = Plan()
        for slot in slots:
            if self.leases_of(slot.sandbox).get(slot) is not owner:
                continue
            shelf = self.shelf_of(slot.sandbox)
            self._take_back(slot, plan)
            if shelf is not None:
                self._settle(plan, shelf)
        return plan

    def _take_back(self, slot: SandboxSlot, plan: Plan) -> None:
        occupancy = self._of.get(slot.sandbox)
        if occupancy is None or slot not in occupancy.leased:
            return
        with occupancy.shelf.refiling(occupancy):
            del occupancy.leased[slot]
            if not slot.sandbox.can_reset:
                occupancy.spoilt = True
            elif not (occupancy.is_leaving and occupancy.is_empty):
                # also where nobody is to have it again: what runs in it has to end
                occupancy.resetting[slot] = None
                plan.reset.append(slot)
        self._retire_if_left(occupancy, plan)

    def keep(self, sandbox: Sandbox, lease: Waiter) -> bool:
        """Lease nothing of a sandbox any more, if nobody but `lease` is in it; returns whether that is so."""
        occupancy = self._of.get(sandbox)
        if (
            occupancy is None
            or occupancy.resetting
            or any(owner is not lease for owner in occupancy.leased.values())
        ):
            return False
        with occupancy.shelf.refiling(occupancy):
            occupancy.spoilt = True
        return True

    def forget(self, sandbox: Sandbox) -> Plan:
        """A sandbox is for somebody else to end."""
        return self._settle(Plan(), self._let_go(sandbox))

    # -- what happens

    def started(self, shelf: Shelf, sandbox: Sandbox) -> Plan:
        """A start has succeeded."""
        shelf.starting -= 1
        shelf.setbacks.overcome()
        shelf.discouraged = False
        shelf.gate.succeeded()
        if self.closed:
            plan = Plan()
            self._end(sandbox, shelf, plan)
            return plan
        self._take_in(shelf, sandbox)
        return self._settle(Plan(), shelf)

    def start_failed(self, shelf: Shelf, error: Exception, *, final: bool) -> Plan:
        """A start has failed. After `start_attempts` in a row, or a `final` one, those who wait are told.

        In between, no other is made for a while. What fails meanwhile was begun together with what has failed already,
        and is no other attempt. Nor is what the backend has turned away because there were too many.
        """
        now = self._now()
        shelf.starting -= 1
        shelf.setbacks.last_error = error
        plan = Plan()
        if isinstance(error, RateLimitedError):
            shelf.gate.turned_away(now, error.retry_after)
        elif not final:
            shelf.setbacks.add(now, self._jitter)
        if final or shelf.setbacks.count >= self._start_attempts:
            self._fail_all(shelf, error, plan)
            shelf.setbacks.told()
            shelf.discouraged = True
        return self._settle(plan, shelf)

    def _fail_all(self, shelf: Shelf, error: Exception, plan: Plan) -> None:
        for waiter in list(shelf.waiting):
            shelf.waiting.remove(waiter)
            plan.failed.append((waiter, error))

    def was_reset(self, slot: SandboxSlot, *, clean: bool) -> Plan:
        """A reset has ended. A sandbox with a slot that is not clean for certain is for nobody any more."""
        plan = Plan()
        occupancy = self._of.get(slot.sandbox)
        if occupancy is None or slot not in occupancy.resetting:  # lost, or all closed, meanwhile
            return plan
        shelf = occupancy.shelf
        with shelf.refiling(occupancy):
            heir = occupancy.resetting.pop(slot)
            if not clean:
                occupancy.spoilt = True
            elif heir is None:
                occupancy.free.append(slot)
            else:
                occupancy.leased[slot] = heir.lease_of
                heir.granted = [slot]
                plan.granted.append(heir)
        if heir is not None and not clean:
            self._queue_heir(shelf, heir)
        self._retire_if_left(occupancy, plan)
        return self._settle(plan, shelf)

    def lost(self, sandbox: Sandbox) -> Plan:
        """A sandbox has ended by itself: it leaves its room to others, however long its leases go on."""
        occupancy = self._of.get(sandbox)
        if occupancy is None:
            return Plan()
        plan = Plan()
        for heir in occupancy.resetting.values():
            if heir is not None:
                self._queue_heir(occupancy.shelf, heir)
        self._retire(occupancy, plan)
        return self._settle(plan, occupancy.shelf)

    def has_closed(self, sandbox: Sandbox) -> Plan:
        """A sandbox that was to be closed has been."""
        return self._settle(Plan(), self._is_gone(sandbox))

    def stop(self, error: Exception) -> Plan:
        """Lease and start nothing any more; those who wait get `error`."""
        plan = Plan()
        if self.closed:
            return plan
        self.closed = True
        for occupancy in self._of.values():
            plan.failed += [(heir, error) for heir in occupancy.resetting.values() if heir is not None]
            with occupancy.shelf.refiling(occupancy):
                occupancy.resetting = dict.fromkeys(occupancy.resetting)
        for shelf in self.shelves:
            self._fail_all(shelf, error, plan)
        return plan

    def look(self) -> Plan:
        """See to what has become due."""
        plan = Plan()
        if self.closed:
            return plan
        now = self._now()
        due = self._agenda.take(now)
        for shelf in due:
            for occupancy in worn_out(shelf, now):
                with shelf.refiling(occupancy):
                    occupancy.worn = True
                self._retire_if_left(occupancy, plan)
            while (idle := not_needed(shelf, now)) is not None:
                self._retire(idle, plan)
        for shelf in due or self.shelves[:1]:
            self._settle(plan, shelf)
            if self.cap is not None:  # that was for all of them
                break
        return plan

    def park(self) -> Plan:
        """After `stop` and the last reset: let clean sandboxes live on, as many as are idle while nobody leases."""
        plan = Plan()
        for shelf in self.shelves:
            most = max(shelf.profile.min_sandboxes, shelf.profile.buffer_sandboxes)
            clean = [occupancy for occupancy in shelf.idle if occupancy.sandbox.can_reset]
            for occupancy in clean[-most:] if most else ():
                self.forget(occupancy.sandbox)
                plan.park.append(occupancy.sandbox)
        return plan

    def close(self, error: Exception) -> Plan:
        """End everything; those who wait get `error`."""
        plan = self.stop(error)
        for occupancy in list(self._of.values()):
            self._retire(occupancy, plan)
        return plan

    # -- what follows

    def _settle(self, plan: Plan, shelf: Shelf) -> Plan:
        """Grant what can be granted, and see to what is missing: after a change to `shelf`, or to the room for all."""
        if self.closed:
            return plan
        now = self._now()
        self._watch_budget(shelf, now, plan)
        shelves = self.shelves if self.cap is not None else [*{shelf: None, **shelf.gate.held}]
        self._serve_all(shelves, plan, now)
        while stuck := in_vain(shelves, self.cap):
            where, waiter = stuck
            where.waiting.remove(waiter)
            plan.failed.append((waiter, self._why_in_vain(waiter)))
            self._serve_all(shelves, plan, now)  # others may have waited behind it
        if self.used_up:
            self._end_unused(plan)
        for each in shelves:
            if each.needed_after_all and not each.waiting:
                each.needed_after_all = False
                each.agenda.note(each, now + each.patience)
        return plan

    def _watch_budget(self, shelf: Shelf, now: float, plan: Plan) -> None:
        """Once the budget is used up, lease nothing more: what is in use goes on, and may be made as new."""
        if self.budget is None or self._meter.reaches(self.budget.seconds, now) > now:
            return
        shelves = [shelf] if self.used_up else self.shelves
        self.used_up = True
        refused = [(each, waiter) for each in shelves for waiter in each.waiting if not waiter.is_exchange]
        if refused:
            error = BudgetExceededError(describe_budget(self.budget, self.shelves, now))
        for each, waiter in refused:
            each.waiting.remove(waiter)
            plan.failed.append((waiter, error))

    def _end_unused(self, plan: Plan) -> None:
        for shelf in self.shelves:
            while shelf.idle:
                self._retire(next(iter(shelf.idle)), plan)

    def _why_in_vain(self, waiter: Waiter) -> Exception:
        held = [each.sandbox.name for each in self._of.values() if waiter.lease_of in owners(each)]
        return SandboxLostError(
            "a slot that was to be made as new needs another sandbox, and none can come before its lease ends, which "
            f"has slots of {', '.join(held)}: there may be no more sandboxes"
        )

    def _serve_all(self, shelves: list[Shelf], plan: Plan, now: float) -> None:
        self._drain_no_more()
        pass_ = Round(
            shelves,
            plan,
            now,
            room=math.inf if self.cap is None else self.cap - self.total,
            leaving=self._leaving,
            end=self._retire,
            drain=self._drain,
        )
        pass_.serve()
        if not self.used_up:
            pass_.warm_up()

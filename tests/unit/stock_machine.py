"""All that a pool may do with its stock, in any order, beside a simpler account of what comes of it."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pytest_sandboxes.errors import PoolClosedError, RateLimitedError, SandboxStartError
from pytest_sandboxes.pool.state import Plan, Shelf, Waiter
from tests.unit.fake_stock import FakeSandbox
from tests.unit.stock_model import StockModel

# Functions with names, because some versions of hypothesis look up the source of a lambda before each step.


def _has_leases(machine: StockMachine) -> bool:
    return bool(machine.held)


def _has_slots(machine: StockMachine) -> bool:
    return any(machine.held.values())


def _has_waiters_or_leases(machine: StockMachine) -> bool:
    return any(machine.queues.values()) or bool(machine.held)


def _has_starts(machine: StockMachine) -> bool:
    return machine.starting.total() > 0


def _has_resets(machine: StockMachine) -> bool:
    return bool(machine.resetting)


def _has_sandboxes(machine: StockMachine) -> bool:
    return bool(machine.home)


def _has_closing(machine: StockMachine) -> bool:
    return bool(machine.closing)


class StockMachine(StockModel):
    """The rules, and an end from wherever they have got to."""

    # -- what users do

    @rule(data=st.data(), leases=st.integers(0, 6))
    def expect(self, data: st.DataObject, leases: int) -> None:
        self.carry_out(self.stock.expect(data.draw(st.sampled_from(self.shelves)), leases))

    @rule(data=st.data(), alone=st.booleans())
    def ask(self, data: st.DataObject, alone: bool) -> None:
        shelf = data.draw(st.sampled_from(self.shelves))
        most = min(shelf.maximum, self.stock.cap or shelf.maximum) * shelf.slots_each
        self.queue(shelf, Waiter(data.draw(st.integers(1, most)), "somebody", alone=alone))

    def queue(self, shelf: Shelf, waiter: Waiter) -> None:
        self.queues[shelf].append(waiter)
        at_once = self.stock.has(shelf, waiter)
        plan = self.stock.ask(shelf, waiter)
        assert (waiter in plan.granted) is at_once
        self.carry_out(plan)

    @precondition(_has_leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.give_back_all(data.draw(st.sampled_from(list(self.held))))

    def give_back_all(self, owner: Waiter) -> None:
        # what it has given up waiting for is still its own for all it knows
        self.carry_out(self.stock.give_back([*self.held.pop(owner), *self.given_up.pop(owner, ())], owner))

    @precondition(_has_slots)
    @rule(data=st.data())
    def exchange(self, data: st.DataObject) -> None:
        self.exchange_one(
            data.draw(st.sampled_from([waiter for waiter, slots in self.held.items() if slots]))
        )

    def exchange_one(self, owner: Waiter) -> None:
        slot = self.held[owner].pop()
        shelf = self.came_from[slot.sandbox]
        waiter = Waiter(1, "somebody", alone=owner.alone, lease_of=owner)
        if slot.sandbox.can_reset and slot.sandbox not in self.spoilt | self.lost_ones:
            self.resetting[slot] = waiter
        else:
            self.spoil_if_not_to_be_reset(slot)
            self.queue_first(shelf, waiter)
        self.carry_out(self.stock.exchange(shelf, slot, waiter))

    def queue_first(self, shelf: Shelf, waiter: Waiter) -> None:
        queue = self.queues[shelf]
        queue.insert(sum(each.lease_of is not each for each in queue), waiter)

    def spoil_if_not_to_be_reset(self, slot: Any) -> None:
        if not slot.sandbox.can_reset:
            self.spoilt.add(slot.sandbox)

    @precondition(_has_waiters_or_leases)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiting = [waiter for queue in self.queues.values() for waiter in queue]
        heirs = [heir for heir in self.resetting.values() if heir]
        waiter = data.draw(st.sampled_from([*waiting, *heirs, *self.held]))
        if waiter in waiting:
            shelf = self.shelf_of(waiter)
            self.queues[shelf].remove(waiter)
        elif waiter in heirs:
            (slot,) = [slot for slot, heir in self.resetting.items() if heir is waiter]
            shelf = self.home[slot.sandbox]
            self.resetting[slot] = None
            self.given_up.setdefault(waiter.lease_of, []).append(slot)
        elif self.held[waiter] and self.held[waiter] == waiter.granted:
            shelf = self.came_from[self.held.pop(waiter)[0].sandbox]
        else:
            return  # it has its lease already, and has had a slot exchanged
        self.carry_out(self.stock.give_up(shelf, waiter))

    @precondition(_has_slots)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from([waiter for waiter, slots in self.held.items() if slots]))
        sandbox = self.held[owner][0].sandbox
        busy = self.others_in(sandbox, owner) or any(slot in self.resetting for slot in sandbox.slots)
        busy = busy or sandbox in self.lost_ones
        assert self.stock.keep(sandbox, owner) is not busy
        if not busy:
            self.held[owner] = [slot for slot in self.held[owner] if slot.sandbox is not sandbox]
            del self.home[sandbox]
            self.carry_out(self.stock.forget(sandbox))

    # -- what happens

    @rule(seconds=st.integers(0, 8))
    def time_passes(self, seconds: int) -> None:
        self.time.now += seconds
        if self.stock.due <= self.time.now:
            self.look()

    def look(self) -> None:
        self.carry_out(self.stock.look())
        assert self.stock.due > self.time.now, "it would look for ever"

    @precondition(_has_starts)
    @rule(data=st.data(), can_reset=st.booleans())
    def started(self, data: st.DataObject, can_reset: bool) -> None:
        self.finish_start(data.draw(st.sampled_from(list(+self.starting))), can_reset=can_reset)

    def finish_start(self, shelf: Shelf, *, can_reset: bool) -> None:
        self.starting[shelf] -= 1
        fresh: Any = FakeSandbox(shelf.slots_each, can_reset=can_reset)
        self.home[fresh] = self.came_from[fresh] = shelf
        self.carry_out(self.stock.started(shelf, fresh))

    @precondition(_has_starts)
    @rule(data=st.data(), final=st.booleans())
    def start_failed(self, data: st.DataObject, final: bool) -> None:
        self.fail_start(data.draw(st.sampled_from(list(+self.starting))), final=final)

    @precondition(_has_starts)
    @rule(data=st.data(), retry_after=st.none() | st.integers(-1, 100))
    def turned_away(self, data: st.DataObject, retry_after: int | None) -> None:
        shelf = data.draw(st.sampled_from(list(+self.starting)))
        self.starting[shelf] -= 1
        error = RateLimitedError("slower", retry_after=retry_after)
        setbacks = shelf.setbacks.count
        plan = self.stock.start_failed(shelf, error, final=False)
        assert shelf.setbacks.count == setbacks, "it is no failure"
        assert not any(told is error for _, told in plan.failed)
        self.carry_out(plan)

    def fail_start(self, shelf: Shelf, *, final: bool) -> None:
        error = SandboxStartError("it did not start")
        waiting = len(self.queues[shelf])
        self.starting[shelf] -= 1
        plan = self.stock.start_failed(shelf, error, final=final)
        assert len(plan.failed) == waiting or not final, "nobody was told"
        self.carry_out(plan, error)

    @precondition(_has_resets)
    @rule(data=st.data(), clean=st.booleans())
    def was_reset(self, data: st.DataObject, clean: bool) -> None:
        self.finish_reset(data.draw(st.sampled_from(list(self.resetting))), clean=clean)

    def finish_reset(self, slot: Any, *, clean: bool) -> None:
        heir = self.resetting[slot]
        if not clean:
            self.spoilt.add(slot.sandbox)
        if heir is None or not clean:
            del self.resetting[slot]
        if heir is not None and not clean:
            self.queue_first(self.home[slot.sandbox], heir)
        self.carry_out(self.stock.was_reset(slot, clean=clean))

    @precondition(_has_sandboxes)
    @rule(data=st.data())
    def lost(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(list(self.home)))
        self.lost_ones.add(gone)
        under_way = [slot for slot in self.resetting if slot.sandbox is gone]
        for slot in under_way:
            heir = self.resetting.pop(slot)
            if heir is not None:
                self.queue_first(self.home[gone], heir)
        self.carry_out(self.stock.lost(gone))
        assert gone in self.closing, "it keeps its room"
        for slot in under_way:
            assert self.stock.was_reset(slot, clean=data.draw(st.booleans())) == Plan()

    @precondition(_has_closing)
    @rule(data=st.data())
    def has_closed(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(list(self.closing)))
        del self.closing[gone]
        self.carry_out(self.stock.has_closed(gone))

    def teardown(self) -> None:
        """From wherever this has got to: when nothing starts, it ends; when all goes well, all are served."""
        if not hasattr(self, "stock"):
            return
        self.give_up_after_failures()
        self.serve_everybody()
        self.close()

    def give_up_after_failures(self) -> None:
        failures = 0
        # with each closed, another shelf may try its luck
        most = (self.starting.total() + len(self.home) + len(self.closing) + 1) * (
            sum(shelf.maximum + 1 for shelf in self.shelves) * self.attempts
        )
        while self.starting.total() or any(self.queues.values()):
            if self.starting.total():
                self.fail_start(next(iter(+self.starting)), final=False)
                failures += 1
                assert failures <= most, "tries for ever"
            elif self.stock.due < math.inf and not self.is_settled():
                self.carry_out(self.time.until_due(self.stock))
            else:
                break
            self.agrees()

    def is_settled(self) -> bool:
        """Whether nothing is waited for but the end of leases, resets and sandboxes."""
        return not any(shelf.gate.held or shelf.setbacks.retry_at > self.time.now for shelf in self.shelves)

    def serve_everybody(self) -> None:
        asked = []
        exchanged: set[Waiter] = set()
        for number in range(4 * len(self.shelves)):
            shelf = self.shelves[number % len(self.shelves)]
            most = min(shelf.maximum, self.stock.cap or shelf.maximum) * shelf.slots_each
            asked.append(Waiter(1 + number % most, "somebody", alone=number % 3 == 0))
            self.queue(shelf, asked[-1])
        for _ in range(1000):
            if self.closing:
                self.carry_out(self.stock.has_closed(self.closing.popitem()[0]))
            elif self.resetting:
                slot, heir = next(iter(self.resetting.items()))
                self.finish_reset(slot, clean=heir is None)
            elif self.starting.total():
                self.finish_start(next(iter(+self.starting)), can_reset=bool(self.starting.total() % 2))
            elif ending := [
                owner for owner in self.held if owner not in self.stuck and self.has_something(owner)
            ]:  # whoever holds only what is gone may go on for ever, and is in nobody's way
                if ending[0] in exchanged:
                    self.give_back_all(ending[0])
                else:  # each wants one of its slots anew once, and no such reset goes well
                    exchanged.add(ending[0])
                    self.exchange_one(ending[0])
            elif any(self.queues.values()) and self.stock.due < math.inf:
                self.carry_out(self.time.until_due(self.stock))
            else:
                break
            self.agrees()
            self.never_too_many()
            self.nobody_waits_for_nothing()
        assert self.stock.used_up or all(waiter.granted for waiter in asked), "somebody waits for ever"
        assert not any(self.queues.values()), "somebody still waits"

    def close(self) -> None:
        held = list(self.held.items())
        self.held.clear()
        resetting = list(self.resetting)
        error = PoolClosedError("over")
        plan = self.stock.close(error)
        self.carry_out(plan, error)
        assert not self.home
        late = [self.stock.was_reset(each, clean=True) for each in resetting]
        nothing = (
            *(self.stock.give_back(slots, owner) for owner, slots in held),
            self.stock.expect(self.shelves[0], 9),
            self.stock.close(error),
            *late,
        )
        assert all(each == Plan() for each in nothing)
        while self.starting.total():
            self.finish_start(next(iter(+self.starting)), can_reset=False)
            assert not self.home, "started for a pool that is closed"
        while self.closing:
            assert self.stock.has_closed(self.closing.popitem()[0]) == Plan()
        assert self.stock.total == 0

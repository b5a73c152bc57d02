from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_sandboxes.errors import PoolClosedError, SandboxStartError
from pytest_sandboxes.pool_state import Plan, Shelf, Waiter


@dataclass(eq=False)
class FakeSandbox:
    name: str
    can_reset: bool = False


_numbers = count(1)


def sandbox(*, can_reset: bool = False) -> FakeSandbox:
    return FakeSandbox(f"fake-{next(_numbers)}", can_reset)


FakeWaiter = Waiter[FakeSandbox]


class ShelfMachine(RuleBasedStateMachine):
    """All that a pool may do with a shelf, in any order, beside a model that knows only what it was told."""

    @initialize(
        maximum=st.integers(1, 5),
        buffer=st.integers(0, 4),
        minimum=st.integers(0, 5),
        attempts=st.integers(1, 3),
    )
    def make(self, maximum: int, buffer: int, minimum: int, attempts: int) -> None:
        self.attempts = attempts
        self.shelf: Shelf[FakeSandbox] = Shelf(maximum, buffer, minimum, attempts)
        self.starting = 0
        self.alive: set[FakeSandbox] = set()
        self.idle: set[FakeSandbox] = set()
        self.resetting: set[FakeSandbox] = set()
        self.queue: deque[FakeWaiter] = deque()
        self.held: dict[FakeWaiter, list[FakeSandbox]] = {}

    def carry_out(self, plan: Plan[FakeSandbox], error: Exception | None = None) -> None:
        """Do what a plan says, and check that it may."""
        for waiter in plan.granted:
            assert waiter is self.queue.popleft(), "served out of order"
            assert waiter.granted is not None
            assert len(set(waiter.granted)) == len(waiter.granted) == waiter.count, "served in part"
            assert self.idle.issuperset(waiter.granted), "somebody else's, or gone"
            self.idle.difference_update(waiter.granted)
            self.held[waiter] = list(waiter.granted)
        assert [waiter for waiter, _ in plan.failed] in ([], list(self.queue))
        assert all(told is error for _, told in plan.failed)
        if plan.failed:
            self.queue.clear()
        assert plan.start >= 0
        self.starting += plan.start
        for each in plan.reset:
            assert each.can_reset
            assert each not in self.resetting | self.idle, "reset while it is somewhere else"
            self.resetting.add(each)
        for each in plan.close:
            self.alive.remove(each)  # a KeyError means: closed twice
            self.idle.discard(each)
            self.resetting.discard(each)
            for sandboxes in self.held.values():
                assert each not in sandboxes, "closed while it was leased"

    # -- what users do

    @rule(leases=st.integers(0, 6))
    def expect(self, leases: int) -> None:
        self.carry_out(self.shelf.expect(leases))

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        waiter = FakeWaiter(data.draw(st.integers(1, self.shelf.maximum)), "somebody")
        self.queue.append(waiter)
        self.carry_out(self.shelf.ask(waiter))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(list(self.held)))
        self.carry_out(self.shelf.give_back(self.held.pop(waiter)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def exchange(self, data: st.DataObject) -> None:
        sandboxes = self.held[data.draw(st.sampled_from(list(self.held)))]
        if sandboxes:
            waiter = FakeWaiter(1, "somebody")
            self.queue.appendleft(waiter)
            self.carry_out(self.shelf.exchange(sandboxes.pop(), waiter))

    @precondition(lambda self: self.queue or self.held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from([*self.queue, *self.held]))
        if waiter in self.queue:
            self.queue.remove(waiter)
        elif self.held[waiter] != waiter.granted:
            return  # it has its lease already, and has had a slot replaced
        self.held.pop(waiter, None)
        self.carry_out(self.shelf.give_up(waiter))

    # -- what happens

    @precondition(lambda self: self.starting)
    @rule(can_reset=st.booleans())
    def started(self, can_reset: bool) -> None:
        self.starting -= 1
        fresh = sandbox(can_reset=can_reset)
        self.alive.add(fresh)
        self.idle.add(fresh)
        self.carry_out(self.shelf.started(fresh))

    @precondition(lambda self: self.starting)
    @rule(final=st.booleans())
    def start_failed(self, final: bool) -> None:
        error = SandboxStartError("it did not start")
        waiting = len(self.queue)
        self.starting -= 1
        plan = self.shelf.start_failed(error, final=final)
        assert len(plan.failed) == waiting or not final, "nobody was told"
        self.carry_out(plan, error)

    @precondition(lambda self: self.resetting)
    @rule(data=st.data(), clean=st.booleans())
    def was_reset(self, data: st.DataObject, clean: bool) -> None:
        done = data.draw(
            st.sampled_from(sorted(self.resetting, key=lambda each: int(each.name.partition("-")[2])))
        )
        self.finish_reset(done, clean=clean)

    def finish_reset(self, done: FakeSandbox, *, clean: bool) -> None:
        self.resetting.remove(done)
        if clean:
            self.idle.add(done)
        plan = self.shelf.was_reset(done, clean=clean)
        assert (done in plan.close) is not clean
        self.carry_out(plan)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def lost(self, data: st.DataObject) -> None:
        gone = data.draw(
            st.sampled_from(sorted(self.alive, key=lambda each: int(each.name.partition("-")[2])))
        )
        was_idle = gone in self.idle
        leased, plan = self.shelf.lost(gone)
        assert leased is any(gone in sandboxes for sandboxes in self.held.values())
        assert (gone in plan.close) is was_idle
        self.carry_out(plan)

    # -- what always holds

    @invariant()
    def agrees(self) -> None:
        shelf = self.shelf
        assert shelf.starting == self.starting
        assert set(shelf.idle) == self.idle
        assert len(shelf.idle) == len(self.idle)
        assert list(shelf.waiting) == list(self.queue)
        assert set(shelf.leased) == {each for sandboxes in self.held.values() for each in sandboxes}
        assert shelf.resetting == self.resetting
        assert self.alive == self.idle | set(shelf.leased) | self.resetting
        assert shelf.total == self.starting + len(self.alive)

    @invariant()
    def never_too_many(self) -> None:
        assert self.shelf.total <= self.shelf.maximum

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if self.queue:
            assert len(self.idle) < self.queue[0].count, "what is there is not handed out"
            coming = self.starting or self.resetting
            assert coming or self.shelf.total == self.shelf.maximum, "nothing will ever come"

    def teardown(self) -> None:
        """From wherever this has got to: when nothing starts, it ends; when all goes well, all are served."""
        if not hasattr(self, "shelf"):
            return
        self.give_up_after_failures()
        self.serve_everybody()
        self.close()

    def close(self) -> None:
        held = [each for sandboxes in self.held.values() for each in sandboxes]
        self.held.clear()
        error = PoolClosedError("over")
        self.carry_out(self.shelf.close(error), error)
        assert self.alive == set()
        late = [self.shelf.was_reset(each, clean=True) for each in held]
        for nothing in (self.shelf.give_back(held), self.shelf.expect(9), self.shelf.close(error), *late):
            assert nothing == Plan()
        while self.starting:
            self.starting -= 1
            fresh = sandbox()
            plan = self.shelf.started(fresh)
            assert (plan.close, plan.start) == ([fresh], 0), "started for a pool that is closed"
            self.agrees()

    def give_up_after_failures(self) -> None:
        in_flight = self.starting
        failures = 0
        while self.starting:
            self.start_failed(final=False)
            failures += 1
            assert failures <= in_flight + self.attempts * (self.shelf.maximum + 1), "tries for ever"
            self.agrees()
        assert not self.queue or self.resetting or self.shelf.total == self.shelf.maximum

    def serve_everybody(self) -> None:
        asked = [FakeWaiter(1 + number % self.shelf.maximum, "somebody") for number in range(4)]
        for waiter in asked:
            self.queue.append(waiter)
            self.carry_out(self.shelf.ask(waiter))
        for _ in range(10 * self.shelf.maximum * len(self.queue)):
            if self.resetting:
                self.finish_reset(min(self.resetting, key=lambda each: each.name), clean=True)
            elif self.starting:
                self.started(can_reset=bool(self.starting % 2))
            elif self.held:
                self.carry_out(self.shelf.give_back(self.held.pop(next(iter(self.held)))))
            self.agrees()
            self.nobody_waits_for_nothing()
        assert all(waiter.granted for waiter in asked), "somebody waits for ever"


TestShelf = ShelfMachine.TestCase
TestShelf.settings = settings(max_examples=150, stateful_step_count=40)


def shelf(maximum: int = 4, buffer: int = 0, minimum: int = 0, attempts: int = 2) -> Shelf[FakeSandbox]:
    return Shelf(maximum, buffer, minimum, attempts)


def test_nothing_is_started_before_somebody_needs_it() -> None:
    made = shelf(buffer=2)
    assert made.total == 0
    assert made.expect(0) == Plan()
    assert made.expect(1) == Plan(start=1)
    assert made.expect(5) == Plan(start=1)


def test_no_more_is_warmed_up_than_is_still_to_come() -> None:
    made = shelf(buffer=3)
    assert made.expect(2).start == 2
    assert made.ask(FakeWaiter(1, "first")).start == 0, "one is for the first, one for the second"
    assert made.ask(FakeWaiter(1, "second")).start == 0
    assert made.ask(FakeWaiter(1, "third, which nobody had expected")).start == 1


def test_a_minimum_is_kept() -> None:
    made = shelf(minimum=2)
    assert made.expect(0).start == 2
    first = sandbox()
    made.started(first)
    assert made.lost(first) == (False, Plan(start=1, close=[first]))


def test_an_exchange_goes_first() -> None:
    made = shelf(maximum=1)
    holder, next_one, fresh = FakeWaiter(1, "holder"), FakeWaiter(1, "next"), FakeWaiter(1, "holder again")
    made.ask(holder)
    old = sandbox()
    made.started(old)
    made.ask(next_one)
    assert made.exchange(old, fresh) == Plan(start=1, close=[old])
    assert made.started(sandbox()).granted == [fresh]


def test_an_exchange_for_what_is_there_is_made_at_once() -> None:
    made = shelf(buffer=1, minimum=2)
    holder, fresh = FakeWaiter(1, "holder"), FakeWaiter(1, "holder again")
    made.ask(holder)
    old, spare = sandbox(), sandbox()
    made.started(old)
    made.started(spare)
    assert made.exchange(old, fresh).granted == [fresh]
    assert fresh.granted == [spare]


def test_what_can_be_reset_is_kept_and_what_is_not_clean_is_not() -> None:
    made = shelf(maximum=1)
    first, second, kept = FakeWaiter(1, "first"), FakeWaiter(1, "second"), sandbox(can_reset=True)
    made.ask(first)
    made.started(kept)
    assert made.give_back([kept]) == Plan(reset=[kept])
    assert made.ask(second) == Plan(), "it will soon be there"
    assert made.was_reset(kept, clean=True).granted == [second]
    made.give_back([kept])
    assert made.was_reset(kept, clean=False) == Plan(close=[kept])
    assert made.was_reset(kept, clean=True) == Plan()


def test_a_small_wish_does_not_overtake_a_large_one() -> None:
    made = shelf(maximum=2)
    large, small = FakeWaiter(2, "large"), FakeWaiter(1, "small")
    made.ask(large)
    made.ask(small)
    assert made.started(sandbox()).granted == []
    assert made.started(sandbox()).granted == [large]


def test_a_wish_that_cannot_come_true_is_refused() -> None:
    with pytest.raises(ValueError, match="5 slots are more than the 4"):
        shelf(maximum=4).ask(FakeWaiter(5, "greedy"))


def test_a_wish_that_is_withdrawn_gives_back_what_it_has_been_granted() -> None:
    made = shelf(maximum=1)
    hasty, next_one, fresh = FakeWaiter(1, "hasty"), FakeWaiter(1, "next"), sandbox()
    made.ask(hasty)
    made.ask(next_one)
    made.started(fresh)
    assert made.give_up(hasty) == Plan(start=1, close=[fresh])
    assert made.give_up(next_one) == Plan()
    assert list(made.waiting) == []


def test_failures_in_a_row_are_told_to_all_who_wait() -> None:
    made = shelf(attempts=2)
    waiters = [FakeWaiter(1, str(number)) for number in range(2)]
    for waiter in waiters:
        made.ask(waiter)
    first, second = SandboxStartError("first"), SandboxStartError("second")
    assert made.start_failed(first, final=False) == Plan(start=1)
    assert made.start_failed(second, final=False).failed == [(waiter, second) for waiter in waiters]


def test_a_success_between_failures_starts_the_count_again() -> None:
    made = shelf(attempts=2)
    error = SandboxStartError("no")
    for _ in range(3):
        made.ask(FakeWaiter(1, "one"))
        assert made.start_failed(error, final=False) == Plan(start=1)
        assert len(made.started(sandbox()).granted) == 1


def test_a_final_failure_is_told_at_once() -> None:
    made = shelf(attempts=3)
    waiter, error = FakeWaiter(1, "one"), SandboxStartError("for good")
    made.ask(waiter)
    assert made.start_failed(error, final=True) == Plan(failed=[(waiter, error)])


def test_what_fails_is_not_warmed_up_again_until_somebody_waits() -> None:
    made = shelf(buffer=2, attempts=2)
    error = SandboxStartError("no")
    assert made.expect(10).start == 2
    for _ in range(3):
        plan = made.start_failed(error, final=False)
        if not made.starting:
            break
    assert (made.starting, plan.start) == (0, 0)
    assert made.ask(FakeWaiter(1, "one")).start == 3

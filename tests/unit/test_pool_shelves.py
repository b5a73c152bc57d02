"""The pool's decisions about several recipes under a cap on all their sandboxes."""

from __future__ import annotations

from typing import Any, cast

from pytest_sandboxes.pool.state import Plan, Waiter
from pytest_sandboxes.pool.stock import Stock
from tests.unit.fake_stock import FakeSandbox, give_back, recipe


class Capped:
    """A stock under a cap, whose sandboxes start at once and end when they are told to."""

    def __init__(self, cap: int, *recipes: tuple[Any, Any]) -> None:
        self.stock = Stock(cap, 1)
        self.shelves = [self.stock.add_shelf(*each) for each in recipes]
        self.closing: list[Any] = []
        self.closed: list[Any] = []

    def ask(self, shelf: int, slots: int = 1, *, alone: bool = False) -> Waiter:
        waiter = Waiter(slots, f"of {shelf}", alone=alone)
        self.carry_out(self.stock.ask(self.shelves[shelf], waiter))
        return waiter

    def carry_out(self, plan: Plan) -> None:
        for shelf in plan.start:
            fresh: Any = FakeSandbox(shelf.slots_each, can_reset=True)
            self.carry_out(self.stock.started(shelf, fresh))
        for slot in plan.reset:
            self.carry_out(self.stock.was_reset(slot, clean=True))
        self.closing += plan.close
        self.closed += plan.close

    def end(self, waiter: Waiter) -> None:
        self.carry_out(give_back(self.stock, cast("list[Any]", waiter.granted)))

    def finish_closing(self) -> None:
        while self.closing:
            self.carry_out(self.stock.has_closed(self.closing.pop()))


def of(waiter: Waiter) -> Any:
    return cast("list[Any]", waiter.granted)[0].sandbox


def test_the_longest_idle_sandbox_makes_room_and_counts_until_it_is_gone() -> None:
    made = Capped(2, recipe(), recipe(), recipe())
    first, second = made.ask(0), made.ask(1)
    old, younger = of(first), of(second)
    made.end(first)
    made.end(second)
    third = made.ask(2)
    assert made.closed == [old]
    assert third.granted is None, "it is not gone yet"
    made.finish_closing()
    assert third.granted is not None
    assert set(made.stock.sandboxes) == {younger, of(third)}


def test_nothing_that_is_leased_makes_room() -> None:
    made = Capped(1, recipe(), recipe())
    first, second = made.ask(0), made.ask(1)
    assert (second.granted, made.closed) == (None, [])
    made.end(first)
    made.finish_closing()
    assert second.granted is not None


def test_one_closing_makes_room_for_one() -> None:
    made = Capped(2, recipe(), recipe())
    waiters = [made.ask(0), made.ask(0)]
    for each in waiters:
        made.end(each)
    made.ask(1)
    assert len(made.closed) == 1
    made.ask(1)
    assert len(made.closed) == 2


def test_who_asked_first_is_served_first_whatever_the_profile() -> None:
    made = Capped(1, recipe(), recipe(), recipe())
    running = made.ask(0)
    waiters = [made.ask(shelf) for shelf in (1, 2, 0, 1)]
    order = []
    while waiters:
        made.end(running)
        made.finish_closing()
        (running,) = [each for each in waiters if each.granted]
        waiters.remove(running)
        order.append(running.holder)
    assert order == ["of 1", "of 2", "of 0", "of 1"]


def test_a_large_wish_is_not_starved_by_small_ones_of_another_profile() -> None:
    made = Capped(3, recipe(), recipe())
    small = [made.ask(1) for _ in range(3)]
    large = made.ask(0, slots=3)
    for _ in range(3):
        assert large.granted is None
        made.end(small.pop(0))
        small.append(made.ask(1))
        made.finish_closing()
    assert large.granted is not None


def test_a_small_wish_is_not_starved_by_large_ones_of_another_profile() -> None:
    made = Capped(3, recipe(), recipe())
    large = made.ask(0, slots=3)
    small = made.ask(1)
    made.ask(0, slots=3)
    made.end(large)
    made.finish_closing()
    assert small.granted is not None


def test_a_shelf_at_its_own_maximum_holds_nobody_up() -> None:
    made = Capped(3, recipe(maximum=1), recipe())
    made.ask(0)
    stuck = made.ask(0)
    assert made.ask(1).granted is not None
    assert stuck.granted is None


def test_a_shared_sandbox_that_never_becomes_empty_by_itself_makes_room_all_the_same() -> None:
    made = Capped(1, recipe(), recipe(slots=2))
    crowd = [made.ask(1), made.ask(1)]
    waiter = made.ask(0)
    made.end(crowd.pop(0))
    crowd.append(made.ask(1))
    assert crowd[-1].granted is None, "the sandbox takes no new leases"
    made.end(crowd.pop(0))
    made.finish_closing()
    assert waiter.granted is not None


def test_what_is_warmed_up_ends_nothing() -> None:
    made = Capped(1, recipe(), recipe(buffer=2, minimum=1))
    made.end(made.ask(0))
    made.carry_out(made.stock.expect(made.shelves[1], 5))
    assert made.closed == []
    assert made.stock.total == 1


def test_what_was_warmed_up_makes_room_for_who_needs_it_now() -> None:
    made = Capped(2, recipe(buffer=2), recipe())
    made.carry_out(made.stock.expect(made.shelves[0], 2))
    waiter = made.ask(1)
    made.finish_closing()
    assert waiter.granted is not None


def test_a_lease_does_not_wait_under_the_cap_for_room_that_it_has_itself() -> None:
    made = Capped(1, recipe(slots=2))
    wide = made.ask(0, slots=2)
    slot = cast("list[Any]", wide.granted)[0]
    wish = Waiter(1, "of 0", lease_of=wide)
    made.stock.exchange(made.shelves[0], slot, wish)
    assert [failed for failed, _ in made.stock.was_reset(slot, clean=False).failed] == [wish]


def test_an_exchange_waits_under_the_cap_for_room_that_others_have() -> None:
    made = Capped(2, recipe(slots=2), recipe())
    wide, other = made.ask(0, slots=2, alone=True), made.ask(1)
    slot = cast("list[Any]", wide.granted)[0]
    wish = Waiter(1, "of 0", lease_of=wide)
    assert made.stock.exchange(made.shelves[0], slot, wish).reset == [slot]
    assert made.stock.was_reset(slot, clean=False).failed == [], "the other may end"
    again = Waiter(1, "of 1", lease_of=other)
    (of_other,) = cast("list[Any]", other.granted)
    assert made.stock.exchange(made.shelves[1], of_other, again).reset == [of_other]
    assert made.stock.was_reset(of_other, clean=True).granted == [again]
    made.stock.lost(of(other))
    made.finish_closing()
    made.stock.ask(made.shelves[1], Waiter(1, "of 1"))
    plan = made.stock.has_closed(of(other))
    assert plan.start == [made.shelves[0]], "it goes first"


def test_what_is_held_by_who_waits_is_not_emptied_for_others() -> None:
    made = Capped(2, recipe(slots=2), recipe(slots=2))
    wide = made.ask(0, slots=3)
    first, last = (cast("list[Any]", wide.granted)[at] for at in (0, 2))
    made.stock.lost(first.sandbox)
    made.stock.has_closed(first.sandbox)
    holder, neighbour, left = (made.ask(1) for _ in range(3))
    assert left.granted is None
    assert made.stock.give_up(made.shelves[1], left) == Plan()
    slots = [cast("list[Any]", each.granted)[0] for each in (holder, neighbour)]
    made.stock.exchange(made.shelves[1], slots[0], Waiter(1, "of 1", lease_of=holder))
    made.stock.was_reset(slots[0], clean=False)
    wish = Waiter(1, "of 0", lease_of=wide)
    plan = made.stock.exchange(made.shelves[0], first, wish)
    assert plan.granted == [wish], "beside its own"
    assert wish.granted == [last.sandbox.slots[1]]

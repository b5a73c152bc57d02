"""When the pool of one recipe grows ahead of need, and when it shrinks."""

from __future__ import annotations

from math import inf
from typing import Any, cast

from pytest_sandboxes.pool.state import Plan, Waiter
from pytest_sandboxes.pool.stock import Stock
from tests.unit.fake_stock import FakeSandbox, One, Time, give_back, recipe


def granted(waiter: Waiter) -> list[Any]:
    return cast("list[Any]", waiter.granted)


# -- minimum and buffer


def test_the_minimum_is_kept_whatever_is_leased_lost_or_given_back() -> None:
    made = One(minimum=2, maximum=4)
    assert made.expect(0) == 2
    first, _ = made.idle(2)
    lease, plan = made.ask()
    assert plan.start == [], "what is leased is one of them"
    assert made.stock.lost(granted(lease)[0].sandbox).start == [made.shelf]
    made.start()
    assert made.ask()[1].start == []
    assert made.stock.lost(first).start == [made.shelf]


def test_what_is_about_to_leave_is_no_part_of_the_minimum() -> None:
    made = One(minimum=1, maximum=2, max_uses=1)
    made.expect(0)
    made.idle(1)
    assert made.ask()[1].start == [made.shelf]


def test_the_buffer_is_beyond_what_is_leased() -> None:
    made = One(buffer=2, maximum=8)
    made.expect(9)
    made.idle(2)
    assert [made.ask()[1].start for _ in range(2)] == [[made.shelf]] * 2


def test_the_maximum_is_never_passed() -> None:
    made = One(buffer=8, minimum=8, maximum=3)
    assert made.expect(99) == 3
    (first, *_) = made.idle(3)
    assert [made.ask()[1].start for _ in range(5)] == [[]] * 5
    assert made.stock.lost(first).start == [], "it is not gone yet"
    assert made.stock.has_closed(first).start == [made.shelf]


# -- target


def test_the_pool_grows_at_the_target_before_anybody_waits() -> None:
    made = One(slots=4, target_slots_per_sandbox=2)
    made.expect(9)
    _, plan = made.ask()
    assert plan.start == [made.shelf]
    made.start(can_reset=True)
    assert made.ask()[1].start == [made.shelf], "two of four are leased"
    made.start(can_reset=True)
    assert made.ask()[1].start == []
    assert made.ask()[1].start == [made.shelf], "four of eight"


def test_without_a_target_the_pool_grows_when_somebody_waits() -> None:
    made = One(slots=4)
    made.expect(9)
    made.ask()
    made.start(can_reset=True)
    assert [made.ask()[1].start for _ in range(4)] == [[], [], [], [made.shelf]]


def test_a_sandbox_at_its_target_gets_a_lease_only_while_no_other_has_room() -> None:
    made = One(slots=4, target_slots_per_sandbox=2)
    made.expect(99)
    leases = [made.ask()[0]]
    first, _ = made.start(can_reset=True)
    leases += [made.ask()[0] for _ in range(2)]
    assert [granted(each)[0].sandbox for each in leases] == [first] * 3, "nobody waits for another"
    second, _ = made.start(can_reset=True)
    leases = [made.ask()[0] for _ in range(3)]
    assert [granted(each)[0].sandbox for each in leases] == [second, second, first]


def test_the_pool_does_not_grow_for_tests_that_do_not_come() -> None:
    made = One(slots=4, target_slots_per_sandbox=1)
    made.expect(2)
    made.ask()
    made.start(can_reset=True)
    assert made.shelf.starting == 1, "one is still to come"
    made.start(can_reset=True)
    assert made.ask()[1].start == []


# -- idle sandboxes


def test_what_was_used_last_is_leased_first() -> None:
    made = One(minimum=3, slots=2)
    made.expect(0)
    *_, last = made.idle(3)
    (slot,) = granted(made.ask()[0])
    assert slot.sandbox is last
    give_back(made.stock, [slot])
    made.stock.was_reset(slot, clean=True)
    assert granted(made.ask()[0])[0].sandbox is last


def test_what_is_not_needed_ends_after_the_window() -> None:
    made = One(slots=2, buffer=1, maximum=4, scaledown_window=10)
    made.expect(100)
    leases = [made.ask()[0] for _ in range(6)]
    ones = made.idle(4)
    for lease in leases:
        (slot,) = granted(lease)
        give_back(made.stock, [slot])
        made.stock.was_reset(slot, clean=True)
    assert len(made.shelf.idle) == 4
    ended = made.look_after(10).close
    assert len(ended) == 3, "the buffer stays"
    assert set(ended) < set(ones)
    assert made.shelf.total == 4
    assert all(made.stock.has_closed(each) == Plan() for each in ended), "it would grow again at once"


def test_what_is_used_again_within_the_window_does_not_end() -> None:
    made = One(slots=2, scaledown_window=10)
    made.ask()
    (one,) = made.idle(1)
    slot = one.slots[0]
    for _ in range(6):
        give_back(made.stock, [slot])
        made.stock.was_reset(slot, clean=True)
        made.time.now += 9
        made.stock.look()
        (slot,) = granted(made.ask()[0])
        assert slot.sandbox is one


def test_the_buffer_ends_a_window_after_the_last_test_that_it_was_for() -> None:
    made = One(buffer=1, scaledown_window=10)
    made.expect(2)
    (one,) = made.idle(1)
    assert made.look_after(10) == Plan()
    made.stock.give_back(granted(made.ask()[0]), Waiter(1, "nobody"))
    made.start()
    made.time.now += 1
    made.ask()
    made.start()
    assert one in made.stock.sandboxes
    assert made.shelf.expected == 0


def test_nothing_unused_for_long_is_left_but_the_minimum_and_nothing_is_warmed_up_until_somebody_asks() -> (
    None
):
    made = One(buffer=3, minimum=1, idle_timeout=60)
    assert made.expect(100) == 3
    ones = made.idle(3)
    assert made.look_after(60).close == ones[:2]
    assert made.stock.due == inf
    assert all(made.stock.has_closed(each).start == [] for each in ones[:2])
    assert made.ask()[1].start == [made.shelf] * 3


def test_without_an_idle_timeout_all_stay() -> None:
    made = One(buffer=3)
    made.expect(100)
    made.idle(3)
    assert made.stock.due == inf


def test_nothing_ends_that_somebody_waits_for_with_more() -> None:
    made = One(maximum=2, idle_timeout=5, scaledown_window=5, max_lifetime=5)
    wide, _ = made.ask(2)
    made.start()
    assert made.look_after(5) == Plan()
    made.start()
    assert len(granted(wide)) == 2
    assert made.look_after(5) == Plan(), "it is leased"
    assert len(give_back(made.stock, granted(wide)).close) == 2


# -- age and uses


def test_what_is_old_takes_no_other_lease_and_ends_after_those_that_it_has() -> None:
    made = One(slots=2, maximum=2, max_lifetime=100)
    made.expect(99)
    first, second = made.ask()[0], made.ask()[0]
    (old,) = made.idle(1)
    slot = granted(first)[0]
    assert made.look_after(100) == Plan()
    heir, plan = made.exchange(slot, first)
    assert plan.reset == [slot], "its own leases go on"
    assert made.stock.was_reset(slot, clean=True).granted == [heir]
    give_back(made.stock, [slot])
    made.stock.was_reset(slot, clean=True)
    late, plan = made.ask()
    assert (late.granted, plan.start) == (None, [made.shelf])
    assert (made.stock.draining, made.shelf.usable) == (1, 0)
    assert give_back(made.stock, granted(second)).close == [old]


def test_what_is_old_and_idle_is_replaced() -> None:
    made = One(minimum=2, max_lifetime=100)
    made.expect(0)
    (old,) = made.idle(1)
    made.time.now += 50
    made.idle(1)
    assert made.look_after(50) == Plan(start=[made.shelf], close=[old])


def test_what_has_had_all_its_leases_ends_with_the_last() -> None:
    made = One(slots=2, maximum=2, max_uses=3)
    only: Any = None
    for use in range(3):
        lease, plan = made.ask()
        if plan.start:
            (only,) = made.idle(1)
        (slot,) = granted(lease)
        assert slot.sandbox is only, use
        plan = give_back(made.stock, [slot])
        assert (plan.close == [only]) is (use == 2)
        made.stock.was_reset(slot, clean=True)
    assert made.ask()[1].start == [made.shelf]


def test_leases_in_earlier_runs_count() -> None:
    made = One(slots=2, maximum=2, max_uses=3)
    lease, _ = made.ask()
    left, _ = made.start(can_reset=True, uses=2)
    (slot,) = granted(lease)
    assert slot.sandbox is left
    assert left.uses == 3
    assert made.ask()[1].start == [made.shelf], "it has had all its leases"
    assert give_back(made.stock, [slot]).close == [left]


def test_age_in_earlier_runs_counts() -> None:
    made = One(maximum=5, minimum=4, max_lifetime=100)
    made.expect(0)
    (fresh,) = made.idle(1)
    made.time.now += 10
    younger, _ = made.start(can_reset=True, age=70)
    older, _ = made.start(can_reset=True, age=80)
    later, _ = made.start(can_reset=True)
    assert made.look_after(20).close == [older]
    assert made.look_after(10).close == [younger]
    assert made.look_after(60).close == [fresh]
    assert made.look_after(10).close == [later]


def test_a_slot_made_as_new_for_its_lease_is_no_other_use() -> None:
    made = One(max_uses=2)
    lease, _ = made.ask()
    (one,) = made.idle(1)
    for _ in range(3):
        made.exchange(one.slots[0], lease)
        made.stock.was_reset(one.slots[0], clean=True)
    give_back(made.stock, one.slots)
    assert made.stock.was_reset(one.slots[0], clean=True) == Plan()
    assert granted(made.ask()[0]) == [one.slots[0]]


# -- several recipes


def test_each_recipe_is_seen_to_when_it_is_due() -> None:
    time = Time()
    stock = Stock(None, 1, now=time)
    shelves = [
        stock.add_shelf(*recipe(minimum=0, buffer=1, idle_timeout=patience)) for patience in (30, 10, 20)
    ]
    ones: list[Any] = []
    for shelf in shelves:
        stock.expect(shelf, 1)
        ones.append(FakeSandbox(1, can_reset=False))
        stock.started(shelf, ones[-1])
    ended = []
    while stock.due < inf:
        ended.append((stock.due, *time.until_due(stock).close))
    assert ended == [(1010, ones[1]), (1020, ones[2]), (1030, ones[0])]

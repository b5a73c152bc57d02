"""The pool's decisions about one recipe."""

from __future__ import annotations

from math import inf
from typing import Any, cast

from pytest_sandboxes.errors import SandboxLostError, SandboxStartError
from pytest_sandboxes.pool.state import Plan, Waiter
from tests.unit.fake_stock import One, give_back


def test_nothing_is_started_before_somebody_needs_it() -> None:
    made = One(buffer=2)
    assert made.stock.total == 0
    assert [made.expect(leases) for leases in (0, 1, 5)] == [0, 1, 1]


def test_no_more_is_warmed_up_than_is_still_to_come() -> None:
    made = One(buffer=3)
    assert made.expect(2) == 2
    assert made.ask()[1].start == [], "one is for the first, one for the second"
    assert made.ask()[1].start == []
    assert made.ask()[1].start == [made.shelf]


def test_no_more_sandboxes_are_warmed_up_than_their_slots_are_still_to_be_leased() -> None:
    made = One(buffer=3, slots=4)
    assert made.expect(5) == 2
    assert made.expect(100) == 1


def test_a_minimum_is_kept() -> None:
    made = One(minimum=2)
    assert made.expect(0) == 2
    first, _ = made.start()
    assert made.stock.lost(first) == Plan(start=[made.shelf], close=[first])


def test_an_exchange_goes_first() -> None:
    made = One(maximum=1)
    holder, _ = made.ask()
    old, _ = made.start()
    made.ask()
    fresh, plan = made.exchange(old.slots[0], holder)
    assert plan == Plan(close=[old])
    assert made.stock.has_closed(old) == Plan(start=[made.shelf]), "before there was room for it"
    assert made.start()[1].granted == [fresh]


def test_an_exchange_for_what_is_there_is_made_at_once() -> None:
    made = One(buffer=1, minimum=2)
    holder, _ = made.ask()
    old, _ = made.start()
    spare, _ = made.start()
    fresh, plan = made.exchange(old.slots[0], holder)
    assert plan.granted == [fresh]
    assert fresh.granted == [*spare.slots]


def test_what_can_be_reset_is_exchanged_for_itself() -> None:
    made = One(maximum=1)
    holder, _ = made.ask()
    kept, _ = made.start(can_reset=True)
    made.ask()
    slot = kept.slots[0]
    fresh, plan = made.exchange(slot, holder)
    assert plan == Plan(reset=[slot])
    assert made.stock.was_reset(slot, clean=True).granted == [fresh]
    assert made.stock.leases_of(kept) == {slot: holder}
    fresh, _ = made.exchange(slot, holder)
    assert made.stock.was_reset(slot, clean=False) == Plan(close=[kept])
    assert made.stock.has_closed(kept) == Plan(start=[made.shelf])
    assert made.start()[1].granted == [fresh]


def test_what_can_be_reset_is_kept_and_what_is_not_clean_is_not() -> None:
    made = One(maximum=1)
    made.ask()
    kept, _ = made.start(can_reset=True)
    slot = kept.slots[0]
    assert give_back(made.stock, [slot]) == Plan(reset=[slot])
    second, plan = made.ask()
    assert plan == Plan(), "it will soon be there"
    assert made.stock.was_reset(slot, clean=True).granted == [second]
    give_back(made.stock, [slot])
    assert made.stock.was_reset(slot, clean=False) == Plan(close=[kept])
    assert made.stock.was_reset(slot, clean=True) == Plan()


def test_a_small_wish_does_not_overtake_a_large_one() -> None:
    made = One(maximum=2)
    large, _ = made.ask(2)
    made.ask()
    assert made.start()[1].granted == []
    assert made.start()[1].granted == [large]


def test_a_wish_that_is_withdrawn_gives_back_what_it_has_been_granted() -> None:
    made = One(maximum=1)
    hasty, _ = made.ask()
    next_one, _ = made.ask()
    fresh, _ = made.start()
    assert made.stock.give_up(made.shelf, hasty) == Plan(close=[fresh])
    assert made.stock.give_up(made.shelf, next_one) == Plan()
    assert made.stock.has_closed(fresh) == Plan(), "started for nobody"
    assert not made.shelf.waiting


def test_failures_in_a_row_are_told_to_all_who_wait() -> None:
    made = One(attempts=2)
    waiters = [made.ask()[0] for _ in range(2)]
    first, second = SandboxStartError("first"), SandboxStartError("second")
    assert made.fail(first) == Plan()
    assert made.fail(first) == Plan(), "it was begun together with the first"
    assert made.time.until_due(made.stock) == Plan(start=[made.shelf] * 2)
    assert made.fail(second).failed == [(waiter, second) for waiter in waiters]


def test_a_success_between_failures_starts_the_count_again() -> None:
    made = One(attempts=2)
    for _ in range(3):
        made.ask()
        assert made.fail(SandboxStartError("no")) == Plan()
        assert made.time.until_due(made.stock) == Plan(start=[made.shelf])
        assert len(made.start()[1].granted) == 1


def test_a_final_failure_is_told_at_once() -> None:
    made = One(attempts=3)
    waiter, _ = made.ask()
    error = SandboxStartError("for good")
    assert made.fail(error, final=True) == Plan(failed=[(waiter, error)])


def test_what_fails_is_not_warmed_up_again_until_somebody_waits() -> None:
    made = One(buffer=2, attempts=2)
    assert made.expect(10) == 2
    for _ in range(2):
        made.fail(SandboxStartError("no"))
    assert made.time.until_due(made.stock).start == [made.shelf] * 2
    for _ in range(2):
        assert made.fail(SandboxStartError("no")).start == []
    assert (made.shelf.starting, made.stock.due) == (0, inf)
    assert made.ask()[1] == Plan(), "it is too early"
    assert len(made.time.until_due(made.stock).start) == 3


# -- several slots


def test_partly_used_sandboxes_fill_first() -> None:
    made = One(slots=2, minimum=2)
    made.expect(0)
    first, _ = made.start(can_reset=True)
    second, _ = made.start(can_reset=True)
    granted = [cast("list[Any]", made.ask()[0].granted) for _ in range(3)]
    assert [slot.sandbox for (slot,) in granted] == [second, second, first]


def test_a_lease_alone_has_no_neighbours_until_it_ends() -> None:
    made = One(slots=3, maximum=2, minimum=2)
    made.expect(0)
    first, _ = made.start(can_reset=True)
    made.start(can_reset=True)
    crowd, _ = made.ask()
    alone, _ = made.ask(alone=True)
    assert [slot.sandbox for slot in cast("list[Any]", alone.granted)] == [first]
    assert all(made.ask()[0].granted for _ in range(2)), "beside the crowd"
    waiting, _ = made.ask()
    assert waiting.granted is None
    assert crowd.granted is not None
    assert alone.granted is not None
    assert give_back(made.stock, alone.granted).granted == [waiting], "in a slot that nobody had"


def test_a_lease_alone_waits_for_a_sandbox_to_become_empty_and_is_not_overtaken() -> None:
    made = One(slots=2, maximum=1)
    first, _ = made.ask()
    only, _ = made.start(can_reset=True)
    alone, plan = made.ask(alone=True)
    assert plan == Plan()
    later, _ = made.ask()
    assert later.granted is None, "or it would never become empty"
    give_back(made.stock, cast("list[Any]", first.granted))
    assert made.stock.was_reset(only.slots[0], clean=True).granted == [alone]


def test_a_slot_that_is_not_clean_poisons_its_sandbox_and_nobody_in_it() -> None:
    made = One(slots=3, maximum=2)
    first, neighbour = (made.ask()[0] for _ in range(2))
    poisoned, _ = made.start(can_reset=True)
    slots = cast("list[Any]", first.granted)
    give_back(made.stock, slots)
    assert made.stock.was_reset(slots[0], clean=False) == Plan(), "its neighbour is left in peace"
    late, plan = made.ask()
    assert plan == Plan(start=[made.shelf]), "it takes no more leases"
    assert made.start(can_reset=True)[1].granted == [late]
    assert give_back(made.stock, cast("list[Any]", neighbour.granted)) == Plan(close=[poisoned])


def test_an_exchange_out_of_a_poisoned_sandbox_that_the_lease_itself_keeps_open_fails() -> None:
    made = One(slots=2, maximum=1)
    holder, _ = made.ask(2)
    only, _ = made.start(can_reset=True)
    waiter, _ = made.exchange(only.slots[0], holder)
    plan = made.stock.was_reset(only.slots[0], clean=False)
    ((failed, error),) = plan.failed
    assert failed is waiter
    assert isinstance(error, SandboxLostError)
    assert give_back(made.stock, [only.slots[1]]).close == [only]


def test_an_exchange_out_of_a_poisoned_sandbox_goes_elsewhere_if_there_may_be_another() -> None:
    made = One(slots=2, maximum=2)
    holder, _ = made.ask(2)
    only, _ = made.start(can_reset=True)
    waiter, _ = made.exchange(only.slots[0], holder)
    assert made.stock.was_reset(only.slots[0], clean=False) == Plan(start=[made.shelf])
    assert made.start(can_reset=True)[1].granted == [waiter]


def poisoned(made: One, slots: int) -> tuple[Waiter, list[Any]]:
    """A lease of some slots in a sandbox that another lease has left unclean."""
    holder, _ = made.ask(slots)
    neighbour, _ = made.ask()
    made.start(can_reset=True)
    (left,) = cast("list[Any]", neighbour.granted)
    give_back(made.stock, [left])
    made.stock.was_reset(left, clean=False)
    return holder, cast("list[Any]", holder.granted)


def test_a_lease_does_not_wait_for_its_own_other_slot_in_a_poisoned_sandbox() -> None:
    made = One(slots=3, maximum=1)
    holder, slots = poisoned(made, 2)
    waiter, plan = made.exchange(slots[0], holder)
    ((failed, error),) = plan.failed
    assert (failed, list(made.shelf.waiting)) == (waiter, [])
    assert isinstance(error, SandboxLostError)
    assert slots[0].sandbox.name in str(error)
    made.stock.was_reset(slots[0], clean=True)
    assert give_back(made.stock, [slots[1]]).close == [slots[0].sandbox]


def test_a_lease_with_one_slot_in_a_poisoned_sandbox_waits_for_its_end() -> None:
    made = One(slots=2, maximum=1)
    holder, (slot,) = poisoned(made, 1)
    waiter, plan = made.exchange(slot, holder)
    assert plan == Plan(close=[slot.sandbox])
    made.stock.has_closed(slot.sandbox)
    assert made.start(can_reset=True)[1].granted == [waiter]


def test_a_wait_that_turns_out_to_be_in_vain_ends_then() -> None:
    made = One(slots=2, maximum=2)
    wide, _ = made.ask(3)
    neighbour, _ = made.ask()
    made.start()  # none can be reset: each is spent with the first slot that comes back
    newer = made.start()[0]
    lost = cast("list[Any]", wide.granted)[0]
    made.stock.lost(lost.sandbox)
    made.ask(2)
    made.stock.has_closed(lost.sandbox)
    other, _ = made.start()
    waiter, plan = made.exchange(lost, wide)
    assert plan == Plan(), "others may end"
    third = made.stock.leases_of(other)[other.slots[0]]
    last, plan = made.exchange(other.slots[0], third)
    assert [failed for failed, _ in plan.failed] == [last], "in a circle: each waits for the other"
    assert give_back(made.stock, [other.slots[1]]).close == [other]
    made.stock.has_closed(other)
    assert made.start(can_reset=True)[1].granted == [waiter]
    assert newer not in made.stock.sandboxes
    assert neighbour.granted is not None


def test_one_slot_exchanged_twice_at_once_does_not_wait_for_itself() -> None:
    made = One(maximum=1)
    holder, _ = made.ask()
    old, _ = made.start()
    first, _ = made.exchange(old.slots[0], holder)
    second, _ = made.exchange(old.slots[0], holder)
    made.stock.has_closed(old)
    plan = made.start()[1]
    assert plan.granted == [first]
    assert [failed for failed, _ in plan.failed] == [second]


# -- losses


def test_what_is_lost_leaves_its_room_while_its_leases_go_on() -> None:
    made = One(slots=2, maximum=1)
    holder, _ = made.ask()
    made.ask()
    gone, _ = made.start(can_reset=True)
    late, plan = made.ask()
    assert plan == Plan()
    assert made.stock.lost(gone) == Plan(close=[gone])
    assert made.stock.total == 1, "it has not closed yet"
    assert made.stock.has_closed(gone) == Plan(start=[made.shelf])
    assert made.start(can_reset=True)[1].granted == [late]
    fresh, plan = made.exchange(gone.slots[0], holder)
    assert plan.granted == [fresh]
    assert give_back(made.stock, gone.slots) == Plan()


def test_a_reset_under_way_in_what_is_lost_goes_to_another() -> None:
    made = One(slots=2, maximum=1)
    holder, _ = made.ask(2)
    gone, _ = made.start(can_reset=True)
    waiter, _ = made.exchange(gone.slots[0], holder)
    assert made.stock.lost(gone) == Plan(close=[gone])
    assert made.stock.was_reset(gone.slots[0], clean=False) == Plan()
    made.stock.has_closed(gone)
    assert made.start(can_reset=True)[1].granted == [waiter]


def test_a_slot_whose_reset_was_given_up_is_the_next_ones_alone() -> None:
    made = One(maximum=1)
    hasty, _ = made.ask()
    only, _ = made.start(can_reset=True)
    next_one, _ = made.ask()
    (slot,) = only.slots
    heir, _ = made.exchange(slot, hasty)
    assert made.stock.give_up(made.shelf, heir) == Plan()
    assert made.stock.was_reset(slot, clean=True).granted == [next_one]
    assert made.stock.give_back([slot], hasty) == Plan(), "it has been somebody else's for a while"
    assert made.stock.leases_of(only) == {slot: next_one}

"""How fast sandboxes are started, how starts that failed are tried again, and what a budget ends."""

from __future__ import annotations

import random
from math import inf, nan
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.backends.base import StartRate
from pytest_sandboxes.errors import (
    BudgetExceededError,
    ConfigurationError,
    RateLimitedError,
    SandboxStartError,
)
from pytest_sandboxes.pool.meter import Budget, Meter
from pytest_sandboxes.pool.rate import StartGate
from pytest_sandboxes.pool.state import Plan, Waiter
from pytest_sandboxes.pool.stock import Stock
from tests.unit.fake_stock import FakeSandbox, One, Time, give_back, recipe

# -- rate


def test_starts_go_no_faster_than_their_backend_takes_them() -> None:
    made = One(maximum=20, rate=StartRate(2.0, 3))
    begun = [(0.0, sum(len(made.ask()[1].start) for _ in range(8)))]
    while made.stock.due < inf:
        begun.append((made.stock.due - 1000, len(made.time.until_due(made.stock).start)))
    assert begun == [(0, 3), (0.5, 1), (1, 1), (1.5, 1), (2, 1), (2.5, 1)]


def test_recipes_of_one_backend_share_its_rate_in_the_order_of_those_who_wait() -> None:
    time = Time()
    stock = Stock(None, 1, now=time)
    backend, profile = recipe(rate=StartRate(1.0, 1))
    first, second = (stock.add_shelf(backend, profile) for _ in range(2))
    other = stock.add_shelf(*recipe())
    started = []
    for shelf in (first, first, second, first):
        started += stock.ask(shelf, Waiter(1, "somebody")).start
    assert stock.ask(other, Waiter(1, "somebody")).start == [other], (
        "another backend has nothing to do with it"
    )
    while stock.due < inf:
        started += time.until_due(stock).start
    assert started == [first, first, second, first]
    assert time.now == 1003


def test_a_start_that_nobody_needs_any_more_is_not_made() -> None:
    made = One(rate=StartRate(1.0, 1))
    made.ask()
    hasty, plan = made.ask()
    assert plan.start == []
    made.stock.give_up(made.shelf, hasty)
    made.start()
    assert made.look_after(60) == Plan()


def test_a_backend_that_turns_starts_away_is_left_alone_and_that_is_no_failure() -> None:
    made = One(attempts=1)
    waiter, _ = made.ask()
    for _ in range(9):
        plan = made.stock.start_failed(made.shelf, RateLimitedError("slower", retry_after=7), final=False)
        assert plan == Plan()
        assert made.stock.due == made.time.now + 7
        assert made.time.until_due(made.stock).start == [made.shelf]
    assert made.start()[1].granted == [waiter]


def test_what_a_backend_asks_for_has_its_limits() -> None:
    for asked in (inf, 1e300, 60.0):
        made = One()
        made.ask()
        made.stock.start_failed(made.shelf, RateLimitedError("slower", retry_after=asked), final=False)
        assert made.stock.due == made.time.now + 60
    for asked in (-1.0, 0.0, nan):
        made = One()
        made.ask()
        made.stock.start_failed(made.shelf, RateLimitedError("slower", retry_after=asked), final=False)
        assert 0.5 <= made.stock.due - made.time.now <= 1


def test_pauses_grow_and_the_pace_comes_back() -> None:
    gate = StartGate(StartRate(16.0, 4), random.Random(0))
    pauses, now = [], 0.0
    for _ in range(8):
        gate.turned_away(now, None)
        opens = gate.opens(now)
        pauses.append(opens - now)
        now = opens
    assert pauses[:6] == sorted(pauses[:6])
    assert 30 <= pauses[-1] <= 60
    assert gate.opens(now) <= now
    gate.pass_through()
    slow = gate.opens(now) - now
    assert slow >= 1
    for _ in range(20):
        gate.succeeded()
    assert gate.opens(now) - now == pytest.approx(1 / 16)
    now += 1
    gate.turned_away(now, None)
    assert gate.opens(now) - now <= 1, "the next is the first again"


def test_what_was_begun_before_the_backend_complained_is_no_other_complaint() -> None:
    gate = StartGate(None, random.Random(0))
    gate.turned_away(0.0, None)
    opens = gate.opens(0.0)
    for _ in range(5):
        gate.turned_away(0.1, None)
    assert gate.opens(0.1) == opens


@given(
    rate=st.builds(StartRate, st.floats(0.01, 100), st.integers(1, 50)),
    steps=st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from(["start", "start", "start", "complain", "succeed"]))
    ),
)
def test_a_gate_never_lets_more_through_than_its_rate(
    rate: StartRate, steps: list[tuple[float, str]]
) -> None:
    gate = StartGate(rate, random.Random(0))
    now, begun = 0.0, []
    for passed, what in steps:
        now += passed
        if what == "complain":
            gate.turned_away(now, None)
        elif what == "succeed":
            gate.succeeded()
        else:
            opens = gate.opens(now)
            assert opens < inf, "it never opens again"
            now = max(now, opens)
            assert gate.opens(now) <= now, "it does not open when it says"
            gate.pass_through()
            begun.append(now)
            for number, then in enumerate(begun):
                assert len(begun) - number <= rate.burst + (now - then) * rate.per_second + 1e-6


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (inf, 1), (nan, 1), (1, 0)])
def test_a_rate_at_which_nothing_starts_is_a_mistake(per_second: float, burst: int) -> None:
    with pytest.raises(ValueError, match="no sandbox would ever be started"):
        StartRate(per_second, burst)


# -- starts that fail


def test_attempts_are_further_and_further_apart() -> None:
    made = One(attempts=20)
    made.ask()
    delays = []
    for _ in range(12):
        assert made.fail(SandboxStartError("no")) == Plan()
        delays.append(made.stock.due - made.time.now)
        made.time.until_due(made.stock)
    assert 0.05 <= delays[0] <= 0.1
    assert all(5 <= each <= 10 for each in delays[8:])
    assert len(set(delays)) == 12, "all who fail together would come back together"


def test_a_mistake_is_not_tried_again_and_holds_up_nobody() -> None:
    made = One(attempts=5)
    waiter, _ = made.ask()
    error = ConfigurationError("wrong")
    assert made.fail(error, final=True).failed == [(waiter, error)]
    assert made.ask()[1].start == [made.shelf]


# -- budget


def test_a_meter_runs_as_long_as_there_is_anything() -> None:
    meter = Meter()
    meter.begin(10)
    meter.begin(20)
    assert meter.total(30) == 30
    assert meter.reaches(50, 30) == 40
    meter.end(10, 30)
    assert (meter.total(31), meter.reaches(50, 31)) == (31, 50)
    meter.end(20, 31)
    assert (meter.total(99), meter.reaches(50, 99)) == (31, inf)


def test_nothing_is_leased_once_the_budget_is_used_up_and_what_is_leased_goes_on() -> None:
    made = One(slots=2, maximum=3, buffer=1, budget=Budget(100, "--sandbox-budget"))
    made.expect(99)
    lease, _ = made.ask()
    busy, idle = made.idle(2)
    wide, _ = made.ask(4)
    assert wide.granted is None
    plan = made.look_after(50)
    ((failed, error),) = plan.failed
    assert (failed, plan.close, plan.start) == (wide, [idle], [])
    assert str(error) == (
        "the budget of 100 sandbox-seconds (--sandbox-budget) is used up, and nothing is leased any more: 100.0 were "
        "used, 100.0 by profile 'made-up' on fake; raise it, or have fewer sandboxes kept warm (buffer_sandboxes, "
        "min_sandboxes)"
    )
    assert isinstance(error, BudgetExceededError)
    assert made.stock.has_closed(idle) == Plan()
    late, plan = made.ask()
    assert [waiter for waiter, _ in plan.failed] == [late]
    assert not made.stock.has(made.shelf, Waiter(1, "somebody"))
    (slot,) = cast("list[Any]", lease.granted)
    heir, plan = made.exchange(slot, lease)
    assert plan.reset == [slot]
    assert made.stock.was_reset(slot, clean=True).granted == [heir]
    made.time.now += 10
    give_back(made.stock, [slot])
    assert made.stock.was_reset(slot, clean=True).close == [busy]
    made.stock.has_closed(busy)
    assert (made.stock.due, made.stock.sandbox_seconds) == (inf, 110)


def test_what_goes_on_may_have_another_sandbox_for_a_slot_made_as_new() -> None:
    made = One(maximum=2, budget=Budget(10, "test"))
    lease, _ = made.ask()
    old, _ = made.start()
    made.look_after(10)
    fresh, plan = made.exchange(old.slots[0], lease)
    assert plan.start == [made.shelf]
    assert made.start()[1].granted == [fresh]


def test_what_starts_too_late_for_the_budget_ends() -> None:
    made = One(maximum=2, budget=Budget(10, "test"))
    made.ask()
    made.start()
    made.ask()
    made.look_after(10)
    late: Any = FakeSandbox(1, can_reset=False)
    assert made.stock.started(made.shelf, late) == Plan(close=[late])

"""The real pool on a virtual clock, whatever its users, its backend and time do, in any order."""

from __future__ import annotations

import os
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_sandboxes.backends.base import StartRate
from pytest_sandboxes.errors import BudgetExceededError, SandboxStartError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool.state import Shelf, Waiter
from pytest_sandboxes.profiles.profile import Profile
from tests.simulation.world import Weather, World

weathers = st.builds(
    Weather,
    start_failures=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    reset_failures=st.sampled_from([0.0, 0.2]),
    seconds_until_lost=st.sampled_from([None, 5.0, 50.0]),
    starts_per_second=st.sampled_from([None, 1, 5]),
)


@st.composite
def fields(draw: st.DrawFn) -> dict[str, object]:
    """Of a profile that nothing is wrong with."""
    most, slots = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return {
        "max_sandboxes": most,
        "min_sandboxes": draw(st.integers(0, most)),
        "buffer_sandboxes": draw(st.integers(0, most)),
        "slots_per_sandbox": slots,
        "target_slots_per_sandbox": draw(st.none() | st.integers(1, slots)),
        "idle_timeout": draw(st.none() | st.integers(1, 30)),
        "scaledown_window": draw(st.none() | st.integers(1, 30)),
        "max_lifetime": draw(st.none() | st.integers(1, 60)),
        "max_uses": draw(st.none() | st.integers(1, 5)),
    }


# Functions with names, because some versions of hypothesis look up the source of a lambda before each step.


def _has_waiters(machine: PoolMachine) -> bool:
    return bool(machine.waiting)


def _has_leases(machine: PoolMachine) -> bool:
    return bool(machine.leases)


def _has_sandboxes(machine: PoolMachine) -> bool:
    return any(each.alive for each in machine.world.sandboxes)


class PoolMachine(RuleBasedStateMachine):
    """Holds what must always hold, as seen from outside; `World` holds that no slot has two owners."""

    @initialize(
        seed=st.integers(0, 1000),
        made=st.lists(fields(), min_size=1, max_size=3),
        cap=st.none() | st.integers(1, 6),
        rate=st.none() | st.builds(StartRate, st.floats(0.5, 10), st.integers(1, 5)),
        budget=st.none() | st.none() | st.integers(50, 500),
    )
    def begin(
        self,
        seed: int,
        made: list[dict[str, object]],
        cap: int | None,
        rate: StartRate | None,
        budget: int | None,
    ) -> None:
        self.world = World(seed=seed, max_sandboxes=cap, rate=rate, budget=budget)
        self.cap = cap
        self.profiles = [
            Profile(name=f"profile-{at}").override({"memory": 100 + at, **each}, "simulation")
            for at, each in enumerate(made)
        ]
        self.waiting: dict[int, tuple[Shelf, Waiter]] = {}
        self.leases: list[Lease] = []
        self.errors: list[Exception] = []
        self._numbers = iter(range(10**9))

    @rule(data=st.data(), tests=st.integers(0, 20))
    def expect(self, data: st.DataObject, tests: int) -> None:
        self.world.pool.expect("simulated", data.draw(st.sampled_from(self.profiles)), tests)

    @rule(data=st.data(), alone=st.booleans(), times=st.integers(1, 4))
    def ask(self, data: st.DataObject, alone: bool, times: int) -> None:
        profile = data.draw(st.sampled_from(self.profiles))
        most = min(profile.max_sandboxes, self.cap or profile.max_sandboxes) * profile.slots_per_sandbox
        for _ in range(times):
            number = next(self._numbers)
            slots = data.draw(st.integers(1, most))
            asked = self.world.ask(profile, partial(self.answered, number), slots=slots, alone=alone)
            self.waiting[number] = asked

    def answered(self, number: int, answer: Lease | Exception) -> None:
        del self.waiting[number]  # a KeyError means: answered twice, or after it was given up
        if isinstance(answer, Lease):
            self.leases.append(answer)
        else:
            self.errors.append(answer)

    @precondition(_has_waiters)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.waiting)))
        shelf, waiter = self.waiting[number]
        if waiter.granted is None and waiter.answered is not None and not waiter.answered.done():
            del self.waiting[number]
            self.world.give_up(shelf, waiter)

    @precondition(_has_leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        self.leases.remove(lease)
        self.world.release(lease)

    @precondition(_has_sandboxes)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([each for each in self.world.sandboxes if each.alive])).die()

    @rule(weather=weathers)
    def change(self, weather: Weather) -> None:
        self.world.weather = weather

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.run(seconds)

    @invariant()
    def never_too_many(self) -> None:
        existing = self.world.existing
        assert self.cap is None or existing.total() <= self.cap
        assert all(existing[each.name] <= each.max_sandboxes for each in self.profiles)

    @invariant()
    def only_leases_have_slots(self) -> None:
        held = [port for lease in self.leases for port in lease.ports]
        assert len(held) == len(set(held)) == len(self.world.owners)

    @invariant()
    def statistics_are_true(self) -> None:
        now = self.world.pool.statistics()
        assert now.sandboxes + now.starting + now.closing >= self.world.existing.total()
        assert now.sandboxes_started == self.world.started

    def teardown(self) -> None:
        """When the weather is good and all leases end, everybody who waits is answered, and all that started ends."""
        if not hasattr(self, "world"):
            return
        self.world.weather = Weather()
        for _ in range(2000):
            if not self.waiting:
                break
            while self.leases:
                self.world.release(self.leases.pop())
            self.world.clock.run(1)
        assert not self.waiting, "somebody waits for ever"
        assert all(isinstance(each, BudgetExceededError | SandboxStartError) for each in self.errors)
        while self.leases:
            self.world.release(self.leases.pop())
        self.world.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None, derandomize="CI" in os.environ
)

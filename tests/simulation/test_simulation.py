"""A hundred thousand leases of ten thousand slots, in bad weather."""

from __future__ import annotations

from collections import Counter, deque

from pytest_sandboxes.backends.base import StartRate
from pytest_sandboxes.errors import BudgetExceededError, SandboxStartError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.profiles.profile import Profile
from tests.simulation.world import Weather, World


class Suite:
    """Tests that come one after the other in a number of lines, as those of workers do."""

    def __init__(self, world: World, profiles: list[Profile], tests: int, lines: int) -> None:
        self.world = world
        self.left = deque(range(tests))
        self.waited: dict[int, float] = {}
        self.done: Counter[str] = Counter()
        self._profiles = profiles
        self._widest = min(12, *(profile.capacity for profile in profiles))
        for profile in profiles:
            world.pool.expect("simulated", profile, tests // len(profiles))
        for _ in range(lines):
            self.next()

    def next(self) -> None:
        """Begin one more test."""
        if not self.left:
            return
        number, rolls = self.left.popleft(), self.world.rolls
        wide, alone = number % 50 == 0, number % 997 == 0
        self.world.ask(
            self._profiles[number % len(self._profiles)],
            lambda answer: self._answered(number, answer),
            slots=rolls.randint(2, self._widest) if wide else 1,
            alone=alone,
            holder=f"test_{number}",
        )

    def _answered(self, number: int, answer: Lease | Exception) -> None:
        if isinstance(answer, Exception):
            self.done[type(answer).__name__] += 1
            self.next()
        else:
            self.waited[number] = answer.usage().queue_wait
            self.world.clock.after(self.world.rolls.expovariate(1 / 20), lambda: self._end(answer))

    def _end(self, lease: Lease) -> None:
        self.done["lost" if lease.losses else "done"] += 1
        self.world.release(lease)
        self.next()


def profiles(number: int, **fields: object) -> list[Profile]:
    return [
        Profile(name=f"profile-{at}").override({"memory": 100 + at, **fields}, "simulation")
        for at in range(number)
    ]


def test_a_hundred_thousand_leases_of_ten_thousand_slots() -> None:
    world = World(
        weather=Weather(
            start_failures=0.01, reset_failures=0.001, seconds_until_lost=2_000, starts_per_second=30
        ),
        rate=StartRate(40, 100),
        start_attempts=100,
    )
    several = profiles(
        4,
        slots_per_sandbox=10,
        target_slots_per_sandbox=8,
        max_sandboxes=250,
        min_sandboxes=5,
        scaledown_window=30,
        max_lifetime=600,
        max_uses=200,
    )
    suite = Suite(world, several, 100_000, lines=10_500)
    world.clock.run_until(lambda: suite.done.total() == 100_000, seconds=3_600)
    assert suite.done["done"] + suite.done["lost"] == 100_000, suite.done
    assert suite.done["lost"] > 100
    assert world.most == 1_000
    assert world.turned_away > 10
    assert not world.owners
    assert max(suite.waited.values()) < 300, "somebody was overtaken again and again"
    statistics = world.pool.statistics()
    assert (statistics.leased, statistics.waiting, statistics.rate_limited) == (0, 0, world.turned_away)
    world.clock.run(3_600)
    statistics = world.pool.statistics()
    assert statistics.sandboxes + statistics.starting == 4 * 5, "more than the minimum is left, or less"
    world.close()


def test_a_cap_over_many_profiles_is_never_passed() -> None:
    weather = Weather(start_failures=0.05, reset_failures=0.01, seconds_until_lost=300)
    world = World(weather=weather, max_sandboxes=20, start_attempts=100)
    several = profiles(
        12, slots_per_sandbox=3, max_sandboxes=8, min_sandboxes=1, idle_timeout=60, max_uses=50
    )
    suite = Suite(world, several, 1_000, lines=100)
    world.clock.run_until(lambda: suite.done.total() == 1_000, seconds=36_000)
    assert suite.done["done"] + suite.done["lost"] == 1_000, suite.done
    assert world.most == 20
    world.close()


def test_a_budget_ends_a_run_whose_tests_go_on() -> None:
    world = World(budget=10_000)
    suite = Suite(world, profiles(2, max_sandboxes=100, buffer_sandboxes=4), 10_000, lines=120)
    world.clock.run_until(lambda: suite.done.total() == 10_000)
    assert suite.done["done"] > 100
    assert suite.done["done"] + suite.done[BudgetExceededError.__name__] == 10_000
    assert 10_000 <= world.pool.statistics().sandbox_seconds < 10_000 + 200 * 200, (
        "what runs goes on, nothing else"
    )
    world.clock.run(100)
    assert world.existing.total() == 0
    world.close()


def test_when_nothing_starts_everybody_is_told() -> None:
    world = World(weather=Weather(start_failures=1.0))
    suite = Suite(world, profiles(3), 500, lines=50)
    world.clock.run_until(lambda: suite.done.total() == 500)
    assert suite.done == {SandboxStartError.__name__: 500}
    world.close()

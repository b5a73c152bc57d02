"""Sandboxes that take their time to start, fail, are turned away and are lost, under the real pool on a virtual clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pytest_sandboxes.backends.base import Backend, StartRate
from pytest_sandboxes.errors import RateLimitedError, SandboxLostError, SandboxStartError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool.meter import Budget
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.pool.state import Shelf, Waiter
from pytest_sandboxes.profiles.profile import Profile
from tests.simulation.clock import VirtualClock, VirtualTeam
from tests.unit.fake_pool import FakeBackend

NAME = "simulated"


@dataclass
class Weather:
    """What a simulated backend is like; may change at any time."""

    start_seconds: tuple[float, float] = (0.5, 5.0)
    """The least and the most that a start takes."""
    reset_seconds: float = 0.01
    close_seconds: float = 0.5
    start_failures: float = 0.0
    """The share of starts that fail."""
    reset_failures: float = 0.0
    seconds_until_lost: float | None = None
    """The mean life of a sandbox; None is until it is ended."""
    starts_per_second: int | None = None
    """What it really takes; more are turned away."""


class SimulatedBackend(FakeBackend):
    """One that may be asked for so many sandboxes only."""

    name = NAME

    def __init__(self, rate: StartRate | None) -> None:
        super().__init__()
        self.start_rate = rate


class SimulatedSlot:
    """What a pool and a lease need of a slot."""

    backend = NAME

    def __init__(self, sandbox: SimulatedSandbox) -> None:
        self.sandbox = sandbox
        self.name = sandbox.name

    @property
    def alive(self) -> bool:
        """Whether its sandbox is."""
        return self.sandbox.alive

    @property
    def is_shared(self) -> bool:
        """Whether its sandbox is."""
        return self.sandbox.is_shared

    def reset(self) -> None:
        """Make it as new, if that goes well."""
        self.sandbox.world.reset()


class SimulatedSandbox:
    """What a pool and a lease need of a sandbox."""

    backend = NAME
    is_taken_over = False

    def __init__(self, world: World, profile: Profile, number: int) -> None:
        self.world = world
        self.profile = profile
        self.name = f"{NAME}-{number}"
        self.alive = True
        self.can_reset = profile.isolation != "sandbox"
        self.is_shared = False
        self.age_before = 0.0
        self.uses = 0
        self.slots = tuple(SimulatedSlot(self) for _ in range(profile.slots_per_sandbox))
        self.lost: Callable[[Exception], None] = lambda _: None
        self.ends = 0

    def tie(self) -> None:
        """Nothing, because it ends with this process in any case."""

    def die(self) -> None:
        """End by itself, as what is preempted does."""
        if self.alive:
            self.alive = False
            self.lost(SandboxLostError(f"{self.name} was preempted"))

    def close(self) -> None:
        """End it."""
        self.alive = False
        self.ends += 1
        self.world.ended(self)


class World:
    """A pool, all that it starts, and who has what, as seen from outside."""

    def __init__(
        self,
        *,
        weather: Weather | None = None,
        seed: int = 0,
        rate: StartRate | None = None,
        max_sandboxes: int | None = None,
        budget: float | None = None,
        start_attempts: int = 3,
    ) -> None:
        self.weather = weather or Weather()
        self.rolls = random.Random(seed)
        self.clock = VirtualClock()
        self.backend = SimulatedBackend(rate)
        self.sandboxes: list[SimulatedSandbox] = []
        """All that ever were, if they are remembered."""
        self.remembers = True
        self.existing: Counter[str] = Counter()
        """By the name of the profile: from when a start is begun until the end."""
        self.most = 0
        self.started = 0
        self.turned_away = 0
        self.owners: dict[SimulatedSlot, Lease] = {}
        self._begun: list[float] = []
        self._outcome: Exception | None = None
        self._is_starting = False
        self.pool = Pool(
            {NAME: cast("Backend", self.backend)},
            max_sandboxes=max_sandboxes,
            budget=None if budget is None else Budget(budget, "the world"),
            start_attempts=start_attempts,
            start=cast("Any", self._start),
            clock=self.clock,
            team=lambda name: VirtualTeam(
                self.clock, self._begin_start if name == "sandboxes-start" else self._begin_cleaning
            ),
        )
        self.pool._stock._jitter = self.rolls  # so that the same seed makes the same world

    # -- what the backend does

    def _begin_start(self, shelf: Shelf) -> tuple[float, Callable[..., object]]:
        error: Exception | None = None
        now, limit = self.clock.now(), self.weather.starts_per_second
        if limit is not None:
            self._begun = [then for then in self._begun if then > now - 1]
        if limit is not None and len(self._begun) >= limit:
            self.turned_away += 1
            error = RateLimitedError("too many starts", retry_after=self.rolls.choice([None, 1.0, 5.0]))
        else:
            self._begun.append(now)
            self.existing[shelf.profile.name] += 1
            self.most = max(self.most, self.existing.total())
            if self.rolls.random() < self.weather.start_failures:
                error = SandboxStartError("it did not start")
        return self.rolls.uniform(*self.weather.start_seconds), partial(self._finish_start, error)

    def _finish_start(self, outcome: Exception | None, chore: Callable[[Shelf], None], shelf: Shelf) -> None:
        self._outcome, self._is_starting = outcome, True
        if outcome is not None and not isinstance(outcome, RateLimitedError):
            self.existing[shelf.profile.name] -= 1
        chore(shelf)
        if self._is_starting and outcome is None:  # the pool has been closed, and did not start it
            self.existing[shelf.profile.name] -= 1

    def _start(self, _: Backend, profile: Profile, __: object) -> SimulatedSandbox:
        self._is_starting = False
        if self._outcome is not None:
            raise self._outcome
        self.started += 1
        sandbox = SimulatedSandbox(self, profile, self.started)
        if self.remembers:
            self.sandboxes.append(sandbox)
        if self.weather.seconds_until_lost is not None:
            self.clock.after(self.rolls.expovariate(1 / self.weather.seconds_until_lost), sandbox.die)
        return sandbox

    def _begin_cleaning(self, what: SimulatedSandbox | SimulatedSlot) -> tuple[float, Callable[..., object]]:
        is_end = isinstance(what, SimulatedSandbox)
        seconds = self.weather.close_seconds if is_end else self.weather.reset_seconds
        return seconds, lambda chore, subject: chore(subject)

    def reset(self) -> None:
        """A slot is made as new, if that goes well."""
        if self.weather.reset_failures and self.rolls.random() < self.weather.reset_failures:
            raise SandboxLostError("it could not be proven to be clean")

    def ended(self, sandbox: SimulatedSandbox) -> None:
        """A sandbox is gone."""
        assert sandbox.ends == 1, "ended twice"
        self.existing[sandbox.profile.name] -= 1

    # -- what users do

    def ask(
        self,
        profile: Profile,
        answered: Callable[[Lease | Exception], object],
        *,
        slots: int = 1,
        alone: bool = False,
        holder: str = "somebody",
    ) -> tuple[Shelf, Waiter]:
        """Wish for a lease; `answered` is told of it, or of why there is none, soon after."""
        waiter = Waiter(slots, holder, alone=alone)
        asked = self.clock.now()

        def tell(_: object = None) -> None:
            self.clock.at(0.0, partial(self._tell, profile, waiter, asked, answered))

        shelf = self.pool._ask(NAME, profile, waiter)
        if waiter.answered is None:
            tell()
        else:
            waiter.answered.add_done_callback(tell)
        return shelf, waiter

    def _tell(
        self, profile: Profile, waiter: Waiter, asked: float, answered: Callable[[Lease | Exception], object]
    ) -> None:
        future: Future[None] | None = waiter.answered
        error = None if future is None else future.exception()
        if error is not None:
            assert isinstance(error, Exception)
            answered(error)
        elif waiter.granted is not None:
            lease = self.pool._bind(waiter.granted, waiter, profile, self.clock.now() - asked)
            for slot in cast("tuple[SimulatedSlot, ...]", lease.ports):
                assert slot not in self.owners, "a slot has two owners"
                self.owners[slot] = lease
            answered(lease)

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        for slot in cast("tuple[SimulatedSlot, ...]", lease.ports):
            assert self.owners.pop(slot) is lease
        lease.release()

    def give_up(self, shelf: Shelf, waiter: Waiter) -> None:
        """Wait no more."""
        self.pool._give_up_waiting(shelf, waiter)

    def close(self) -> None:
        """End the pool; nothing is left of it."""
        self.pool.close()
        assert self.existing.total() == 0, "something outlives the pool"
        assert all(each.ends == 1 for each in self.sandboxes)
        assert self.backend.closed == 1

"""A pool of sandboxes that are not there: started, lost and closed as a test wants it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_sandboxes.backends.base import Backend, KeptSlot, StartRate
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.pool import alarm
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sandbox import Sandbox
from tests.waiting import wait_until


class FakeSandbox:
    """What a pool and a lease need of a sandbox; with several slots it can be reset."""

    _numbers = itertools.count(1)

    def __init__(self, profile: Profile) -> None:
        self.name = f"fake-{next(self._numbers)}"
        self.backend = "fake"
        self.profile = profile
        self.age_before = 0.0
        self.uses = 0
        self.alive = True
        self.died = False
        self.can_reset = profile.slots_per_sandbox > 1
        self.slots = tuple(FakeSlot(self) for _ in range(profile.slots_per_sandbox))
        self.closed = 0
        self.is_shared = False
        self.paused = False
        self.is_taken_over = False
        self.ties = 0
        self.parked = 0
        self.on_park: Callable[[], object] = lambda: None
        """Called when it is parked; may raise what that shall fail with."""
        self.lost: Callable[[Exception], None] = lambda _: None
        self.on_close: Callable[[], object] = lambda: None

    def die(self, error: Exception | None = None) -> None:
        """End by itself, and say so as a connection does."""
        self.alive = False
        self.died = True
        self.lost(error or SandboxLostError(f"{self.name} was lost"))

    def close(self) -> None:
        """End it."""
        self.on_close()
        self.alive = False
        self.closed += 1

    def tie(self) -> None:
        """Count it."""
        self.ties += 1

    def park(self) -> None:
        """Have it wait for another run."""
        self.on_park()
        self.alive = False
        self.parked += 1

    def keep(self, seconds: float, slots: list[FakeSlot]) -> list[KeptSlot]:
        """Let it live on; as the true one does, it says itself that it is gone."""
        if self.died:
            raise SandboxLostError(f"{self.name} was lost")
        enter = f"enter {self.name} within {seconds:.0f} s"
        return [KeptSlot(enter, f"end {self.name}", self.close) for _ in slots]

    def pause(self) -> None:
        """Stop its clocks."""
        self.paused = True

    def resume(self) -> None:
        """Let them go on."""
        self.paused = False


class FakeSlot:
    """What a pool and a lease need of a slot."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self.sandbox = sandbox
        self.name = sandbox.name
        self.backend = sandbox.backend
        self.resets = 0
        self.on_reset: Callable[[], object] = lambda: None
        """Called by each reset; may raise what it shall fail with."""

    @property
    def is_shared(self) -> bool:
        """Whether its sandbox is."""
        return self.sandbox.is_shared

    @property
    def alive(self) -> bool:
        """Whether its sandbox is."""
        return self.sandbox.alive

    def reset(self) -> None:
        """Make it as new."""
        self.resets += 1
        self.on_reset()


class FakeBackend:
    """What a pool needs of a backend."""

    name = "fake"
    start_rate: StartRate | None = None

    def __init__(self, at_once: int = 6) -> None:
        self.at_once = at_once
        self.closed = 0

    def slots_per_sandbox(self, profile: Profile) -> int:
        """As many as the profile says."""
        return profile.slots_per_sandbox

    def stop_waiting(self) -> None:
        """Nothing, because it never waits."""

    def close(self) -> None:
        """Count it."""
        self.closed += 1


class FakePool:
    """A pool with its backend, and all sandboxes that it ever started."""

    def __init__(
        self, *, start_attempts: int = 3, max_sandboxes: int | None = None, at_once: int = 6
    ) -> None:
        self.backend = FakeBackend(at_once)
        self.sandboxes: list[FakeSandbox] = []
        self.starts = 0
        self.before_start: Callable[[], object] = lambda: None
        """Called by each start; may wait, or raise what the start shall fail with."""
        self.made: Callable[[FakeSandbox], object] = lambda _: None
        """Called with each sandbox before the pool has it."""
        self._lock = threading.Lock()
        self.pool = Pool(
            {"fake": cast("Backend", self.backend)},
            start_attempts=start_attempts,
            max_sandboxes=max_sandboxes,
            max_sandboxes_source="--sandbox-max-sandboxes",
            start=self._start,
        )

    def _start(self, _: Backend, profile: Profile, __: IOThread) -> Sandbox:
        with self._lock:
            self.starts += 1
        self.before_start()
        sandbox = FakeSandbox(profile)
        self.made(sandbox)
        with self._lock:
            self.sandboxes.append(sandbox)
        return cast("Sandbox", sandbox)

    def lease(self, holder: str = "somebody", *, slots: int = 1, **fields: Any) -> Any:
        """Lease from a profile that differs from the default in some fields, and warms nothing up."""
        return self.pool.lease("fake", profile(**fields), slots=slots, holder=holder)

    @property
    def open(self) -> list[FakeSandbox]:
        """Sandboxes that have not been closed."""
        return [each for each in self.sandboxes if not each.closed]


def sandboxes_of(lease: Any) -> list[FakeSandbox]:
    """What is behind the slots of a lease."""
    return [port.sandbox for port in lease.ports]


def profile(**fields: Any) -> Profile:
    """A profile that warms nothing up unless it says so."""
    return Profile().override({"buffer_sandboxes": 0, "max_sandboxes": 4, **fields}, "test")


class Clock:
    """Time as the pools of this process see it, which passes only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.looks = 0
        monkeypatch.setattr(alarm, "time", SimpleNamespace(monotonic=self._look))

    def _look(self) -> float:
        self.looks += 1
        return self.now

    def be_looked_at(self) -> None:
        """Wait until whoever waits has looked again, and again."""
        seen = self.looks
        wait_until(lambda: self.looks > seen + 3)


def waiting(fake: FakePool) -> int:
    """How many wait for a lease."""
    return fake.pool.statistics().waiting


def fail(*errors: Exception) -> Callable[[], None]:
    """Each start fails with the next of some errors, and then always with the last."""
    left = itertools.chain(errors, itertools.repeat(errors[-1]))

    def start() -> None:
        raise next(left)

    return start

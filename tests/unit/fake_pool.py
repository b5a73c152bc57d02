"""A pool of sandboxes that are not there: started, lost and closed as a test wants it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_sandboxes import pool as pool_module
from pytest_sandboxes.backends.base import Backend
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.pool import Pool
from pytest_sandboxes.profiles import Profile
from pytest_sandboxes.sandbox import Sandbox
from tests.unit.waiting import wait_until


class FakeSandbox:
    """What a pool and a lease need of a sandbox."""

    _numbers = itertools.count(1)

    def __init__(self, profile: Profile) -> None:
        self.name = f"fake-{next(self._numbers)}"
        self.backend = "fake"
        self.profile = profile
        self.started = time.monotonic()
        self.alive = True
        self.can_reset = False
        self.closed = 0
        self.paused = False
        self.lost: Callable[[Exception], None] = lambda _: None
        self.on_close: Callable[[], object] = lambda: None

    def die(self, error: Exception | None = None) -> None:
        """End by itself, and say so as a connection does."""
        self.alive = False
        self.lost(error or SandboxLostError(f"{self.name} was lost"))

    def close(self) -> None:
        """End it."""
        self.on_close()
        self.alive = False
        self.closed += 1

    def keep(self, seconds: float) -> tuple[str, str]:
        """Let it live on."""
        return f"enter {self.name} within {seconds:.0f} s", f"end {self.name}"

    def pause(self) -> None:
        """Stop its clocks."""
        self.paused = True

    def resume(self) -> None:
        """Let them go on."""
        self.paused = False


class FakeBackend:
    """What a pool needs of a backend."""

    name = "fake"

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        """Count it."""
        self.closed += 1


class FakePool:
    """A pool with its backend, and all sandboxes that it ever started."""

    def __init__(self, *, start_attempts: int = 3) -> None:
        self.backend = FakeBackend()
        self.sandboxes: list[FakeSandbox] = []
        self.starts = 0
        self.before_start: Callable[[], object] = lambda: None
        """Called by each start; may wait, or raise what the start shall fail with."""
        self.made: Callable[[FakeSandbox], object] = lambda _: None
        """Called with each sandbox before the pool has it."""
        self._lock = threading.Lock()
        self.pool = Pool(
            {"fake": cast("Backend", self.backend)}, start_attempts=start_attempts, start=self._start
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


def profile(**fields: Any) -> Profile:
    """A profile that warms nothing up unless it says so."""
    return Profile().override({"buffer_sandboxes": 0, "max_sandboxes": 4, **fields}, "test")


class Clock:
    """Time as the pool sees it, which passes only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.looks = 0
        monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=self._look))

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

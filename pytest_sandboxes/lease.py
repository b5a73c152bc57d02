"""A lease: the slots that one test or fixture holds, and what is known of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from pytest_sandboxes.errors import InfrastructureError, LeaseClosedError, SandboxStartError
from pytest_sandboxes.profiles import Profile
from pytest_sandboxes.sandbox import Sandbox

if TYPE_CHECKING:
    from pytest_sandboxes.results import ExecResult


__tracebackhide__ = True  # a failing test shows its own line, not ours


@dataclass(frozen=True)
class Loss:
    """One loss of a sandbox while it was leased."""

    sandbox: str
    reason: str
    suspect: bool
    """Code under evaluation had been run in the sandbox, and nobody else's: it may be what brought it down."""


@dataclass(frozen=True)
class Usage:
    """What a lease has used so far."""

    execs: int
    """Commands started."""
    queue_wait: float
    """Seconds between the wish for the lease and the lease."""
    sandbox_seconds: float
    """Seconds held, times slots."""
    peak_memory: int
    """Largest resident set, in bytes, of any process of a command that has ended."""
    resets: int
    """Resets asked for."""


class Owner(Protocol):
    """Who gave the lease out and takes it back."""

    def release(self, lease: Lease) -> None:
        """Take all slots back."""

    def replace(self, lease: Lease, index: int) -> None:
        """Give one slot a fresh sandbox."""


class Lease:
    """Exclusive use of `count` slots until `release`; a context manager that releases."""

    def __init__(self, owner: Owner, holder: str, profile: Profile, queue_wait: float) -> None:
        self.holder = holder
        """Whoever leased it, such as a test's node id."""
        self.profile = profile
        self.on_use: Callable[[], object] = lambda: None
        """Called whenever a slot is used."""
        self._owner = owner
        self._queue_wait = queue_wait
        self._lock = threading.Lock()
        self._sandboxes: list[Sandbox] = []
        self._backend = ""
        self._names: list[str] = []
        self._count = 0
        self._losses: list[Loss] = []
        self._execs = 0
        self._resets = 0
        self._peak_memory = 0
        self._granted = time.monotonic()
        self._released: float | None = None

    # -- for slots

    def port(self, index: int) -> Sandbox:
        """The sandbox behind slot `index`. Raises `LeaseClosedError` once released."""
        self.on_use()
        with self._lock:
            if self._released is not None:
                raise LeaseClosedError(
                    f"the slot leased by {self.holder} has been given back: a slot lives as long as the fixture or "
                    "the `with` block that leased it"
                )
            return self._sandboxes[index]

    def count_exec(self) -> None:
        """A command is about to be started."""
        with self._lock:
            self._execs += 1

    def count_result(self, result: ExecResult) -> None:
        """A command has ended."""
        with self._lock:
            self._peak_memory = max(self._peak_memory, result.peak_memory)

    def reset(self, index: int) -> None:
        """Give slot `index` a fresh sandbox."""
        sandbox = self.port(index)
        with self._lock:
            self._resets += 1
        try:
            self._owner.replace(self, index)
        except InfrastructureError as error:  # the old sandbox has been given back, and there is no other
            with self._lock:
                self._losses.append(Loss(sandbox.name, str(error), suspect=False))
            raise

    # -- for the pool

    def bind(self, sandboxes: list[Sandbox]) -> None:
        """Put sandboxes behind the slots."""
        with self._lock:
            self._sandboxes = sandboxes
            self._count = len(sandboxes)
            self._backend = sandboxes[0].backend
            self._names = [sandbox.name for sandbox in sandboxes]

    def unbind(self) -> list[Sandbox]:
        """Take the sandboxes away for good; empty from the second call on."""
        with self._lock:
            if self._released is None:
                self._released = time.monotonic()
            sandboxes, self._sandboxes = self._sandboxes, []
            return sandboxes

    def rebind(self, index: int, sandbox: Sandbox) -> Sandbox | None:
        """Put another sandbox behind slot `index`; return the old one, or None when the lease has been released."""
        with self._lock:
            if self._released is not None:
                return None
            old, self._sandboxes[index] = self._sandboxes[index], sandbox
            self._names.append(sandbox.name)
            return old

    def record_loss(self, sandbox: Sandbox, error: Exception) -> None:
        """One of its sandboxes is gone. A sandbox that went down at its own limits is no loss but a verdict."""
        if isinstance(error, InfrastructureError):
            with self._lock:
                if any(loss.sandbox == sandbox.name for loss in self._losses):
                    return
                suspect = self._execs > 0 and not isinstance(
                    error, SandboxStartError
                )  # one that never ran any code
                self._losses.append(Loss(sandbox.name, str(error), suspect))

    # -- for reports

    @property
    def count(self) -> int:
        """Slots that it holds, or held."""
        return self._count

    @property
    def backend(self) -> str:
        """Name of the backend that it is on."""
        return self._backend

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sandboxes that have been behind its slots, in order."""
        with self._lock:
            return tuple(self._names)

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What has been lost during the lease, whatever the test made of it."""
        with self._lock:
            return tuple(self._losses)

    @property
    def sandboxes(self) -> tuple[Sandbox, ...]:
        """The sandboxes behind the slots; none once released."""
        with self._lock:
            return tuple(self._sandboxes)

    @property
    def released(self) -> bool:
        """Its slots have been given back."""
        return self._released is not None

    def usage(self) -> Usage:
        """What it has used so far."""
        with self._lock:
            held = (self._released or time.monotonic()) - self._granted
            return Usage(self._execs, self._queue_wait, held * self.count, self._peak_memory, self._resets)

    def __repr__(self) -> str:
        slots = "1 slot" if self._count == 1 else f"{self._count} slots"
        ended = ", given back" if self.released else ""
        return f"<Lease of {slots} on {self._backend} for {self.holder}: {', '.join(self.names)}{ended}>"

    def release(self) -> None:
        """Give the slots back; returns at once. What runs in them is ended. May be called twice."""
        self._owner.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

"""A lease: the slots that one test or fixture holds, and what is known of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from pytest_sandboxes.errors import InfrastructureError, LeaseClosedError, SandboxStartError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sandbox import SandboxSlot

if TYPE_CHECKING:
    from pytest_sandboxes.request import Request
    from pytest_sandboxes.results import ExecResult
    from pytest_sandboxes.streams import Sink


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


class LeasedPort:
    """What is behind a slot, for as long as its lease has it.

    A thread that has outlived the lease, or a transfer of many requests, would otherwise reach into the next lease of
    the same slot.
    """

    def __init__(self, lease: Lease, port: SandboxSlot) -> None:
        self._lease = lease
        self._port = port
        self.name = port.name

    @property
    def backend(self) -> str:
        """Name of the backend that the sandbox runs on."""
        return self._port.backend

    @property
    def workspace(self) -> str:
        """Absolute path of the workspace, in the sandbox."""
        return self._port.workspace

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """See `Connection.request`. Raises `LeaseClosedError` when the lease has it no more."""
        with self._lease.holding(self._port):
            return self._port.request(operation, arguments, timeout=timeout, input=input, sinks=sinks)

    def lose(self, reason: str) -> None:
        """See `Sandbox.lose`; what has lied is nothing for the next lease either."""
        self._port.lose(reason)

    def oom_kills(self) -> int:
        """See `Sandbox.oom_kills`."""
        return self._port.oom_kills()


class Owner(Protocol):
    """Who gave the lease out and takes it back."""

    def release(self, lease: Lease) -> None:
        """Take all slots back."""

    def replace(self, lease: Lease, index: int) -> None:
        """Make one slot as new."""


class Lease:
    """Exclusive use of `count` slots until `release`; a context manager that releases."""

    def __init__(self, owner: Owner, holder: str, profile: Profile, queue_wait: float) -> None:
        self.holder = holder
        """Whoever leased it, such as a test's node id."""
        self.profile = profile
        self.on_use: Callable[[], object] = lambda: None
        """Called whenever a slot is used."""
        self.on_loss: Callable[[SandboxSlot, InfrastructureError], object] = lambda *_: None
        """Called with each loss, once that is on record."""
        self._owner = owner
        self._queue_wait = queue_wait
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        """Held while something is asked of a slot, so that nothing is asked of what the lease has no more."""
        self._ports: list[SandboxSlot] = []
        self._withdrawn: set[SandboxSlot] = set()
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

    def port(self, index: int) -> LeasedPort:
        """What is behind slot `index`. Raises `LeaseClosedError` once released."""
        self.on_use()
        return LeasedPort(self, self.behind(index))

    def count_exec(self) -> None:
        """A command is about to be started."""
        with self._lock:
            self._execs += 1

    def count_result(self, result: ExecResult) -> None:
        """A command has ended."""
        with self._lock:
            self._peak_memory = max(self._peak_memory, result.peak_memory)

    def reset(self, index: int) -> None:
        """Make slot `index` as new."""
        port = self.port(index)
        with self._lock:
            self._resets += 1
        try:
            self._owner.replace(self, index)
        except InfrastructureError as error:  # the old slot has been given back, and there is no other
            with self._lock:
                self._losses.append(Loss(port.name, str(error), suspect=False))
            raise

    # -- for the pool

    def behind(self, index: int) -> SandboxSlot:
        """As `port`, for those who do not use it."""
        with self._lock:
            if self._released is not None:
                raise self._closed()
            return self._ports[index]

    @contextmanager
    def holding(self, port: SandboxSlot) -> Iterator[None]:
        """A context in which `port` stays behind one of the slots. Raises `LeaseClosedError` when it is not there."""
        with self._keeping:
            if port in self._withdrawn or port not in self.ports:
                raise self._closed()
            yield

    def _closed(self) -> LeaseClosedError:
        return LeaseClosedError(
            f"the slot leased by {self.holder} has been given back: a slot lives as long as the fixture or the "
            "`with` block that leased it"
        )

    def bind(self, ports: list[SandboxSlot]) -> None:
        """Put something behind the slots."""
        with self._lock:
            self._ports = ports
            self._count = len(ports)
            self._backend = ports[0].backend
            self._names = [port.name for port in ports]

    def unbind(self) -> list[SandboxSlot]:
        """Take away what is behind the slots, for good; empty from the second call on."""
        with self._keeping, self._lock:
            if self._released is None:
                self._released = time.monotonic()
            ports, self._ports = self._ports, []
            return ports

    def withdraw(self, port: SandboxSlot) -> None:
        """Nothing may be asked of `port` any more, whose reset nobody waits for: the next lease may have it."""
        with self._keeping:
            self._withdrawn.add(port)

    def rebind(self, index: int, port: SandboxSlot) -> SandboxSlot | None:
        """Put something else behind slot `index`; return the old one, or None when the lease has been released."""
        with self._keeping, self._lock:
            if self._released is not None:
                return None
            self._withdrawn.discard(port)
            old, self._ports[index] = self._ports[index], port
            self._names.append(port.name)
            return old

    def record_loss(self, port: SandboxSlot, error: Exception) -> None:
        """The sandbox of one of its slots is gone. One that went down at its own limits is no loss but a verdict."""
        if isinstance(error, InfrastructureError):
            with self._lock:
                if any(loss.sandbox == port.name for loss in self._losses):
                    return
                ran_code = self._execs > 0 and not isinstance(error, SandboxStartError)
                suspect = ran_code and not port.is_shared
                self._losses.append(Loss(port.name, str(error), suspect))
            self.on_loss(port, error)

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
    def ports(self) -> tuple[SandboxSlot, ...]:
        """What is behind the slots; nothing once released."""
        with self._lock:
            return tuple(self._ports)

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

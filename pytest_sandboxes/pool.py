"""The pool: all sandboxes of a run. Leases slots, warms up what comes next, replaces what is used up or lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, fields
from typing import TypeVar

from pytest_sandboxes.backends.base import Backend
from pytest_sandboxes.errors import (
    AcquireTimeoutError,
    ConfigurationError,
    InfrastructureError,
    LeaseClosedError,
    PoolClosedError,
    SandboxStartError,
)
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool_state import Plan, Shelf, Waiter
from pytest_sandboxes.profiles import Profile
from pytest_sandboxes.sandbox import Sandbox

__tracebackhide__ = True  # a failing test shows its own line, not ours

_WORKERS = 6  # threads that start and close sandboxes, neither of which takes much of this process's time
_LOOK_AGAIN = 1.0  # seconds between looks of a waiter at whether anything progresses
_BRIEF = 0.002  # seconds up to which a lease counts as not having waited

Start = Callable[[Backend, Profile, IOThread], Sandbox]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Statistics:
    """A snapshot of the pool; counts are since its start, but for the last five."""

    sandboxes_started: int = 0
    start_failures: int = 0
    leases: int = 0
    waits: int = 0
    """Leases that were not there at once."""
    wait_seconds: float = 0.0
    resets: int = 0
    replacements: int = 0
    """Sandboxes that were lost and replaced, leased or idle."""
    infra_retries: int = 0
    """Attempts of tests that were repeated because infrastructure had failed."""
    sandbox_seconds: float = 0.0
    """Seconds that sandboxes have existed, in sum."""
    starting: int = 0
    idle: int = 0
    leased: int = 0
    resetting: int = 0
    waiting: int = 0


def check_slots(profile: Profile, slots: int, holder: str) -> None:
    """Raise `ConfigurationError` when a lease asks for more slots than there can ever be: one in each sandbox."""
    if slots > profile.max_sandboxes:
        raise ConfigurationError(
            f"{profile.source('max_sandboxes')}: {holder or 'a lease'} asks for {slots} slots at once, and profile "
            f"{profile.name!r} has max_sandboxes {profile.max_sandboxes}: raise it"
        )


def _run_is_over() -> PoolClosedError:
    return PoolClosedError("the pool of sandboxes has been closed: the run is over")


class _Place:
    """A shelf with what the pool needs to fill it."""

    def __init__(self, backend: Backend, profile: Profile, start_attempts: int) -> None:
        self.backend = backend
        self.profile = profile
        self.shelf: Shelf[Sandbox] = Shelf(
            profile.max_sandboxes, profile.buffer_sandboxes, profile.min_sandboxes, start_attempts
        )
        self.progressed = time.monotonic()
        self.last_error: Exception | None = None
        self.futures: dict[Waiter[Sandbox], Future[None]] = {}
        self.leases: dict[Waiter[Sandbox], Lease] = {}


class Pool:
    """Leases slots of sandboxes on several backends, of several profiles.

    State changes under one lock and returns a plan, which is carried out outside it. Sandboxes are started and closed
    by the pool's own threads, which end with `close`.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        *,
        start_attempts: int = 3,
        start: Start = Sandbox.start,
    ) -> None:
        self._backends = backends
        self._start_attempts = start_attempts
        self._start_sandbox = start
        self._io = IOThread()
        self._lock = threading.Lock()
        self._places: dict[tuple[str, str], _Place] = {}
        self._homes: dict[Sandbox, _Place] = {}
        self._gone: set[Sandbox] = set()
        self._owners: dict[Lease, tuple[_Place, Waiter[Sandbox]]] = {}
        self._counts = dict.fromkeys((field.name for field in fields(Statistics)), 0.0)
        self._has_worker = False
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="sandboxes-pool")
        self._paused = False
        self._closed = False

    # -- leasing

    def expect(self, backend: str, profile: Profile, leases: int) -> None:
        """So many leases are to come: have the first sandboxes started meanwhile."""
        with self._lock:
            if self._closed:
                return
            place = self._place(backend, profile)
            plan = place.shelf.expect(leases)
        self._carry_out(place, plan)

    def lease(self, backend: str, profile: Profile, *, slots: int = 1, holder: str = "") -> Lease:
        """Lease `slots` slots at once, waiting for them if need be.

        Raises `SandboxStartError` when sandboxes do not start, `AcquireTimeoutError` when nothing progresses for the
        profile's `acquire_timeout_s`, `PoolClosedError` after `close`, `ConfigurationError` for more slots than the
        profile's `max_sandboxes`.
        """
        asked = time.monotonic()
        waiter, place = self._obtain(backend, profile, slots, holder)
        assert waiter.granted is not None
        waited = time.monotonic() - asked
        lease = Lease(self, holder, profile, waited)
        lease.bind(waiter.granted)
        with self._lock:
            place.leases[waiter] = lease
            self._owners[lease] = (place, waiter)
            self._counts["leases"] += 1
            if waited > _BRIEF:
                self._counts["waits"] += 1
                self._counts["wait_seconds"] += waited
            gone = [sandbox for sandbox in waiter.granted if not sandbox.alive]
        for sandbox in gone:  # lost between the grant and this line, when there was no lease to tell
            lease.record_loss(sandbox, SandboxStartError(f"{sandbox.name} was lost before it could be used"))
        return lease

    def release(self, lease: Lease) -> None:
        """Take a lease back; returns at once, the sandboxes are ended in the background."""
        sandboxes = lease.unbind()
        with self._lock:
            place, waiter = self._owners.pop(lease, (None, None))
            if place is None or waiter is None:
                return
            place.leases.pop(waiter, None)
            plan = place.shelf.give_back(sandboxes)
        self._carry_out(place, plan)

    def replace(self, lease: Lease, index: int) -> None:
        """Give one slot of a lease a fresh sandbox; the old one is given back first, so nothing holds and waits."""
        old = lease.port(index)
        with self._lock:
            if lease not in self._owners:
                raise LeaseClosedError(f"the slot leased by {lease.holder} was given back while it was reset")
            place, owner = self._owners[lease]
            self._counts["resets"] += 1
        waiter, _ = self._obtain(old.backend, lease.profile, 1, lease.holder, instead_of=old)
        assert waiter.granted is not None
        (fresh,) = waiter.granted
        with self._lock:
            if fresh in place.shelf.leased:  # else the pool has been closed
                place.shelf.leased[fresh] = owner
        replaced = lease.rebind(index, fresh)
        if replaced is not fresh:  # which it is when the old one was reset and came back
            # the lease may have been released meanwhile, or the slot been given another sandbox
            with self._lock:
                plan = place.shelf.give_back([replaced or fresh])
            self._carry_out(place, plan)
        if not fresh.alive:  # lost when the lease did not have it yet
            lease.record_loss(fresh, SandboxStartError(f"{fresh.name} was lost before it could be used"))

    def _obtain(
        self, backend: str, profile: Profile, count: int, holder: str, *, instead_of: Sandbox | None = None
    ) -> tuple[Waiter[Sandbox], _Place]:
        check_slots(profile, count, holder)
        waiter: Waiter[Sandbox] = Waiter(count, holder)
        granted: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise _run_is_over()
            place = self._place(backend, profile)
            place.futures[waiter] = granted
            shelf = place.shelf
            plan = shelf.ask(waiter) if instead_of is None else shelf.exchange(instead_of, waiter)
        self._carry_out(place, plan)
        asked = time.monotonic()
        try:
            while True:
                try:
                    error = granted.exception(_LOOK_AGAIN)
                except FutureTimeoutError:
                    with self._lock:
                        stuck = time.monotonic() - max(asked, place.progressed)
                        if self._paused or stuck < profile.acquire_timeout_s:
                            continue
                        message = self._describe_wait(place, waiter, stuck)
                    raise AcquireTimeoutError(message) from None
                if error is not None:
                    # without a traceback, because others who waited may have raised it before
                    raise error.with_traceback(None)  # noqa: TRY301 - to give up below
                return waiter, place
        except BaseException:
            with self._lock:
                place.futures.pop(waiter, None)
                plan = place.shelf.give_up(waiter)
            self._carry_out(place, plan)
            raise

    def _describe_wait(self, place: _Place, waiter: Waiter[Sandbox], stuck: float) -> str:
        shelf = place.shelf
        holders = sorted({lease.holder or "somebody" for lease in place.leases.values()})
        held = f"held by {', '.join(holders)}" if holders else "held by nobody"
        error = f"; the last start failed: {place.last_error}" if place.last_error else ""
        return (
            f"{waiter.holder or 'a lease'} has waited for {waiter.count} slot(s) of profile {place.profile.name!r} on "
            f"backend {place.backend.name} while nothing progressed for {stuck:.0f} s: {len(shelf.leased)} of at most "
            f"{shelf.maximum} sandboxes leased ({held}), {shelf.starting} starting{error}; raise max_sandboxes, or "
            "acquire_timeout_s"
        )

    # -- state

    def _place(self, backend: str, profile: Profile) -> _Place:
        key = (backend, profile.digest)
        if key not in self._places:
            self._places[key] = _Place(self._backends[backend], profile, self._start_attempts)
        return self._places[key]

    def _carry_out(self, place: _Place, plan: Plan[Sandbox]) -> None:
        """Do what a change of state has made necessary; called without the lock."""
        with self._lock:
            if plan.granted or plan.reset or plan.close:
                place.progressed = time.monotonic()
            granted = [place.futures.pop(waiter) for waiter in plan.granted if waiter in place.futures]
            failed = [
                (place.futures.pop(waiter), error) for waiter, error in plan.failed if waiter in place.futures
            ]
        for future in granted:
            future.set_result(None)
        for future, error in failed:
            future.set_exception(error)
        for _ in range(plan.start):
            self._in_background(self._start, place)
        for sandbox in plan.reset:
            self._in_background(self._reset, sandbox)
        for sandbox in plan.close:
            self._in_background(self._close_sandbox, sandbox)

    def _in_background(self, chore: Callable[[_T], None], subject: _T) -> None:
        try:
            self._workers.submit(chore, subject)
            self._has_worker = True
        except RuntimeError as error:
            if self._closed:
                chore(subject)  # `close` waits for the workers, and they take no more
            elif not self._has_worker:
                raise ConfigurationError(
                    f"the pool of sandboxes cannot start a thread: {error}; raise the limits of this process on "
                    "processes and memory (ulimit -u, ulimit -v)"
                ) from None
            # otherwise it is in the queue of those workers that could be started

    def _start(self, place: _Place) -> None:
        with self._lock:
            if self._closed:  # while this was in the queue
                place.shelf.start_failed(_run_is_over(), final=True)
                return
        try:
            sandbox = self._start_sandbox(place.backend, place.profile, self._io)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to learn of it
            final = isinstance(error, ConfigurationError)
            if not final and not isinstance(error, InfrastructureError):
                error = SandboxStartError(f"backend {place.backend.name} failed: {error!r}")
            with self._lock:
                self._counts["start_failures"] += 1
                place.last_error = error
                plan = place.shelf.start_failed(error, final=final)
        else:
            with self._lock:
                self._counts["sandboxes_started"] += 1
                place.last_error = None
                self._homes[sandbox] = place
                sandbox.lost = lambda error: self._lost(sandbox, error)
                plan = place.shelf.started(sandbox)
                place.progressed = time.monotonic()
            if not sandbox.alive:  # before there was anybody to tell
                self._lost(sandbox, SandboxStartError(f"{sandbox.name} was lost as soon as it had started"))
        self._carry_out(place, plan)

    def _reset(self, sandbox: Sandbox) -> None:
        try:
            sandbox.reset()
            clean = True
        except Exception:  # noqa: BLE001 - whatever it is, there is no proof
            clean = False
        with self._lock:
            place = self._homes.get(sandbox)
            if place is None:  # closed meanwhile
                return
            plan = place.shelf.was_reset(sandbox, clean=clean)
            place.progressed = time.monotonic()
        self._carry_out(place, plan)

    def _lost(self, sandbox: Sandbox, error: Exception) -> None:
        with self._lock:
            place = self._homes.get(sandbox)
            if place is None or sandbox in self._gone:
                return
            self._gone.add(sandbox)
            self._counts["replacements"] += 1
            waiter = place.shelf.leased.get(sandbox)
            lease = None if waiter is None else place.leases.get(waiter)
            _, plan = place.shelf.lost(sandbox)
        if lease is not None:
            lease.record_loss(sandbox, error)
        self._carry_out(place, plan)

    def _close_sandbox(self, sandbox: Sandbox) -> None:
        with self._lock:
            self._gone.discard(sandbox)
            if self._homes.pop(sandbox, None) is not None:
                self._counts["sandbox_seconds"] += time.monotonic() - sandbox.started
        sandbox.close()

    # -- the run

    def keep(self, lease: Lease, seconds: float) -> list[tuple[str, str]]:
        """Let a lease's sandboxes live on after the run; return the commands that enter and end each."""
        kept = []
        for sandbox in lease.sandboxes:
            kept.append(sandbox.keep(seconds))
            with self._lock:
                place = self._homes.pop(sandbox)
                self._counts["sandbox_seconds"] += time.monotonic() - sandbox.started
                place.shelf.leased.pop(sandbox, None)
        return kept

    def count_infra_retry(self) -> None:
        """An attempt of a test is being repeated."""
        with self._lock:
            self._counts["infra_retries"] += 1

    def pause(self) -> None:
        """Stop all clocks: somebody is debugging."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Let all clocks go on."""
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        with self._lock:
            self._paused = paused
            sandboxes = list(self._homes)
            for place in self._places.values():
                place.progressed = time.monotonic()
        for sandbox in sandboxes:
            if paused:
                sandbox.pause()
            else:
                sandbox.resume()

    def statistics(self) -> Statistics:
        """A snapshot."""
        now = time.monotonic()
        with self._lock:
            shelves = [place.shelf for place in self._places.values()]
            counts: dict[str, float] = {
                **{name: int(value) for name, value in self._counts.items()},
                "wait_seconds": self._counts["wait_seconds"],
                "sandbox_seconds": self._counts["sandbox_seconds"]
                + sum(now - sandbox.started for sandbox in self._homes),
                "starting": sum(shelf.starting for shelf in shelves),
                "idle": sum(len(shelf.idle) for shelf in shelves),
                "leased": sum(len(shelf.leased) for shelf in shelves),
                "resetting": sum(len(shelf.resetting) for shelf in shelves),
                "waiting": sum(len(shelf.waiting) for shelf in shelves),
            }
        return Statistics(**counts)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Pool: {now.leased} leased, {now.idle} idle, {now.starting} starting, {now.waiting} waiting>"

    def close(self) -> None:
        """End every sandbox and every thread of the pool. May be called twice."""
        error = _run_is_over()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            plans = [(place, place.shelf.close(error)) for place in self._places.values()]
        for place, plan in plans:
            self._carry_out(place, plan)
        self._workers.shutdown(wait=True)
        for backend in self._backends.values():
            backend.close()
        self._io.close()

"""The pool: all sandboxes of a run. Leases slots, warms up what comes next, replaces what is used up or lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial

from pytest_sandboxes.backends.base import Backend, KeptSlot
from pytest_sandboxes.errors import (
    AcquireTimeoutError,
    ConfigurationError,
    LeaseClosedError,
    SandboxesError,
    SandboxStartError,
)
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.many_calls import exec_many
from pytest_sandboxes.pool.alarm import Clock, MachineClock
from pytest_sandboxes.pool.crew import Start, Team, ThreadTeam, run_is_over
from pytest_sandboxes.pool.machinery import Machinery
from pytest_sandboxes.pool.meter import Budget
from pytest_sandboxes.pool.state import Shelf, Waiter
from pytest_sandboxes.pool.statistics import Statistics, in_brief, snapshot
from pytest_sandboxes.pool.stock import Stock
from pytest_sandboxes.pool.wording import describe_wait
from pytest_sandboxes.profiles.catalog import ListedProfile, Profiles
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sandbox import RESET_TIMEOUT, Sandbox, SandboxSlot

__tracebackhide__ = True  # a failing test shows its own line, not ours

_LOOK_AGAIN = 1.0  # seconds between looks of a waiter at whether anything progresses
_BRIEF = 0.002  # seconds up to which a lease counts as not having waited


class Pool(Machinery):
    """Leases slots of sandboxes on several backends, of several profiles.

    State changes under one lock and returns a plan, which is carried out outside it, by the pool's own threads, which
    end with `close`.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        *,
        start_attempts: int = 3,
        max_sandboxes: int | None = None,
        max_sandboxes_source: str = "max_sandboxes of the pool",
        budget: Budget | None = None,
        profiles: Profiles | None = None,
        start: Start = Sandbox.start,
        clock: Clock | None = None,
        team: Callable[[str], Team] | None = None,
    ) -> None:
        """`max_sandboxes`: the most that exist at once, over all profiles and backends; None leaves it to profiles.

        `budget`: what all of them may use together; None is no limit. `profiles`: those that have names, of which
        `profiles` tells. `clock` and `team` are where time and hands come from.
        """
        self._backends = backends
        self._catalog = profiles or Profiles()
        self._cap_source = max_sandboxes_source
        clock = clock or MachineClock()
        if team is None:
            most = max((each.at_once for each in backends.values()), default=Backend.at_once)
            team = partial(ThreadTeam, most=most)
        stock = Stock(max_sandboxes, start_attempts, budget=budget, now=clock.now)
        super().__init__(stock, clock, start, team)
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._owners: dict[Lease, Waiter] = {}
        self._paused = False
        self._closed = False
        self._ended = False
        """All that `close` has to do is done."""

    # -- leasing

    exec_many = staticmethod(exec_many)

    def check(self, backend: str, profile: Profile, slots: int, holder: str) -> None:
        """Raise `ConfigurationError` when a lease asks for more slots than there can ever be."""
        each = self._backends[backend].slots_per_sandbox(profile)
        needed = -(-slots // each)
        who = f"{holder or 'a lease'} asks for {slots} slots at once"
        if needed > profile.max_sandboxes:
            of_how_many = f" with {each} slots each" if each > 1 else ""
            raise ConfigurationError(
                f"{profile.source('max_sandboxes')}: {who}, and profile {profile.name!r} has max_sandboxes "
                f"{profile.max_sandboxes}{of_how_many}: raise it"
            )
        if self._stock.cap is not None and needed > self._stock.cap:
            raise ConfigurationError(
                f"{self._cap_source} is {self._stock.cap}, but {who}, which takes {needed} sandboxes of profile "
                f"{profile.name!r}: raise it"
            )

    def expect(self, backend: str, profile: Profile, leases: int) -> None:
        """So many slots are to be leased: have the first sandboxes started meanwhile."""
        with self._lock:
            if self._closed:
                return
            shelf = self._shelf(backend, profile)
            plan = self._decided(self._stock.expect(shelf, leases), shelf)
        self._carry_out(plan)

    def lease(
        self,
        backend: str,
        profile: Profile,
        *,
        slots: int = 1,
        holder: str = "",
        alone: bool = False,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Lease:
        """Lease `slots` slots at once, waiting for them if need be, and for as long as they are wanted.

        `alone`: no other lease gets into their sandboxes.
        Raises `SandboxStartError` when sandboxes do not start, `AcquireTimeoutError` when nothing progresses for the
        profile's `acquire_timeout_s`, `PoolClosedError` after `close`, `ConfigurationError` for more slots than there
        can be, `LeaseClosedError` when the lease is not wanted any more.
        """
        self.check(backend, profile, slots, holder)
        asked = self._clock.now()
        waiter = Waiter(slots, holder, alone=alone)
        granted = self._obtain(backend, profile, waiter, is_wanted=is_wanted)
        return self._bind(granted, waiter, profile, self._clock.now() - asked)

    def lease_at_once(
        self, backend: str, profile: Profile, *, slots: int = 1, holder: str = "", alone: bool = False
    ) -> Lease | None:
        """As `lease`, without ever waiting: None when all of it is not there, or somebody else has asked before."""
        self.check(backend, profile, slots, holder)
        waiter = Waiter(slots, holder, alone=alone)
        with self._lock:
            shelf = self._shelf(backend, profile)
            if self._closed or not self._stock.has(shelf, waiter):
                return None
            plan = self._decided(self._stock.ask(shelf, waiter), shelf)
        self._carry_out(plan)
        assert waiter.granted is not None
        return self._bind(waiter.granted, waiter, profile, 0.0)

    def _bind(self, granted: list[SandboxSlot], waiter: Waiter, profile: Profile, waited: float) -> Lease:
        lease = Lease(self, waiter.holder, profile, waited)
        lease.bind(granted)
        with self._lock:
            self._leases[waiter] = lease
            self._owners[lease] = waiter
            self._counts.leases += 1
            if waited > _BRIEF:
                self._counts.waits += 1
                self._counts.wait_seconds += waited
        for slot in granted:
            _record_early_loss(lease, slot)
        return lease

    def release(self, lease: Lease) -> None:
        """Take a lease back; returns at once, its slots are made as new in the background."""
        slots = lease.unbind()
        with self._lock:
            waiter = self._owners.pop(lease, None)
            if waiter is None:
                return
            del self._leases[waiter]
            shelves = {shelf for slot in slots if (shelf := self._stock.shelf_of(slot.sandbox))}
            plan = self._decided(self._stock.give_back(slots, waiter), *shelves)
        self._carry_out(plan)

    def replace(self, lease: Lease, index: int) -> None:
        """Give one slot of a lease as new: itself where it can be reset, else another, the old one given back first."""
        old = lease.behind(index)
        with self._lock:
            owner = self._owners.get(lease)
            if owner is None:
                raise LeaseClosedError(f"the slot leased by {lease.holder} was given back while it was reset")
            self._counts.resets += 1
        waiter = Waiter(1, lease.holder, alone=owner.alone, lease_of=owner)
        withdraw = partial(lease.withdraw, old)  # before it can be anybody else's
        (fresh,) = self._obtain(old.backend, lease.profile, waiter, instead_of=old, giving_up=withdraw)
        replaced = lease.rebind(index, fresh)
        if replaced is not fresh:  # which it is when the old one was reset and came back
            # the lease may have been released meanwhile, or the slot been given another sandbox
            with self._lock:
                plan = self._decided(self._stock.give_back([replaced or fresh], owner))
            self._carry_out(plan)
        _record_early_loss(lease, fresh)

    def _obtain(
        self,
        backend: str,
        profile: Profile,
        waiter: Waiter,
        *,
        instead_of: SandboxSlot | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
        giving_up: Callable[[], None] = lambda: None,
    ) -> list[SandboxSlot]:
        """Wait for what `waiter` wishes; `giving_up` is called first when that is given up."""
        shelf = self._ask(backend, profile, waiter, instead_of=instead_of)
        if (answered := waiter.answered) is None:
            assert waiter.granted is not None
            return waiter.granted
        asked = self._clock.now()
        try:
            while True:
                try:
                    error = answered.exception(_LOOK_AGAIN)
                except FutureTimeoutError:
                    if not is_wanted():
                        raise LeaseClosedError(
                            f"{waiter.holder} does not wait for its lease any more"
                        ) from None
                    with self._lock:
                        stuck = self._clock.now() - max(asked, self._last_progress(shelf))
                        if self._paused or stuck < _patience(profile):
                            continue
                        message = describe_wait(self._stock, shelf, waiter, stuck, self._cap_source)
                    raise AcquireTimeoutError(message) from None
                if error is not None:
                    # without a traceback, because others who waited may have raised it before
                    raise error.with_traceback(None)  # noqa: TRY301 - to give up below
                assert waiter.granted is not None
                return waiter.granted
        except BaseException:
            giving_up()
            self._give_up_waiting(shelf, waiter)
            raise

    def _ask(
        self, backend: str, profile: Profile, waiter: Waiter, *, instead_of: SandboxSlot | None = None
    ) -> Shelf:
        """Wish for slots, or for another in place of one; what is not granted at once, `waiter.answered` tells of."""
        with self._lock:
            if self._closed:
                raise run_is_over()
            shelf = self._shelf(backend, profile)
            if instead_of is None:
                plan = self._stock.ask(shelf, waiter)
            else:
                plan = self._stock.exchange(shelf, instead_of, waiter)
            if waiter.granted is None:
                waiter.answered = Future()
            self._decided(plan, shelf)
        self._carry_out(plan)
        return shelf

    def _give_up_waiting(self, shelf: Shelf, waiter: Waiter) -> None:
        """Nobody waits for what `waiter` wishes any more; what it has been granted meanwhile comes back."""
        with self._lock:
            waiter.answered = None
            plan = self._decided(self._stock.give_up(shelf, waiter))
        self._carry_out(plan)

    def _shelf(self, backend: str, profile: Profile) -> Shelf:
        key = (backend, profile.digest)
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = self._stock.add_shelf(self._backends[backend], profile)
            self._progressed[shelf] = self._clock.now()
        return shelf

    def _last_progress(self, shelf: Shelf) -> float:
        """When something last happened that may have brought whoever waits closer to being served."""
        if self._stock.cap is None:
            return self._progressed[shelf]
        return max(self._progressed.values())  # each may make room for the others

    # -- the run

    def keep(self, lease: Lease, seconds: float) -> list[KeptSlot]:
        """Let a lease's sandboxes live on after the run; return how to enter and end each."""
        kept = []
        for sandbox in dict.fromkeys(slot.sandbox for slot in lease.ports):
            with self._lock:
                owner = self._owners.get(lease)
                # one that is lost says so below
                if owner is None or (sandbox.alive and not self._stock.keep(sandbox, owner)):
                    raise SandboxesError(f"its sandbox {sandbox.name} is shared, and in use by other tests")
            kept += sandbox.keep(seconds, [slot for slot in lease.ports if slot.sandbox is sandbox])
            with self._lock:
                if self._stock.shelf_of(sandbox) is None:  # the pool has been closed
                    continue
                plan = self._decided(self._stock.forget(sandbox))
            self._carry_out(plan)
        return kept

    def count_infra_retry(self) -> None:
        """An attempt of a test is being repeated."""
        with self._lock:
            self._counts.infra_retries += 1

    def pause(self) -> None:
        """Stop all clocks: somebody is debugging."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Let all clocks go on."""
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        with self._lock:
            self._paused = paused
            sandboxes = list(self._stock.sandboxes)
            self._progressed = dict.fromkeys(self._progressed, self._clock.now())
        for sandbox in sandboxes:
            if paused:
                sandbox.pause()
            else:
                sandbox.resume()

    def profiles(self) -> tuple[ListedProfile, ...]:
        """Each profile of the run, with every field and its source, and whether it is active."""
        return self._catalog.listed()

    def statistics(self) -> Statistics:
        """A snapshot."""
        with self._lock:
            return snapshot(self._counts, self._stock)

    def __repr__(self) -> str:
        return f"<Pool: {in_brief(self.statistics())}>"

    def close(self, *, park: bool = False) -> None:
        """End every sandbox and every thread of the pool. May be called again; where it was interrupted, it goes on.

        `park`: first let those that are clean wait for the next run, where their backend can.
        """
        with self._lock:
            if self._ended:
                return
            park = park and not self._closed
            self._closed = True
            plan = self._decided(self._stock.stop(run_is_over()))
        for backend in self._backends.values():
            backend.stop_waiting()
        self._crew.start_nothing_more()
        self._carry_out(plan)
        self._alarm.close()
        if park:
            self._park()
        with self._lock:
            plan = self._decided(self._stock.close(run_is_over()))
        self._carry_out(plan)
        self._crew.close()
        for backend in self._backends.values():
            backend.close()
        self._ended = True

    def _park(self) -> None:
        with self._lock:
            self._changed.wait_for(
                lambda: not any(shelf.resetting for shelf in self._stock.shelves), RESET_TIMEOUT
            )
            plan = self._decided(self._stock.park())
        self._carry_out(plan)


def _patience(profile: Profile) -> float:
    """Seconds without progress until a lease is given up.

    Setup, which comes after a start and as its last part, may take as long by itself, and says what has gone wrong.
    """
    return profile.acquire_timeout_s * (2 if profile.setup else 1)


def _record_early_loss(lease: Lease, slot: SandboxSlot) -> None:
    """Of a sandbox that was lost between the grant and the lease, when there was no lease to tell."""
    if not slot.alive:
        lease.record_loss(slot, SandboxStartError(f"{slot.name} was lost before it could be used"))

"""What the pool knows of the sandboxes of one recipe: bookkeeping only, no I/O, no threads, no clock of its own.

What follows from it, for all recipes together, is decided in `pool.stock`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_sandboxes.pool.meter import Meter
from pytest_sandboxes.pool.queue import Queue
from pytest_sandboxes.pool.rate import Setbacks

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pytest_sandboxes.backends.base import Backend
    from pytest_sandboxes.pool.agenda import Agenda
    from pytest_sandboxes.pool.rate import StartGate
    from pytest_sandboxes.profiles.profile import Profile
    from pytest_sandboxes.sandbox import Sandbox, SandboxSlot


class Waiter:
    """A wish for `count` slots at once, `alone`: in sandboxes in which nobody else is."""

    def __init__(
        self, count: int, holder: str, *, alone: bool = False, lease_of: Waiter | None = None
    ) -> None:
        self.count = count
        self.holder = holder
        self.alone = alone
        self.lease_of = lease_of or self
        """Whose lease the slots are for: that of an earlier wish where one of its slots is exchanged."""
        self.turn = 0
        """Its place among all that wait; the least is served first."""
        self.granted: list[SandboxSlot] | None = None
        self.answered: Future[None] | None = None
        """Tells whoever waits that it is granted, or why it never will be; None while nobody has to."""

    @property
    def is_exchange(self) -> bool:
        """It is for a lease that goes on meanwhile."""
        return self.lease_of is not self

    def __repr__(self) -> str:
        return f"<Waiter for {self.count} slots, {self.holder}>"


@dataclass
class Plan:
    """What to do once the lock is released."""

    granted: list[Waiter] = field(default_factory=list)
    failed: list[tuple[Waiter, Exception]] = field(default_factory=list)
    start: list[Shelf] = field(default_factory=list)
    """A sandbox for each; `started` or `start_failed` has to follow."""
    reset: list[SandboxSlot] = field(default_factory=list)
    """To be made as new; `was_reset` has to follow for each."""
    close: list[Sandbox] = field(default_factory=list)
    """To be ended; `has_closed` has to follow for each."""
    park: list[Sandbox] = field(default_factory=list)
    """To wait for the next run, or to be ended where that cannot be. They are the pool's no more."""
    due: float = field(default=math.inf, compare=False)
    """When something else will have to be done, if nothing happens before."""


class Occupancy:
    """Who is in which slot of one sandbox. A slot is free, leased, being reset, or never used again."""

    def __init__(self, shelf: Shelf, sandbox: Sandbox, since: float) -> None:
        self.shelf = shelf
        self.sandbox = sandbox
        self.since = since
        """When it came."""
        self.born = since - sandbox.age_before
        """When it was started, be it by an earlier run."""
        self.free: list[SandboxSlot] = []
        self.leased: dict[SandboxSlot, Waiter] = {}
        self.resetting: dict[SandboxSlot, Waiter | None] = {}
        """With the wish that each goes back to, if it is only exchanged for itself."""
        self.spoilt = False
        """It cannot be proven to be clean, or has been kept: for nobody any more, and ended once nobody is in it."""
        self.worn = False
        """As old, or leased as often, as it may be: for those who are in it, and ended after them."""
        self.alone = False
        """Whoever is in it, or comes back after a reset, shares it with nobody."""
        self.draining = False
        """Others have waited longer for its room than anybody who could still get into it."""
        self.idle_since = 0.0

    def __repr__(self) -> str:
        return f"<Occupancy of {self.sandbox}: {len(self.leased)} leased, {len(self.free)} free>"

    @property
    def is_empty(self) -> bool:
        """Nobody is in it, nor has left anything."""
        return not self.leased and not self.resetting

    @property
    def is_leaving(self) -> bool:
        """It is for no other lease any more."""
        return self.spoilt or self.worn

    @property
    def offered(self) -> int:
        """Slots that can be leased now."""
        return 0 if self.spoilt or self.worn or self.alone or self.draining else len(self.free)

    @property
    def coming(self) -> int:
        """Slots that can be leased once they have been reset."""
        if self.spoilt or self.worn or self.alone or not self.resetting:
            return 0
        return list(self.resetting.values()).count(None)

    @property
    def load(self) -> int:
        """Slots that are in use in a sandbox for more leases."""
        return 0 if self.spoilt or self.worn else len(self.leased)


class Shelf:
    """The sandboxes of one recipe on one backend.

    Invariants: `total <= maximum`; a slot is in one place; waiters are in the order of their turns.
    """

    def __init__(
        self, backend: Backend, profile: Profile, gate: StartGate, agenda: Agenda, now: Callable[[], float]
    ) -> None:
        self.backend = backend
        self.profile = profile
        self.gate = gate
        self.agenda = agenda
        self.look_at = math.inf
        """When the agenda has something to be seen to here."""
        self.slots_each = backend.slots_per_sandbox(profile)
        self.target = min(profile.target_slots_per_sandbox or self.slots_each, self.slots_each)
        self.maximum = profile.max_sandboxes
        limits = (profile.idle_timeout, profile.scaledown_window, profile.max_lifetime)
        self.patience = min((each for each in limits if each is not None), default=math.inf)
        """Seconds after which something may have become due."""
        self.meter = Meter()
        self.expected = 0
        """Slots that are still to be leased, as far as is known: what is warmed up beyond them would be for nobody."""
        self.foreseen = False
        """That is known."""
        self.starting = 0
        self.closing = 0
        """Sandboxes that are being ended."""
        self.sandboxes: dict[Sandbox, Occupancy] = {}
        """The oldest first."""
        self.usable = 0
        """Those of them that are for more leases."""
        self.idle: OrderedDict[Occupancy, None] = OrderedDict()
        """Those with nobody in them, the longest idle first."""
        self.partly: OrderedDict[Occupancy, None] = OrderedDict()
        """Those with room beside somebody, and fewer leases than they should have."""
        self.crowded: OrderedDict[Occupancy, None] = OrderedDict()
        """Those with room beside as many leases as they should have, or more."""
        self.free = 0
        """Slots that can be leased now."""
        self.coming = 0
        """Slots that can be leased once they have been reset."""
        self.leased = 0
        """Slots that are leased."""
        self.resetting = 0
        """Slots that are being reset."""
        self.load = 0
        """Slots that are leased in those sandboxes that are for more leases."""
        self.waiting = Queue()
        self.setbacks = Setbacks()
        self.discouraged = False
        """Too many starts have failed: nothing is warmed up until somebody waits again."""
        self.dormant = False
        """What was warm was not used for long: nothing is warmed up beyond the minimum until somebody waits again."""
        self.needed_after_all = False
        """Something is as old, or has been idle for as long, as it may be, and stays for those who need it."""
        self.now = now

    @property
    def total(self) -> int:
        """Sandboxes that there are or will be, and those that are not gone yet."""
        return self.starting + len(self.sandboxes) + self.closing

    def take_in(self, sandbox: Sandbox) -> Occupancy:
        """A new sandbox, with nobody in it."""
        now = self.now()
        occupancy = Occupancy(self, sandbox, now)
        self.sandboxes[sandbox] = occupancy
        if sandbox.age_before:  # it is older than what this run has started
            self.sandboxes = dict(sorted(self.sandboxes.items(), key=lambda each: each[1].born))
        self.usable += 1
        self.meter.begin(now)
        with self.refiling(occupancy):
            occupancy.free += sandbox.slots
        if self.profile.max_lifetime is not None:
            self.agenda.note(self, occupancy.born + self.profile.max_lifetime)
        return occupancy

    def sandboxes_for(self, waiter: Waiter) -> int:
        """Sandboxes that a wish takes where there is none yet."""
        return -(-waiter.count // self.slots_each)

    def can_serve(self, waiter: Waiter) -> bool:
        """Whether all that it asks for is there."""
        if waiter.alone:
            return len(self.idle) >= self.sandboxes_for(waiter)
        return self.free >= waiter.count

    def serve(self, waiter: Waiter) -> None:
        """Lease to a wish all it asks for, out of sandboxes that are partly used first."""
        granted: list[SandboxSlot] = []
        while (missing := waiter.count - len(granted)) > 0:
            occupancy = self._best(alone=waiter.alone)
            with self.refiling(occupancy):
                taken, occupancy.free = occupancy.free[:missing], occupancy.free[missing:]
                occupancy.leased.update(dict.fromkeys(taken, waiter.lease_of))
                occupancy.alone = waiter.alone
                occupancy.sandbox.is_shared = self.slots_each > 1 and not waiter.alone
                occupancy.sandbox.uses += 1
                occupancy.worn = occupancy.sandbox.uses == self.profile.max_uses
            granted += taken
        waiter.granted = granted

    def _best(self, *, alone: bool) -> Occupancy:
        if self.partly and not alone:
            return next(iter(self.partly))
        if self.idle:  # the one used last: the others are not needed, if that goes on
            return next(reversed(self.idle))
        return next(iter(self.crowded))

    def refiling(self, occupancy: Occupancy) -> _Refiling:
        """A context in which a sandbox is changed; it is filed by what has become of it after that."""
        return _Refiling(self, occupancy)

    def __repr__(self) -> str:
        return (
            f"<Shelf: {len(self.sandboxes)} sandboxes, {self.starting} starting, {len(self.waiting)} waiting>"
        )

    def remove(self, occupancy: Occupancy) -> None:
        """A sandbox is no longer on the shelf."""
        with self.refiling(occupancy):
            occupancy.spoilt = True
            occupancy.free = []
            occupancy.leased = {}
            occupancy.resetting = {}
        del self.sandboxes[occupancy.sandbox]
        self.meter.end(occupancy.since, self.now())


class _Refiling:
    """No generator, because it is on the way of every lease."""

    __slots__ = ("_before", "_of", "_shelf")

    def __init__(self, shelf: Shelf, occupancy: Occupancy) -> None:
        self._shelf = shelf
        self._of = occupancy

    def __enter__(self) -> None:
        of = self._of
        self._before = (of.offered, of.coming, len(of.leased), len(of.resetting), of.load, of.is_leaving)

    def __exit__(self, *_: object) -> None:
        shelf, of = self._shelf, self._of
        if of.alone and not of.leased and not any(of.resetting.values()):
            of.alone = False
        offered, coming, leased, resetting, load, was_leaving = self._before
        now_offered = of.offered
        shelf.free += now_offered - offered
        shelf.coming += of.coming - coming
        shelf.leased += len(of.leased) - leased
        shelf.resetting += len(of.resetting) - resetting
        shelf.load += of.load - load
        shelf.usable -= of.is_leaving - was_leaving
        shelf.partly.pop(of, None)
        shelf.crowded.pop(of, None)
        if not now_offered or not of.is_empty:
            shelf.idle.pop(of, None)
            if now_offered:
                used = len(of.leased) + len(of.resetting)
                (shelf.partly if used < shelf.target else shelf.crowded)[of] = None
        elif of not in shelf.idle:
            shelf.idle[of] = None
            self._note_idle()

    def _note_idle(self) -> None:
        shelf, of = self._shelf, self._of
        of.idle_since = shelf.now()
        if shelf.patience < math.inf:
            shelf.agenda.note(shelf, of.idle_since + shelf.patience)

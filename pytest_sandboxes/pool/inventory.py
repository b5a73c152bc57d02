"""Which sandboxes a pool has, on which shelf each is, and which are on their way out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from pytest_sandboxes.pool.meter import Meter

if TYPE_CHECKING:
    from pytest_sandboxes.pool.state import Occupancy, Plan, Shelf, Waiter
    from pytest_sandboxes.sandbox import Sandbox, SandboxSlot


class Inventory:
    """What there is. A sandbox comes with `_take_in`, and goes with `_retire` or `_let_go`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.shelves: list[Shelf] = []
        self._meter = Meter()
        self._of: dict[Sandbox, Occupancy] = {}
        self._closing: dict[Sandbox, Shelf] = {}
        """Sandboxes that are being ended and may still be there, and where they were."""
        self._drained: list[Occupancy] = []
        """What nobody gets into, to make room."""

    # -- what is asked about

    @property
    def total(self) -> int:
        """Sandboxes that there are or will be, and those that are not gone yet."""
        return sum(shelf.total for shelf in self.shelves)

    @property
    def sandbox_seconds(self) -> float:
        """How long sandboxes have existed, in sum."""
        return self._meter.total(self._now())

    @property
    def draining(self) -> int:
        """How many sandboxes are for no other lease."""
        return sum(len(shelf.sandboxes) - shelf.usable for shelf in self.shelves) + len(self._drained)

    @property
    def sandboxes(self) -> Collection[Sandbox]:
        """Those that are on a shelf."""
        return self._of.keys()

    def shelf_of(self, sandbox: Sandbox) -> Shelf | None:
        """Where a sandbox is; None once it is lost or to be ended, or has been kept."""
        occupancy = self._of.get(sandbox)
        return None if occupancy is None else occupancy.shelf

    def leases_of(self, sandbox: Sandbox) -> dict[SandboxSlot, Waiter]:
        """Which slots of a sandbox are leased, and by which wishes."""
        occupancy = self._of.get(sandbox)
        return {} if occupancy is None else dict(occupancy.leased)

    @property
    def _leaving(self) -> int:
        """How many are ending, and make room by themselves."""
        return len(self._closing)

    # -- how it comes and goes

    def _take_in(self, shelf: Shelf, sandbox: Sandbox) -> None:
        self._of[sandbox] = occupancy = shelf.take_in(sandbox)
        self._meter.begin(occupancy.since)

    def _let_go(self, sandbox: Sandbox) -> Shelf:
        """A sandbox is not ours any more; where it was."""
        occupancy = self._of.pop(sandbox)
        self._remove(occupancy)
        return occupancy.shelf

    def _is_gone(self, sandbox: Sandbox) -> Shelf:
        """A sandbox has been ended; where it was."""
        shelf = self._closing.pop(sandbox)
        shelf.closing -= 1
        return shelf

    def _retire_if_left(self, occupancy: Occupancy, plan: Plan) -> None:
        if occupancy.is_leaving and occupancy.is_empty:
            self._retire(occupancy, plan)

    def _retire(self, occupancy: Occupancy, plan: Plan) -> None:
        del self._of[occupancy.sandbox]
        self._remove(occupancy)
        self._end(occupancy.sandbox, occupancy.shelf, plan)

    def _remove(self, occupancy: Occupancy) -> None:
        occupancy.shelf.remove(occupancy)
        self._meter.end(occupancy.since, self._now())

    def _end(self, sandbox: Sandbox, shelf: Shelf, plan: Plan) -> None:
        self._closing[sandbox] = shelf
        shelf.closing += 1
        plan.close.append(sandbox)

    def _drain(self, occupancy: Occupancy) -> None:
        with occupancy.shelf.refiling(occupancy):
            occupancy.draining = True
        self._drained.append(occupancy)

    def _drain_no_more(self) -> None:
        for occupancy in self._drained:
            with occupancy.shelf.refiling(occupancy):
                occupancy.draining = False
        self._drained.clear()

"""What a pool has done so far, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.pool.stock import Stock


@dataclass
class Counts:
    """What a pool counts as it happens."""

    sandboxes_started: int = 0
    taken_over: int = 0
    parked: int = 0
    start_failures: int = 0
    rate_limited: int = 0
    leases: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    resets: int = 0
    replacements: int = 0
    infra_retries: int = 0


@dataclass(frozen=True)
class Statistics:
    """A snapshot of the pool; counts are since its start, those from `sandboxes` on are of now."""

    sandboxes_started: int = 0
    taken_over: int = 0
    """Of those, sandboxes that an earlier run had parked."""
    parked: int = 0
    """Sandboxes that wait for the next run."""
    start_failures: int = 0
    rate_limited: int = 0
    """Starts that a backend has turned away because there were too many, and that were made up for later."""
    leases: int = 0
    waits: int = 0
    """Leases that were not there at once."""
    wait_seconds: float = 0.0
    resets: int = 0
    replacements: int = 0
    """Sandboxes that were lost, or not clean after a lease, and replaced."""
    infra_retries: int = 0
    """Attempts of tests that were repeated because infrastructure had failed."""
    sandbox_seconds: float = 0.0
    """Seconds that sandboxes have existed, in sum."""
    sandboxes: int = 0
    """Those that are there, and are not being ended."""
    starting: int = 0
    """Sandboxes on their way."""
    draining: int = 0
    """Sandboxes that take no other lease, and are ended once nobody is in them."""
    closing: int = 0
    """Sandboxes that are being ended."""
    idle: int = 0
    """Slots that can be leased now."""
    leased: int = 0
    """Slots that are leased."""
    resetting: int = 0
    """Slots that are being made as new."""
    waiting: int = 0
    """Leases that are waited for."""


def snapshot(counts: Counts, stock: Stock) -> Statistics:
    """What has been counted, and what there is now; under the pool's lock."""
    shelves = stock.shelves
    return Statistics(
        **asdict(counts),
        sandbox_seconds=stock.sandbox_seconds,
        sandboxes=len(stock.sandboxes),
        starting=sum(shelf.starting for shelf in shelves),
        draining=stock.draining,
        closing=sum(shelf.closing for shelf in shelves),
        idle=sum(shelf.free for shelf in shelves),
        leased=sum(shelf.leased for shelf in shelves),
        resetting=sum(shelf.resetting for shelf in shelves),
        waiting=sum(len(shelf.waiting) for shelf in shelves),
    )


def in_brief(now: Statistics) -> str:
    """What matters of a snapshot to whoever wonders why nothing moves."""
    rest = {"draining": now.draining, "closing": now.closing}
    return ", ".join(
        [
            f"{now.leased} leased, {now.idle} idle, {now.starting} starting, {now.waiting} waiting",
            *(f"{count} {what}" for what, count in rest.items() if count),
        ]
    )

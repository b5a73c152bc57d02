"""What a pool says to those who get nothing from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.pool.meter import Budget
    from pytest_sandboxes.pool.state import Shelf, Waiter
    from pytest_sandboxes.pool.stock import Stock

_NAMED = 5  # of those who have used the most, or hold something


def describe_wait(stock: Stock, shelf: Shelf, waiter: Waiter, stuck: float, cap_source: str) -> str:
    """Why somebody who has waited for so many seconds without any progress still has nothing, and what to do."""
    cap = stock.cap
    shelves = [shelf] if cap is None else stock.shelves
    used = [each for one in shelves for each in one.sandboxes.values() if not each.is_empty]
    holders = sorted({owner.holder or "somebody" for each in used for owner in each.leased.values()})
    held = f"held by {', '.join(holders)}" if holders else "held by nobody"
    most = f"{shelf.maximum} sandboxes" if cap is None else f"{cap} sandboxes of all profiles"
    error = f"; the last start failed: {shelf.setbacks.last_error}" if shelf.setbacks.last_error else ""
    remedy = "max_sandboxes" if cap is None else f"max_sandboxes or {cap_source}"
    return (
        f"{waiter.holder or 'a lease'} has waited for {waiter.count} slot(s) of profile {shelf.profile.name!r} on "
        f"backend {shelf.backend.name} while nothing progressed for {stuck:.0f} s: {len(used)} of at most {most} "
        f"leased ({held}), {sum(each.starting for each in shelves)} starting{error}; raise {remedy}, or "
        "acquire_timeout_s"
    )


def describe_budget(budget: Budget, shelves: Collection[Shelf], now: float) -> str:
    """That nothing is left of a budget, who has used how much of it, and what to do."""
    used: dict[str, float] = {}
    for shelf in shelves:
        who = f"profile {shelf.profile.name!r} on {shelf.backend.name}"
        used[who] = used.get(who, 0.0) + shelf.meter.total(now)
    most = sorted(used, key=lambda who: -used[who])[:_NAMED]
    by_whom = ", ".join(f"{used[who]:.1f} by {who}" for who in most)
    others = f" and {len(used) - _NAMED} more" if len(used) > _NAMED else ""
    return (
        f"the budget of {budget.seconds:g} sandbox-seconds ({budget.source}) is used up, and nothing is leased any "
        f"more: {sum(used.values()):.1f} were used, {by_whom}{others}; raise it, or have fewer sandboxes kept warm "
        "(buffer_sandboxes, min_sandboxes)"
    )

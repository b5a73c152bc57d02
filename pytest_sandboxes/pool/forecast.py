"""How many sandboxes of one recipe are wanted: by those who wait, ahead of those who are still to come, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.pool.state import Occupancy, Shelf, Waiter


class Forecast:
    """What of a shelf is there or on its way, and not yet spoken for; asked for one wish after the other."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._slots_each = shelf.slots_each
        self._slots = shelf.free + shelf.coming + shelf.starting * shelf.slots_each
        self._whole = len(shelf.idle) + shelf.starting
        self._usable = shelf.usable + shelf.starting
        self.may_start = shelf.maximum - shelf.total
        """Sandboxes for which there is room on the shelf."""

    @property
    def is_short(self) -> bool:
        """Whether a sandbox may be started and is wanted by any of those who wait; asked before the first claim."""
        waiting = self._shelf.waiting
        return self.may_start > 0 and (waiting.slots > self._slots or waiting.alone > 0)

    def claim(self, waiter: Waiter) -> int:
        """Set aside what a wish needs; return how many sandboxes are to be started for it, as far as the shelf allows.

        What is coming in pieces may not be as whole as it looks. That shows, at the latest, when all has come.
        """
        if waiter.alone:
            wanted = self._shelf.sandboxes_for(waiter)
            missing = max(0, wanted - self._whole)
            self._whole = max(0, self._whole - wanted)
            self._slots -= wanted * self._slots_each
            return self._add(missing)
        return self._claim_slots(waiter.count)

    def first_short(self, waiters: Iterator[Waiter]) -> Waiter | None:
        """The first of these for whom there is not enough; those before it have what they need set aside."""
        for waiter in waiters:  # maybe thousands, so with as little as possible for each
            if waiter.alone or waiter.count > self._slots:
                return waiter
            self._slots -= waiter.count
        return None

    def claim_all(self) -> int:
        """As `claim`, for all who wait together; none of them wishes to be alone."""
        return self._claim_slots(self._shelf.waiting.slots)

    def _claim_slots(self, count: int) -> int:
        self._slots -= count
        started = self._add(-(min(0, self._slots) // self._slots_each))
        self._whole = min(self._whole, max(0, self._slots) // self._slots_each)
        return started

    def _add(self, sandboxes: int) -> int:
        sandboxes = min(sandboxes, self.may_start)
        self.may_start -= sandboxes
        self._slots += sandboxes * self._slots_each
        self._usable += sandboxes
        return sandboxes

    def warm_up(self) -> bool:
        """Whether to start one more ahead of need, which is then counted on."""
        if self._shelf.discouraged or not self.lacks():
            return False
        added = self._add(1)
        self._whole += added
        return added > 0

    def lacks(self) -> bool:
        """Whether one more sandbox is wanted than those who wait have been promised."""
        shelf = self._shelf
        if self._usable < shelf.profile.min_sandboxes:
            return True
        if shelf.dormant:
            return False
        if self._slots < min(shelf.profile.buffer_sandboxes * self._slots_each, shelf.expected):
            return True
        return shelf.target < self._slots_each and self._is_near_full()

    def _is_near_full(self) -> bool:
        """Whether sandboxes have as many leases as they should have, on average, and there will be more."""
        shelf = self._shelf
        used = shelf.load + shelf.waiting.slots
        if shelf.foreseen and self._whole * shelf.target >= shelf.expected:
            return False
        return used > 0 and used >= shelf.target * self._usable

    def leaves(self) -> None:
        """Count on one idle sandbox less."""
        self._slots -= self._slots_each
        self._usable -= 1
        self._whole -= 1


def worn_out(shelf: Shelf, now: float) -> list[Occupancy]:
    """The sandboxes that have become as old as they may be.

    Those that are idle while somebody waits are not among them: whoever waits for several would never have them all.
    """
    lifetime = shelf.profile.max_lifetime
    if lifetime is None:
        return []
    found = []
    for each in shelf.sandboxes.values():  # the oldest first
        if each.born + lifetime > now:
            shelf.agenda.note(shelf, each.born + lifetime)
            break
        if shelf.waiting and each.is_empty:
            shelf.needed_after_all = True
        elif not each.is_leaving:
            found.append(each)
    return found


def not_needed(shelf: Shelf, now: float) -> Occupancy | None:
    """A sandbox that has been idle for so long that it is to end; None when there is none, by now."""
    if not shelf.idle:
        return None
    longest = next(iter(shelf.idle))
    profile = shelf.profile
    for patience in (profile.idle_timeout, profile.scaledown_window):
        if patience is not None and longest.idle_since + patience > now:
            shelf.agenda.note(shelf, longest.idle_since + patience)
    if shelf.waiting:  # for more than there is so far
        shelf.needed_after_all = True
    elif (
        _is_over(profile.idle_timeout, longest, now) and shelf.usable + shelf.starting > profile.min_sandboxes
    ):
        shelf.dormant = True
        return longest
    elif _is_over(profile.scaledown_window, longest, now):
        if _could_do_without(shelf):
            return longest
        shelf.needed_after_all = True
    return None


def _is_over(patience: float | None, idle: Occupancy, now: float) -> bool:
    return patience is not None and idle.idle_since + patience <= now


def _could_do_without(shelf: Shelf) -> bool:
    """Whether the end of an idle sandbox would leave nothing wanting."""
    without = Forecast(shelf)
    without.leaves()
    return not without.lacks()

"""Which lease waits for itself: decided from the shelves only, and changes nothing.

A lease that has one of its slots exchanged keeps its others meanwhile, and nobody gives anything back while waiting.
So a wish for an exchange is in vain when it could not be granted even after all leases that do not wait had been given
back, and after them, one by one, those whose own exchanges could be granted by then.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.pool.state import Occupancy, Shelf, Waiter


def exchanges(shelf: Shelf) -> list[Waiter]:
    """The wishes for an exchange that wait: the first of the queue, in their order."""
    return list(itertools.takewhile(lambda each: each.is_exchange, shelf.waiting))


def owners(occupancy: Occupancy) -> Iterable[Waiter]:
    """Whose slots are in a sandbox, or go back to them after a reset."""
    yield from occupancy.leased.values()
    yield from (heir.lease_of for heir in occupancy.resetting.values() if heir is not None)


def in_vain(shelves: Collection[Shelf], cap: int | None) -> tuple[Shelf, Waiter] | None:
    """The latest wish for an exchange that holds up itself, or others in vain with it; None when all may be granted.

    A slot that is granted on the way counts as given back, even if its lease has another wish that waits: when it has
    come to that, this is to be asked again. A lease of which one slot is exchanged several times at once may have got
    more than its own by now: that comes back by itself.
    """
    queues = {
        shelf: exchanges(shelf) for shelf in shelves if shelf.waiting and shelf.waiting.first.is_exchange
    }
    if not queues:
        return None
    has = Counter(owner for shelf in shelves for each in shelf.sandboxes.values() for owner in owners(each))
    while True:
        stuck = {waiter.lease_of for queue in queues.values() for waiter in queue}
        stuck = {lease for lease in stuck if has[lease] <= lease.count}
        if not stuck:
            return None
        held = {
            shelf: [each for each in shelf.sandboxes.values() if not stuck.isdisjoint(owners(each))]
            for shelf in shelves
        }
        has_room = cap is None or sum(map(len, held.values())) < cap
        granted = False
        for shelf, queue in queues.items():
            if queue and (
                (has_room and len(held[shelf]) < shelf.maximum)
                or any(_has_place(each, queue[0], stuck) for each in held[shelf])
            ):
                del queue[0]
                granted = True
        if not granted:
            break
    holding = stuck & {owner for each in itertools.chain(*held.values()) for owner in owners(each)}
    return max(
        ((shelf, each) for shelf, queue in queues.items() for each in queue if each.lease_of in holding),
        key=lambda one: one[1].turn,
    )


def _has_place(occupancy: Occupancy, waiter: Waiter, stuck: Collection[Waiter]) -> bool:
    """Whether a sandbox that some of those who are stuck are in has a slot for a wish, or will have one."""
    if waiter.alone or occupancy.alone or occupancy.is_leaving:
        return False
    return len(occupancy.free) > 0 or (
        occupancy.sandbox.can_reset
        and (
            any(owner not in stuck for owner in occupancy.leased.values())
            or any(heir is None or heir.lease_of not in stuck for heir in occupancy.resetting.values())
        )
    )

"""Which sandboxes a pool lets wait for the next run when it ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_sandboxes.errors import SandboxLostError
from tests.unit.fake_pool import FakePool, profile, sandboxes_of
from tests.waiting import DEADLINE, wait_until


def fill(fake: FakePool, count: int, **fields: int) -> list[Any]:
    """Leases with a sandbox for each, which can be reset."""
    recipe = profile(slots_per_sandbox=2, max_sandboxes=8, **fields)
    return [fake.pool.lease("fake", recipe, slots=2) for _ in range(count)]


@pytest.mark.parametrize(
    ("fields", "parked"),
    [
        ({"buffer_sandboxes": 2}, 2),
        ({"min_sandboxes": 3, "buffer_sandboxes": 1}, 3),
        ({"buffer_sandboxes": 0}, 0),
    ],
)
def test_as_many_as_would_be_idle(fake: FakePool, fields: dict[str, int], parked: int) -> None:
    for lease in fill(fake, 4, **fields):
        lease.release()
    fake.pool.close(park=True)
    assert sum(each.parked for each in fake.sandboxes) == fake.pool.statistics().parked == parked
    assert all(each.parked + each.closed == 1 for each in fake.sandboxes)
    assert fake.backend.closed == 1


def test_none_unless_asked(fake: FakePool) -> None:
    (lease,) = fill(fake, 1, buffer_sandboxes=2)
    lease.release()
    fake.pool.close()
    assert not any(each.parked for each in fake.sandboxes)


def test_a_reset_that_is_under_way_is_waited_for(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    (lease,) = fill(fake, 1, buffer_sandboxes=1)
    (sandbox,) = set(sandboxes_of(lease))
    go = threading.Event()
    sandbox.slots[0].on_reset = lambda: go.wait(DEADLINE)
    lease.release()
    wait_until(lambda: sandbox.slots[0].resets == 1)
    closing = threads.submit(lambda: fake.pool.close(park=True))
    wait_until(lambda: fake.pool._closed)
    before = sandbox.parked
    go.set()
    closing.result(DEADLINE)
    assert (before, sandbox.parked) == (0, 1)


def test_never_one_that_is_not_proven_to_be_clean(fake: FakePool) -> None:
    def fail() -> None:
        raise SandboxLostError("something is left")

    (lease,) = fill(fake, 1, buffer_sandboxes=1)
    (sandbox,) = set(sandboxes_of(lease))
    sandbox.slots[1].on_reset = fail
    lease.release()
    fake.pool.close(park=True)
    assert (sandbox.parked, sandbox.closed) == (0, 1)


def test_never_one_that_is_still_leased_or_cannot_be_reset(fake: FakePool) -> None:
    fill(fake, 1, buffer_sandboxes=1)
    fake.lease(buffer_sandboxes=1).release()  # replaced after a lease
    fake.pool.close(park=True)
    assert not any(each.parked for each in fake.sandboxes)
    assert fake.open == []


def test_one_that_cannot_be_parked_is_closed_and_said(fake: FakePool) -> None:
    def fail() -> None:
        raise SandboxLostError("no engine")

    (lease,) = fill(fake, 1, buffer_sandboxes=1)
    (sandbox,) = set(sandboxes_of(lease))
    sandbox.on_park = fail
    lease.release()
    fake.pool.close(park=True)
    assert (sandbox.closed, fake.pool.statistics().parked) == (1, 0)
    assert fake.pool.not_parked == ["no engine"]


def test_each_is_tied_once_it_can_be_used(fake: FakePool) -> None:
    fill(fake, 2, buffer_sandboxes=0)
    wait_until(lambda: all(each.ties == 1 for each in fake.sandboxes))

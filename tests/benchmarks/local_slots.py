"""Pools and slots of backend local, for everything that is measured on them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot

BACKEND = "local"
MANY = 1_000_000
"""More leases than a benchmark takes: the pool keeps its buffer warm for as many as are expected."""


@contextmanager
def backend() -> Iterator[Backend]:
    """The backend as pytest would make it."""
    made = registry.make(BACKEND, BackendOptions(), {})
    try:
        yield made
    finally:
        made.close()


@contextmanager
def warm_pool(buffer: int) -> Iterator[tuple[Pool, Profile]]:
    """A pool that keeps `buffer` sandboxes ready, and the profile to lease them with."""
    profile = Profile().override({"buffer_sandboxes": buffer}, "benchmarks")
    pool = Pool({BACKEND: registry.make(BACKEND, BackendOptions(), {})})
    try:
        pool.expect(BACKEND, profile, MANY)
        wait_until_warm(pool, buffer)
        yield pool, profile
    finally:
        pool.close()


def wait_until_warm(pool: Pool, buffer: int) -> None:
    """Return once `buffer` sandboxes wait for a lease and no other one is being started."""
    while True:
        now = pool.statistics()
        if now.idle >= buffer and not now.starting:
            return
        time.sleep(0.001)


@contextmanager
def slots(count: int) -> Iterator[list[Slot]]:
    """So many slots, of one lease each, on a pool that does nothing else."""
    profile = Profile().override({"buffer_sandboxes": 0, "max_sandboxes": count}, "benchmarks")
    pool = Pool({BACKEND: registry.make(BACKEND, BackendOptions(), {})})
    try:
        yield [Slot(pool.lease(BACKEND, profile)) for _ in range(count)]
    finally:
        pool.close()

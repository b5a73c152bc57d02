"""One run of pytest: its settings, its profiles, its pool, and who has leased what."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_sandboxes.errors import ConfigurationError, InfrastructureError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.markers import (
    Requirement,
    Requirements,
    for_another_lease,
    read_marker,
    read_markers,
)
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.catalog import Profiles
from pytest_sandboxes.reporting.attempts import Attempt
from pytest_sandboxes.settings.settings import Settings
from pytest_sandboxes.slot import Slot
from pytest_sandboxes.supply import Supply, Wish

if TYPE_CHECKING:
    from pytest_sandboxes.sharing.shared_pool import SharedPool, SharedSupply

__tracebackhide__ = True  # a failing test shows its own line, not ours

FIXTURES = frozenset({"sandbox", "sandbox_factory", "sandbox_pool"})
"""Asking for one of these makes a test a sandbox test."""


def is_sandbox_test(item: pytest.Item) -> bool:
    """Whether a test asks for sandboxes."""
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


class Run:
    """What the fixtures and hooks of one session share. Starts nothing before `prepare` or a lease."""

    def __init__(
        self, config: pytest.Config, settings: Settings, profiles: Profiles, supply: Supply | SharedSupply
    ) -> None:
        profiles.activate(settings.profile, settings.source("profile"))
        self.settings = settings
        self._hook = config.hook
        self.supply = supply
        self.profiles = profiles
        self._requirements = Requirements(profiles, settings)
        self.pool: Pool | SharedPool = supply.pool
        self.attempt = Attempt("")
        """What is leased, used and lost goes on the record of this attempt at a test."""
        self.calling: pytest.Item | None = None
        """The test whose own function is running, no fixture of it."""

    # -- before the first test

    def requirement(self, item: pytest.Item) -> Requirement:
        """What a test needs. Raises `ConfigurationError` when its markers are wrong."""
        return self._requirements.of_test(item.iter_markers("sandbox"), lambda mark: _origin(mark, item))

    def prepare(self, items: Iterable[pytest.Item]) -> None:
        """Check all that tests ask for, and have the first sandboxes started.

        Raises `ConfigurationError` for the first thing that is wrong: nothing has been started then.
        """
        wanted: dict[tuple[str, str], Wish] = {}
        tests = {}
        for item in items:
            requirement = self.requirement(item)
            if not is_sandbox_test(item):
                continue
            backend = backend_of(item) or self.settings.backends[0]
            leases = requirement.slots if "sandbox" in item.fixturenames else 0  # type: ignore[attr-defined]
            wish = Wish(backend, requirement.profile, leases, requirement.slots, item.nodeid)
            before = wanted.get(wish.key)
            if before is not None:
                most = wish if wish.at_once > before.at_once else before
                wish = replace(most, profile=before.profile, leases=before.leases + leases)
            wanted[wish.key] = wish
            tests[item.nodeid] = requirement.retry_safe is not False
        self.supply.prepare(list(wanted.values()), tests)

    # -- leases

    def lease(self, backend: str, requirement: Requirement, holder: str) -> Lease:
        """Lease slots, until `release`. Losses and failures are on record whatever a test makes of them."""
        try:
            lease = self.pool.lease(
                backend,
                requirement.profile,
                slots=requirement.slots,
                holder=holder,
                alone=self.attempt.alone,
            )
        except InfrastructureError as error:
            self.attempt.failures.append(error)
            raise
        self.attempt.made(lease)
        lease.on_use = lambda: self.attempt.uses(lease)
        try:
            self._hook.pytest_sandboxes_leased(lease=lease)
        except BaseException:
            lease.release()
            raise
        return lease

    def release(self, lease: Lease) -> None:
        """Give the slots of a lease back."""
        try:
            self._hook.pytest_sandboxes_released(lease=lease)
        finally:
            lease.release()

    def factory(self, backend: str, arguments: Mapping[str, object]) -> LeasedForBlock:
        """What a call of `sandbox_factory` returns. Raises `ConfigurationError` when its arguments are wrong."""
        holder = self.attempt.test or "the session"
        try:
            wish = read_marker(arguments, (), f"sandbox_factory in {holder}")
            item = self.calling
            if item is not None:
                marked = read_markers(item.iter_markers("sandbox"), lambda mark: _origin(mark, item))
                wish = for_another_lease(marked, wish)
            requirement = self._requirements.resolve(wish)
            self.supply.check(backend, requirement.profile)
        except ConfigurationError as error:
            raise error.with_traceback(
                None
            ) from None  # how it was found is of no use to who made the mistake
        return LeasedForBlock(self, backend, requirement, holder)

    def close(self, *, in_order: bool = False) -> None:
        """End everything. May be called twice. `in_order`: the run has come to its end, and was not broken off."""
        self.supply.close(in_order=in_order)


_NEEDS_WITH = "sandbox_factory leases for a block, so write `with sandbox_factory(...) as slot:`"


class LeasedForBlock:
    """Slots for the length of a `with` block, which is when they are waited for.

    No generator, because its machinery would show in the traceback of each test that gets none.
    """

    def __init__(self, run: Run, backend: str, requirement: Requirement, holder: str) -> None:
        self._run = run
        self._wish = backend, requirement, holder
        self._leases: list[Lease] = []

    def __enter__(self) -> Slot | tuple[Slot, ...]:
        lease = self._run.lease(*self._wish)
        self._leases.append(lease)
        return slots_of(lease)

    def __exit__(self, *_: object) -> None:
        self._run.release(self._leases.pop())

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"no {name!r} before the lease: {_NEEDS_WITH}", name=name, obj=self)

    def __iter__(self) -> NoReturn:
        raise TypeError(f"no slots before the lease: {_NEEDS_WITH}")


def _origin(mark: pytest.Mark, item: pytest.Item) -> str:
    """Where a `sandbox` mark of `item` comes from, in words for messages."""
    tasks = sys.modules.get("pytest_sandboxes.tasks")  # else nobody has loaded any
    of_task = None if tasks is None else tasks.source_of(mark, item)
    return of_task or f"marker on {item.nodeid}"


def backend_of(item: pytest.Item) -> str | None:
    """The backend that a test is parametrized with, when there are several."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("sandbox_backend")


def slots_of(lease: Lease) -> Slot | tuple[Slot, ...]:
    """The slot of a lease, or a tuple when it holds several."""
    slots = tuple(Slot(lease, index) for index in range(lease.count))
    return slots[0] if len(slots) == 1 else slots

"""One run of pytest: its settings, its profiles, its pool, and who has leased what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.errors import InfrastructureError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.markers import Requirement, Requirements, read_marker
from pytest_sandboxes.pool import Pool
from pytest_sandboxes.profiles import Profile, Profiles
from pytest_sandboxes.settings import Settings
from pytest_sandboxes.slot import Slot

FIXTURES = frozenset({"sandbox", "sandbox_factory", "sandbox_pool"})
"""Asking for one of these makes a test a sandbox test."""

KEEP_SECONDS = 3600.0
"""How long the slot of a failed test lives on with `--sandbox-keep-failed`."""
KEEP_AT_MOST = 20
"""Slots kept, of all failed tests of a run."""


class Run:
    """What the fixtures and hooks of one session share. Starts nothing before `prepare` or a lease."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.settings = settings
        self._hook = config.hook
        custom: dict[str, registry.Factory] = {}
        for found in config.hook.pytest_sandboxes_backends(config=config):
            custom.update(found)
        registry.check_names(settings.backends, custom, settings.source("backends"))
        self.profiles = Profiles.load(settings.profiles_file, source=settings.source("profiles_file"))
        self.profiles.get(settings.profile, settings.source("profile"))
        self._requirements = Requirements(self.profiles, settings)
        options = BackendOptions(
            isolation=settings.isolation,
            best_effort=settings.enforcement == "best-effort",
            survives=settings.keep_failed,
        )
        self.backends: dict[str, Backend] = {
            name: registry.make(name, options, custom) for name in settings.backends
        }
        self.pool = Pool(self.backends, start_attempts=1 + settings.infra_retries)
        self.touched: dict[Lease, None] = {}
        """Leases that were made or used since the current attempt at a test began."""
        self.made: dict[Lease, None] = {}
        """Those of them that were made."""
        self.failures: list[InfrastructureError] = []
        """Leases that could not be had since then."""
        self.notes: list[str] = []
        self.kept: list[str] = []

    # -- before the first test

    def requirement(self, item: pytest.Item) -> Requirement:
        """What a test needs. Raises `ConfigurationError` when its markers are wrong."""
        return self._requirements.of_test(item.iter_markers("sandbox"), f"marker on {item.nodeid}")

    def prepare(self, items: Iterable[pytest.Item]) -> None:
        """Check all that tests ask for, and have the first sandboxes started.

        Raises `ConfigurationError` for the first thing that is wrong: nothing has been started then.
        """
        wanted: dict[tuple[str, str], tuple[Profile, int]] = {}
        for item in items:
            requirement = self.requirement(item)
            if FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
                continue
            backend = backend_of(item) or self.settings.backends[0]
            key = (backend, requirement.profile.digest)
            if key not in wanted:
                unused = self.backends[backend].check(requirement.profile)
                if unused:
                    self.notes.append(
                        f"profile {requirement.profile.name}: {', '.join(unused)} not used by backend {backend}"
                    )
            leases = requirement.slots if "sandbox" in item.fixturenames else 0  # type: ignore[attr-defined]
            wanted[key] = (requirement.profile, leases + wanted.get(key, (None, 0))[1])
        for backend in dict.fromkeys(backend for backend, _ in wanted):
            self.backends[backend].check_machine()
        for (backend, _), (profile, leases) in wanted.items():
            self.pool.expect(backend, profile, leases)

    # -- leases

    def begin_attempt(self) -> None:
        """From here on, what is leased, used and lost belongs to a new attempt at a test."""
        self.touched.clear()
        self.made.clear()
        self.failures.clear()

    @contextmanager
    def lease(self, backend: str, requirement: Requirement, holder: str) -> Iterator[Lease]:
        """Lease slots for the block; losses and failures are on record whatever the block makes of them."""
        try:
            lease = self.pool.lease(backend, requirement.profile, slots=requirement.slots, holder=holder)
        except InfrastructureError as error:
            self.failures.append(error)
            raise
        self.touched[lease] = self.made[lease] = None
        lease.on_use = lambda: self.touched.setdefault(lease)
        self._hook.pytest_sandboxes_leased(lease=lease)
        try:
            yield lease
        finally:
            self._hook.pytest_sandboxes_released(lease=lease)
            lease.release()

    @contextmanager
    def factory(
        self, backend: str, holder: str, arguments: Mapping[str, object]
    ) -> Iterator[Slot | tuple[Slot, ...]]:
        """What a call of `sandbox_factory` opens."""
        requirement = self._requirements.resolve(read_marker(arguments, (), f"sandbox_factory in {holder}"))
        self.backends[backend].check(requirement.profile)
        with self.lease(backend, requirement, holder) as lease:
            yield slots_of(lease)

    def keep(self, lease: Lease, nodeid: str) -> None:
        """Let the sandboxes of a failed test live on for a while, and say how to enter and to end them."""
        if len(self.kept) >= KEEP_AT_MOST:
            return
        try:
            commands = self.pool.keep(lease, KEEP_SECONDS)
        except (InfrastructureError, NotImplementedError) as error:
            self.kept.append(f"{nodeid}: not kept: {error}")
            return
        for enter, end in commands:
            self.kept.append(f"{nodeid}\n  enter: {enter}\n  end:   {end}")

    def close(self) -> None:
        """End everything. May be called twice."""
        self.pool.close()


def backend_of(item: pytest.Item) -> str | None:
    """The backend that a test is parametrized with, when there are several."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("sandbox_backend")


def slots_of(lease: Lease) -> Slot | tuple[Slot, ...]:
    """The slot of a lease, or a tuple when it holds several."""
    slots = tuple(Slot(lease, index) for index in range(lease.count))
    return slots[0] if len(slots) == 1 else slots

"""One run of pytest: its settings, its profiles, its pool, and who has leased what."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import pytest

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.errors import ConfigurationError, InfrastructureError, SandboxesError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.markers import (
    Requirement,
    Requirements,
    for_another_lease,
    read_marker,
    read_markers,
)
from pytest_sandboxes.pool import Pool, check_slots
from pytest_sandboxes.profiles import Profile, Profiles
from pytest_sandboxes.reporting.attempts import Attempt
from pytest_sandboxes.settings import Settings
from pytest_sandboxes.slot import Slot

__tracebackhide__ = True  # a failing test shows its own line, not ours

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
        hook = config.hook.pytest_sandboxes_backends
        implementers = ", ".join(each.plugin_name for each in hook.get_hookimpls())
        for found in hook(config=config):
            custom.update(registry.check_custom(found, f"hook pytest_sandboxes_backends ({implementers})"))
        registry.check_names(settings.backends, custom, settings.source("backends"))
        self.profiles = Profiles.load(settings.profiles_file, source=settings.source("profiles_file"))
        self.profiles.get(settings.profile, settings.source("profile"))
        self._requirements = Requirements(self.profiles, settings)
        options = BackendOptions(
            isolation=settings.isolation,
            best_effort=settings.enforcement == "best-effort",
        )
        self.backends: dict[str, Backend] = {
            name: registry.make(name, options, custom) for name in settings.backends
        }
        self.pool = Pool(self.backends, start_attempts=1 + settings.infra_retries)
        self.attempt = Attempt("")
        """What is leased, used and lost goes on the record of this attempt at a test."""
        self.calling: pytest.Item | None = None
        """The test whose own function is running, no fixture of it."""
        self.notes: list[str] = []
        """What is still to be said of profiles; whoever says it takes it out."""
        self._noted: set[str] = set()
        self.kept: dict[str, list[str]] = {}
        """What the summary says of each failed test whose slots were to be kept."""
        self._ends: dict[str, list[str]] = {}

    # -- before the first test

    def requirement(self, item: pytest.Item) -> Requirement:
        """What a test needs. Raises `ConfigurationError` when its markers are wrong."""
        return self._requirements.of_test(item.iter_markers("sandbox"), lambda mark: _origin(mark, item))

    def prepare(self, items: Iterable[pytest.Item]) -> None:
        """Check all that tests ask for, and have the first sandboxes started.

        Raises `ConfigurationError` for the first thing that is wrong: nothing has been started then.
        """
        wanted: dict[tuple[str, str], tuple[Profile, int]] = {}
        for item in items:
            requirement = self.requirement(item)
            if FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
                continue
            check_slots(requirement.profile, requirement.slots, item.nodeid)
            backend = backend_of(item) or self.settings.backends[0]
            key = (backend, requirement.profile.digest)
            if key not in wanted:
                self._check(backend, requirement.profile)
            leases = requirement.slots if "sandbox" in item.fixturenames else 0  # type: ignore[attr-defined]
            wanted[key] = (requirement.profile, leases + wanted.get(key, (None, 0))[1])
        for (backend, _), (profile, _) in wanted.items():
            self.backends[backend].check_machine(profile)
        for (backend, _), (profile, leases) in wanted.items():
            self.pool.expect(backend, profile, leases)

    def _check(self, backend: str, profile: Profile) -> None:
        """Check a profile, and note, each once, what a backend makes less of it than it says."""
        checked = self.backends[backend].check(profile)
        notes = []
        if checked.unused:
            notes.append(f"{', '.join(checked.unused)} not used by backend {backend}")
        if checked.dropped:
            notes.append(
                f"{', '.join(checked.dropped)} dropped, which backend {backend} cannot keep "
                f"({self.settings.source('enforcement')} {self.settings.enforcement})"
            )
        if not checked.isolated and self.settings.isolation is None:  # else the header has it
            notes.append(
                f"isolation none ({profile.source('isolation')}): its code runs as you, not isolated"
            )
        lines = [f"profile {profile.name}: {note}" for note in notes]
        self.notes += [line for line in lines if line not in self._noted]
        self._noted.update(lines)

    # -- leases

    def lease(self, backend: str, requirement: Requirement, holder: str) -> Lease:
        """Lease slots, until `release`. Losses and failures are on record whatever a test makes of them."""
        try:
            lease = self.pool.lease(backend, requirement.profile, slots=requirement.slots, holder=holder)
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
            self._check(backend, requirement.profile)
        except ConfigurationError as error:
            raise error.with_traceback(
                None
            ) from None  # how it was found is of no use to who made the mistake
        return LeasedForBlock(self, backend, requirement, holder)

    def keep(self, lease: Lease, nodeid: str) -> None:
        """Let the sandboxes of a failed test live on for a while, and say how to enter and to end them."""
        if len(self.kept) >= KEEP_AT_MOST or lease.losses:
            return
        try:
            commands = self.pool.keep(lease, KEEP_SECONDS)
        except (SandboxesError, TimeoutError, NotImplementedError) as error:
            self.kept[nodeid] = [f"{nodeid}: not kept: {error}"]
            return
        self.kept[nodeid] = [f"{nodeid}\n  enter: {enter}\n  end:   {end}" for enter, end in commands]
        self._ends[nodeid] = [end for _, end in commands]

    def end_kept(self, nodeid: str) -> None:
        """End what was kept of a test that turns out to be run once more."""
        self.kept.pop(nodeid, None)
        for command in self._ends.pop(nodeid, ()):
            subprocess.run(shlex.split(command), check=False, capture_output=True)

    def account(self) -> dict[str, Any]:
        """What the summary of the run is made of, as plain data: workers of pytest-xdist send it."""
        return {
            "statistics": asdict(self.pool.statistics()),
            "kept": [text for texts in self.kept.values() for text in texts],
            "notes": self.notes,  # those that the terminal has not shown
        }

    def close(self) -> None:
        """End everything. May be called twice."""
        self.pool.close()


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

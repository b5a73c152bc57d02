"""Where sandboxes come from: the backends of a run and its one pool, in the process that owns them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.keeping import Keeper
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool.meter import Budget
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.catalog import Profiles
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.reporting.progress import TerminalProgress
from pytest_sandboxes.secret_values import Secrets
from pytest_sandboxes.settings.settings import Settings
from pytest_sandboxes.wording import shown

__tracebackhide__ = True  # a failing test shows its own line, not ours


@dataclass(frozen=True)
class Wish:
    """So many slots of a profile are to be leased."""

    backend: str
    profile: Profile
    leases: int
    at_once: int = 1
    """The most that one lease takes."""
    holder: str = ""
    """Whose lease that is."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from wishes for other sandboxes."""
        return self.backend, self.profile.digest


def make_secrets(settings: Settings) -> Secrets:
    """The secrets of a run. Raises `ConfigurationError` for a file that is wrong, or open to others."""
    if settings.secrets_file is None:
        return Secrets()
    return Secrets.from_file(settings.secrets_file, settings.source("secrets_file"))


def check_backend_name(config: pytest.Config, name: str, source: str) -> None:
    """Raise `ConfigurationError` for a name, given at `source`, that is none of a backend."""
    registry.check_names((name,), _custom_backends(config), source)


def _custom_backends(config: pytest.Config) -> dict[str, registry.Factory]:
    """Backends of whoever implements the hook."""
    custom: dict[str, registry.Factory] = {}
    hook = config.hook.pytest_sandboxes_backends
    implementers = ", ".join(each.plugin_name for each in hook.get_hookimpls())
    for found in hook(config=config):
        custom.update(registry.check_custom(found, f"hook pytest_sandboxes_backends ({implementers})"))
    return custom


def make_backends(config: pytest.Config, settings: Settings, secrets: Secrets) -> dict[str, Backend]:
    """The backends that `settings` name, of ours and of whoever implements the hook.

    Raises `ConfigurationError` for a name that is none, and for a backend that cannot be made.
    """
    custom = _custom_backends(config)
    registry.check_names(settings.backends, custom, settings.source("backends"))
    options = BackendOptions(
        isolation=settings.isolation,
        best_effort=settings.enforcement == "best-effort",
        directory=config.rootpath if settings.profiles_file is None else settings.profiles_file.parent,
        root=config.rootpath,
        secrets=secrets,
        park_seconds=settings.keep,
        progress=TerminalProgress(config),
    )
    return {name: registry.make(name, options, custom) for name in settings.backends}


class Supply:
    """Backends and their pool. Starts nothing before `prepare` or a lease."""

    def __init__(
        self, backends: Mapping[str, Backend], settings: Settings, profiles: Profiles, root: Path
    ) -> None:
        """`root`: the directory of the project, which relative paths in profiles must not leave."""
        self._settings = settings
        self._root = root
        self.backends = backends
        self.pool = Pool(
            self.backends,
            start_attempts=1 + settings.infra_retries,
            max_sandboxes=settings.max_sandboxes,
            max_sandboxes_source=settings.source("max_sandboxes"),
            budget=None if settings.budget is None else Budget(settings.budget, settings.source("budget")),
            profiles=profiles,
        )
        self._keeper = Keeper(self.pool)
        self._lock = threading.Lock()  # of the notes
        self._notes: dict[str, None] = {}
        self._notes_taken: set[str] = set()

    def prepare(self, wishes: Sequence[Wish], tests: Mapping[str, bool]) -> None:  # noqa: ARG002 - its twin needs them
        """Check all that tests ask for, and have the first sandboxes started.

        `tests` has the node ids of those that need sandboxes, and whether each may be repeated.

        Raises `ConfigurationError` for the first thing that is wrong: nothing has been started then.
        """
        for wish in wishes:
            self.check(wish.backend, wish.profile)
            self.pool.check(wish.backend, wish.profile, wish.at_once, wish.holder)
        for wish in wishes:
            backend = self.backends[wish.backend]
            backend.check_machine(wish.profile)
            self._note(wish.profile, backend.notes(wish.profile))
            why_not = backend.why_not_parked(wish.profile) if self._settings.keep is not None else ""
            if why_not:
                note = f"its sandboxes are not kept for the next run ({self._settings.source('keep')}): {why_not}"
                self._note(wish.profile, [note])
        for wish in wishes:
            self.pool.expect(wish.backend, wish.profile, wish.leases)

    def check(self, backend: str, profile: Profile) -> None:
        """Note what a backend makes less of a profile than it says.

        Raises `ConfigurationError` when it cannot give what the profile asks for.
        """
        checked = self.backends[backend].check(profile)
        if "workspace_source" not in checked.dropped:
            self._check_workspace_source(profile)
        notes = []
        if checked.unused:
            notes.append(f"{', '.join(checked.unused)} not used by backend {backend}")
        if checked.dropped:
            notes.append(
                f"{', '.join(checked.dropped)} dropped, which backend {backend} cannot keep "
                f"({self._settings.source('enforcement')} {self._settings.enforcement})"
            )
        if not checked.isolated and self._settings.isolation is None:  # else the header has it
            notes.append(
                f"isolation none ({profile.source('isolation')}): its code runs as you, not isolated"
            )
        self._note(profile, notes)

    def _note(self, profile: Profile, notes: Iterable[str]) -> None:
        with self._lock:
            lines = [f"profile {profile.name}: {note}" for note in notes]
            self._notes.update(dict.fromkeys(line for line in lines if line not in self._notes_taken))

    def _check_workspace_source(self, profile: Profile) -> None:
        """Raise `ConfigurationError` unless a directory of the project is one, and inside of it."""
        source = profile.workspace_source
        if source is None or source.startswith("/"):
            return
        where = f"{profile.source('workspace_source')}: workspace_source of profile {profile.name!r} is {shown(source)}"
        root = one_line(str(self._root), 300)
        try:
            directory = (self._root / source).resolve(strict=True)
        except (OSError, RuntimeError):  # not there, or a link to itself
            directory = None
        if directory is None or not directory.is_dir():
            raise ConfigurationError(
                f"{where}, but the rootdir {root} has no such directory: correct the path or make it"
            )
        if not directory.is_relative_to(self._root.resolve()):
            raise ConfigurationError(
                f"{where}, which leads out of the rootdir {root}: name a directory of the project"
            )

    def take_notes(self) -> list[str]:
        """What people should know of the profiles in use, each note once."""
        with self._lock:
            notes = list(self._notes)
            self._notes.clear()
            self._notes_taken.update(notes)
            return notes

    def keep(self, lease: Lease, nodeid: str) -> None:
        """See `Keeper.keep`."""
        self._keeper.keep(lease, nodeid)

    def end_kept(self, nodeid: str) -> None:
        """See `Keeper.end`."""
        self._keeper.end(nodeid)

    @property
    def kept(self) -> list[str]:
        """See `Keeper.kept`."""
        return self._keeper.kept

    def close(self, *, in_order: bool = False) -> None:
        """End everything. May be called twice. `in_order`: what is to be kept for the next run is."""
        self.pool.close(park=in_order and self._settings.keep is not None)
        with self._lock:
            self._notes.update((f"not kept for the next run: {why}", None) for why in self.pool.not_parked)

"""Copies of the project's directories on this machine, from which sandboxes fill their workspaces.

A copy, so that a run has one state of the project, and no file of it has an inode that a sandbox can reach.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from pytest_sandboxes.backends.base import DEFAULT_DISK_MEGABYTES, BackendOptions, Progress
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.backends.ownership import Claim, new_scratch, remove_tree, sweep_scratch
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.project_files import ProjectFiles, collect
from pytest_sandboxes.wording import shown

COPY_TIMEOUT = 600.0
"""Seconds that copies of a project may take whoever waits for them."""


@dataclass(frozen=True)
class StagedSource:
    """A directory that has been copied."""

    directory: Path
    """The copy, which everybody may read who can pass the directory above it."""
    content: tuple[int, int]
    """See `Source.content`."""
    note: str
    """What has been left out, for people; empty if nothing."""


class StagedSources:
    """The copies of a run, each made when it is needed first, and removed by `close`, or by a later run's sweep."""

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._copies: Once[str, StagedSource] = Once()
        self._lock = threading.Lock()
        self._claims: list[Claim] = []

    def get(self, profile: Profile, progress: Progress) -> StagedSource | None:
        """That of a profile, None if it has none.

        Raises `ConfigurationError` when it cannot be had, or does not fit.
        """
        source = profile.workspace_source
        if source is None or source.startswith("/"):
            return None
        found = self._copies.get(source, lambda: self._make(profile, source, progress), COPY_TIMEOUT)
        if profile.isolation != "none":
            check_fits(profile, found.content[1])
        return found

    def _make(self, profile: Profile, source: str, progress: Progress) -> StagedSource:
        files = project_files(profile, self._options)
        with progress(f"copying {one_line(source)} for workspaces"):
            sweep_scratch()
            try:
                claim = new_scratch()
                with self._lock:
                    self._claims.append(claim)
                copy = claim.path / "source"
                files.copy(copy)
            except OSError as error:
                raise ConfigurationError(
                    f"{_where(profile)}, which cannot be copied to {tempfile.gettempdir()}: {error}"
                ) from None
        return StagedSource(copy, (len(files.entries), files.size), files.note())

    def close(self) -> None:
        """Remove them all."""
        with self._lock:
            claims, self._claims = self._claims, []
        for claim in claims:
            remove_tree(claim.path)
            claim.release()


def project_files(profile: Profile, options: BackendOptions) -> ProjectFiles:
    """What a profile's `workspace_source` has, which is a directory of the project.

    Raises `ConfigurationError` when that is nothing.
    """
    return collect(
        options.root / str(profile.workspace_source),
        _where(profile),
        never=options.secrets.path and options.secrets.path.resolve(),
    )


def check_fits(profile: Profile, size: int) -> None:
    """Raise `ConfigurationError` for more bytes than a slot may hold."""
    disk = profile.disk or DEFAULT_DISK_MEGABYTES
    if size > disk << 20:
        raise ConfigurationError(
            f"{_where(profile)}, which holds {size / (1 << 20):.0f} MB, and disk is {disk} "
            f"({profile.source('disk')}): raise it"
        )


def _where(profile: Profile) -> str:
    where = profile.source("workspace_source")
    return f"{where}: workspace_source of profile {profile.name!r} is {shown(profile.workspace_source)}"

"""What workspaces are filled with in containers: a directory of the image, or one of the project, brought in a volume.

A volume is made once for a run and mounted read-only. A copy in each container's own files would cost each its time,
and one in an image would stay on the Engine's disk.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_sandboxes.backends.base import BackendOptions, Progress, Source
from pytest_sandboxes.backends.docker.engine import CALL_TIMEOUT
from pytest_sandboxes.backends.docker.removal import remove
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.backends.project_archive import archive
from pytest_sandboxes.backends.staged_sources import COPY_TIMEOUT, check_fits, project_files
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.wording import shown

if TYPE_CHECKING:
    import docker

    from pytest_sandboxes.backends.docker.engine import Engine
    from pytest_sandboxes.backends.docker.images import Image

DIRECTORY = "/.pytest-sandboxes-source"
"""Where a container has the volume: a name that neither images nor code have another use for."""

_FINDING_TIMEOUT = 4 * CALL_TIMEOUT  # a container is made, looked into twice, and removed


@dataclass(frozen=True)
class MountedSource:
    """What a container has."""

    source: Source
    volume: str = ""
    """Has to be mounted at `DIRECTORY`; empty for a directory of the image."""
    note: str = ""
    """What has been left out, for people; empty if nothing."""

    def mounts(self, labels: Mapping[str, str]) -> list[docker.types.Mount]:
        """What the Engine is told. Should the volume be gone, it makes an empty one, which fillings find out."""
        from docker.types import Mount

        if not self.volume:
            return []
        return [Mount(DIRECTORY, self.volume, read_only=True, no_copy=True, labels=dict(labels))]


class Sources:
    """The volumes of a run, made when they are needed first; the run's end removes them with all else that it has."""

    def __init__(
        self, engine: Engine, volume: str, labels: Mapping[str, str], options: BackendOptions
    ) -> None:
        self._engine = engine
        self._volume = volume
        self._labels = dict(labels)
        self._options = options
        self._numbers = itertools.count(1)
        self._made: Once[tuple[str, bool], MountedSource] = Once()
        """By path, and whether it is for slots."""
        self._found: Once[tuple[str, str], MountedSource] = Once()
        """By image's id and path there."""

    def get(self, profile: Profile, image: Image, progress: Progress) -> MountedSource | None:
        """What workspaces of a profile are filled with, None if nothing.

        Raises `ConfigurationError` when it cannot be had, or does not fit; `SandboxStartError` when the Engine fails.
        """
        path = profile.workspace_source
        is_slot = profile.isolation != "sandbox"
        if path is None:
            return None
        if path.startswith("/"):
            is_there = not is_slot and PurePosixPath(path) == PurePosixPath(image.workdir)
            if is_there:
                return None
            return self._found.get(
                (image.id, path), lambda: self._find(profile, image, path), _FINDING_TIMEOUT
            )
        found = self._made.get(
            (path, is_slot), lambda: self._make(profile, image, path, progress, private=is_slot), COPY_TIMEOUT
        )
        if is_slot and found.source.content is not None:
            check_fits(profile, found.source.content[1])
        return found

    def _make(
        self, profile: Profile, image: Image, path: str, progress: Progress, *, private: bool
    ) -> MountedSource:
        """`private`: nobody but root may look into it, as whom the agent fills workspaces of others."""
        from docker.types import Mount

        files = project_files(profile, self._options)
        api = self._engine.api()
        name = f"{self._volume}-{next(self._numbers)}"
        with (
            progress(f"copying {one_line(path)} for workspaces"),
            self._engine.errors_as_start_errors(
                f"cannot bring {one_line(str(files.top), 300)} to containers"
            ),
        ):
            api.create_volume(name, labels=self._labels)
            with self._unstarted(image, name, [Mount(DIRECTORY, name, no_copy=True)]) as made:
                api.put_archive(made, DIRECTORY, archive(files, 0o700 if private else 0o755))
        return MountedSource(Source(DIRECTORY, (len(files.entries), files.size)), name, files.note())

    def _find(self, profile: Profile, image: Image, path: str) -> MountedSource:
        """A directory of an image. Raises `ConfigurationError` when it has none of that name."""
        name = one_line(image.name)
        with (
            self._engine.errors_as_start_errors(f"cannot look into image {name}"),
            self._unstarted(image, f"{self._volume}-{next(self._numbers)}") as made,
        ):
            is_directory = _is_directory(self._engine.api(), made, path)
        if not is_directory:
            raise ConfigurationError(
                f"{profile.source('workspace_source')}: workspace_source of profile {profile.name!r} is {shown(path)}, "
                f"but image {name} has no such directory: correct the path, or name another image"
            )
        return MountedSource(Source(path))

    @contextlib.contextmanager
    def _unstarted(self, image: Image, name: str, mounts: Sequence[docker.types.Mount] = ()) -> Iterator[str]:
        """A container that is never started: the way into an image, or a volume. Raises what calls of the SDK raise."""
        api = self._engine.api()
        made = api.create_container(
            image.id,
            entrypoint=["none"],
            name=name,
            labels=self._labels,
            host_config=api.create_host_config(network_mode="none", mounts=list(mounts)),
        )["Id"]
        try:
            yield made
        finally:
            remove(api, made)


def _is_directory(api: docker.APIClient, container: str, path: str) -> bool:
    """Whether a container has a directory, or a link to one. Raises what calls of the SDK raise."""
    for end in ("/.", ""):
        # the SDK's own call has the whole content sent as well
        response = api.head(
            api._url("/containers/{0}/archive", container),  # noqa: SLF001 - see above
            params={"path": path + end},
            timeout=api.timeout,
        )
        if response.status_code == HTTPStatus.OK:
            return bool(end)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
    api._raise_for_status(response)  # noqa: SLF001
    return False

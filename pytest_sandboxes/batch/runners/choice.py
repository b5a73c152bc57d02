"""Which runner a run takes, and what is known of it before there is anything to send."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_sandboxes.backends.base import Progress
from pytest_sandboxes.batch.runners.base import Runner
from pytest_sandboxes.batch.runners.handover import Project
from pytest_sandboxes.batch.runners.local import LocalRunner
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.settings.settings import Settings


@dataclass(frozen=True)
class Choice:
    """A runner that can be made."""

    width: int
    """Shards at once."""
    backend: str | None
    """The backend inside; None is what the command line says."""
    make: Callable[[Path, Project], Runner]
    """Makes it, with the directory of the run."""


@contextmanager
def chosen(
    profile: Profile,
    settings: Settings,
    workers: int,
    tell: Callable[[str], None],
    progress: Progress,
) -> Iterator[Choice]:
    """The runner that `settings` ask for. `workers`: of pytest-xdist in each shard. `tell` has lines for people.

    Raises `ConfigurationError` for what it lacks: nothing has been made then.
    """
    if settings.runner == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        width = _capped(max(1, cores // max(1, workers)), settings)
        if settings.runner_image is None:
            yield Choice(width, None, lambda work, project: LocalRunner(work, project, width))
        else:
            with _in_containers(settings.runner_image, settings, width, progress) as choice:
                yield choice
        return
    if settings.runner_image is not None:
        raise ConfigurationError(
            f"{settings.source('runner_image')} is for shards on this machine: name the image of those of backend gcp "
            "as runner_image in the profile's section gcp"
        )
    from pytest_sandboxes.batch.runners.gcp import section as sections
    from pytest_sandboxes.batch.runners.gcp.project import check_roles
    from pytest_sandboxes.batch.runners.gcp.runner import GcpRunner
    from pytest_sandboxes.batch.runners.gcp.service import Service

    section = sections.read(profile)
    wide = _capped(section.machines * section.tasks_per_machine, settings)
    with closing(Service(section)) as service:
        service.check()
        check_roles(service)
        tell(
            f"runner gcp: project {service.project}, {section.region}, bucket {section.bucket}, at most "
            f"{section.machines} {section.machine_type}{' (spot)' if section.spot else ''}"
        )
        yield Choice(wide, section.backend, lambda _, project: GcpRunner(service, project, wide, tell))


@contextmanager
def _in_containers(image: str, settings: Settings, width: int, progress: Progress) -> Iterator[Choice]:
    from pytest_sandboxes.batch.runners.containers import ContainerRunner, Place

    with closing(Place.find(image, settings.source("runner_image"), progress)) as place:
        path = place.socket() if "docker" in settings.backends else None
        if path is None and "docker" in settings.backends:
            raise ConfigurationError(
                f"{settings.source('runner_image')} is {image!r}, and backend docker ({settings.source('backends')}) "
                "is reached from the containers of shards by the Engine's Unix socket, but this Engine is reached "
                "otherwise: use one with a socket, or leave the shards without an image"
            )
        yield Choice(width, None, lambda _, project: ContainerRunner(place, project, width, path))


def _capped(width: int, settings: Settings) -> int:
    """No more shards at once than sandboxes may exist."""
    return min(width, settings.max_sandboxes or width)

"""Images: looked up once, pulled or built once for all who wait."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pytest_sandboxes.backends.base import Progress, untold
from pytest_sandboxes.backends.docker import building, pulling
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.recipe import Recipe
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.wording import shown

DEFAULT_IMAGE = "python:3.13-slim-bookworm"
_KERNEL_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
# Seconds that others wait for who has asked first.
_OBTAIN_TIMEOUT = max(pulling.LONGEST, building.LONGEST) + 60.0


@dataclass(frozen=True)
class Image:
    """An image that the Engine has."""

    name: str
    """As the profile says it, or as what is built is called."""
    id: str
    workdir: str
    """Its own working directory, absolute."""
    user: str
    """Its own user, empty for root."""
    architecture: str
    """What it runs on, as `uname -m` says it."""
    volumes: tuple[str, ...] = ()
    """Directories of which it wants each container to have its own, beside its file system."""


class Images:
    """The images of a run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: Once[Hashable, Image] = Once()

    def get(self, name: str, progress: Progress = untold) -> Image:
        """The image called `name`, pulled if the Engine does not have it. Whoever asks first does it for all.

        Raises `BackendUnavailableError` when it cannot be had, or is for another architecture than the Engine's;
        `SandboxStartError` when the Engine has gone meanwhile.
        """
        return self._known.get(name, lambda: self._obtain(name, progress), _OBTAIN_TIMEOUT)

    def build(self, recipe: Recipe, progress: Progress = untold) -> Image:
        """The image of `recipe`, built if the Engine does not have it; as `get`."""
        return self._known.get(
            recipe,
            lambda: self._obtain(building.build(self._engine, recipe, progress), progress),
            _OBTAIN_TIMEOUT,
        )

    def derive(self, key: Hashable, make: Callable[[], str]) -> Image:
        """The image that `make` makes and returns the name of; `key` tells it from others. As `get`."""
        return self._known.get(key, lambda: self._obtain(make(), untold), _OBTAIN_TIMEOUT)

    def _obtain(self, name: str, progress: Progress) -> Image:
        described = self._look_up(name)
        if described is None:
            pulling.pull(self._engine, name, progress)
            described = self._look_up(name)
        if described is None:
            raise BackendUnavailableError(
                f"the Docker Engine at {self._engine.host} has pulled image {name!r}, and does not have it: see its log"
            )
        with self._engine.errors_as_start_errors("cannot ask for the Engine's version"):
            architecture = self._engine.api().version().get("Arch")
        if architecture and described.get("Architecture") not in (architecture, "", None):
            raise BackendUnavailableError(
                f"image {name!r} is for {described['Architecture']}, and the Docker Engine at {self._engine.host} "
                f"runs on {architecture}: use an image for {architecture}"
            )
        config = described.get("Config") or {}
        return Image(
            name,
            str(described["Id"]),
            str(config.get("WorkingDir") or "/"),
            str(config.get("User") or ""),
            _KERNEL_NAMES.get(str(architecture), str(architecture)),
            tuple(config.get("Volumes") or ()),
        )

    def _look_up(self, name: str) -> dict[str, Any] | None:
        from docker.errors import APIError, ImageNotFound

        with self._engine.errors_as_start_errors(f"cannot look up image {shown(name)}"):
            try:
                described: dict[str, Any] = self._engine.api().inspect_image(name)
            except ImageNotFound:
                return None
            except APIError as error:
                if error.status_code not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
                    raise
                raise BackendUnavailableError(
                    f"{shown(name)} is no name of an image: {one_line(str(error.explanation))}; correct the "
                    "profile's image"
                ) from None
        return described

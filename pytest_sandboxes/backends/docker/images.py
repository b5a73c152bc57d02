"""Images: looked up once, pulled once for all who wait."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError, ConfigurationError, SandboxStartError

DEFAULT_IMAGE = "python:3.13-slim-bookworm"
_KERNEL_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
PULL_TIMEOUT = 3600.0
"""Seconds that a pull may take."""


@dataclass(frozen=True)
class Image:
    """An image that the Engine has."""

    name: str
    """As the profile says it."""
    id: str
    workdir: str
    """Its own working directory, absolute."""
    user: str
    """Its own user, empty for root."""
    architecture: str
    """What it runs on, as `uname -m` says it."""


class Images:
    """The images of a run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, Future[Image]] = {}

    def get(self, name: str) -> Image:
        """The image called `name`, pulled if the Engine does not have it. Whoever asks first does it for all.

        Raises `BackendUnavailableError` when it cannot be had, or is for another architecture than the Engine's.
        """
        with self._lock:
            found = self._known.get(name)
            mine = found is None
            if found is None:
                found = self._known[name] = Future()
        if mine:
            try:
                found.set_result(self._obtain(name))
            except BaseException as error:  # noqa: BLE001 - whatever it is, all who wait have to learn of it
                with self._lock:
                    del self._known[name]  # the next one tries again
                found.set_exception(error)
        try:
            return found.result(PULL_TIMEOUT)
        except (ConfigurationError, SandboxStartError) as error:
            raise error.with_traceback(None) from None  # others may raise it as well

    def _obtain(self, name: str) -> Image:
        from docker.errors import APIError, ImageNotFound

        api = self._engine.api()
        with self._engine.errors_as_start_errors(f"cannot look up image {name}"):
            try:
                described = api.inspect_image(name)
            except ImageNotFound:
                described = None
        if described is None:
            try:
                with self._engine.errors_as_start_errors(f"cannot pull image {name}"):
                    try:
                        repository, _, tag = _split(name)
                        api.pull(repository, tag=tag)
                        described = api.inspect_image(name)
                    except APIError as error:
                        raise BackendUnavailableError(
                            f"the Docker Engine at {self._engine.host} has no image {name!r} and cannot pull it: "
                            f"{one_line(str(error.explanation or error), 300)}; correct the profile's image, log in "
                            "with docker login, or docker load it"
                        ) from None
            except SandboxStartError as error:
                raise BackendUnavailableError(str(error)) from None
        with self._engine.errors_as_start_errors("cannot ask for the Engine's version"):
            architecture = api.version().get("Arch")
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
        )


def _split(name: str) -> tuple[str, str, str | None]:
    """Repository, separator and tag of an image's name; `latest` where it says neither tag nor digest."""
    if "@" in name:
        return name, "", None
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # that colon belongs to a registry's port
        return name, "", "latest"
    return repository, colon, tag

"""Which Python runs the agent in the containers of an image: the image's own, or else the one that runs here.

That one is carried in a volume, made when an image turns out to need it and mounted read-only into all containers of
the run that do. A copy in each container would cost each its time and space, and an Engine takes none for a container
whose root is read-only.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from pytest_sandboxes.backends.carried import CannotCarryError, CarriedPython
from pytest_sandboxes.backends.docker.containers import IMAGES_OWN, Interpreter
from pytest_sandboxes.backends.docker.engine import CALL_TIMEOUT, Engine
from pytest_sandboxes.backends.docker.images import Image
from pytest_sandboxes.backends.docker.removal import remove, remove_volume
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.errors import SandboxStartError

DIRECTORY = PurePosixPath("/.pytest-sandboxes")
"""Where a container has the carried one: a name that neither images nor code have another use for."""

_MAKING_TIMEOUT = 6 * CALL_TIMEOUT  # packing, and five calls of the Engine


class NoAgentError(Exception):
    """No interpreter runs an agent in an image; says why."""


class Interpreters:
    """The interpreters of a run's images. Its methods may be called from any thread."""

    def __init__(self, engine: Engine, volume: str, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self._volume = volume
        self._labels = dict(labels)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._chosen: dict[str, Interpreter] = {}
        self._without: dict[str, str] = {}
        self._had_agents: set[str] = set()
        self._carried: Once[None, Interpreter] = Once()
        self._volumes: set[str] = set()

    def chosen(self, image: Image) -> Interpreter | None:
        """The one that has been chosen for `image`, None if none has."""
        with self._lock:
            return self._chosen.get(image.id)

    def why_none(self, image: Image) -> str:
        """Why no interpreter can run an agent in `image`, empty where one can or none has been tried yet."""
        with self._lock:
            return self._without.get(image.id, "")

    def choose(self, image: Image, try_out: Callable[[Interpreter], str]) -> Interpreter:
        """Choose for `image` the first interpreter of which `try_out` has nothing to complain.

        Raises `NoAgentError` when there is none, `SandboxStartError` when the Engine fails, or when there is none any
        more: a run does not change what serves its sandboxes.
        """
        if why := self.why_none(image):
            raise NoAgentError(why)
        chosen = self.chosen(image) or IMAGES_OWN
        complaint = try_out(chosen)
        if complaint and not chosen.is_ours:
            try:
                chosen = self._carried.get(None, lambda: self._carry(image), _MAKING_TIMEOUT)
            except CannotCarryError as error:
                raise self._none(
                    image, f"{complaint}; and the Python that runs pytest cannot be carried there: {error}"
                ) from None
            again = try_out(chosen)
            complaint = again and f"{complaint}; and the Python that runs pytest, carried there: {again}"
        if complaint:
            raise self._none(image, complaint)
        with self._lock:
            self._chosen[image.id] = chosen
            self._had_agents.add(image.id)
        return chosen

    def _none(self, image: Image, complaint: str) -> Exception:
        with self._lock:
            if image.id in self._had_agents:
                return SandboxStartError(
                    f"image {image.name!r} does not run a sandbox's agent any more: {complaint}"
                )
            self._without[image.id] = complaint
        return NoAgentError(complaint)

    def forget(self, failed: Interpreter) -> None:
        """Carry another one next time: with this one no container started, so its volume may be gone or empty."""
        if not failed.volume:
            return
        with self._lock:
            self._chosen = {image: each for image, each in self._chosen.items() if each is not failed}
        self._carried.forget(None, failed)
        self._remove(failed.volume)

    def close(self) -> None:
        """Remove what has been carried, but where a sandbox that is kept needs it: a later run sweeps it."""
        with self._lock:
            volumes = list(self._volumes)
        for volume in volumes:
            self._remove(volume)

    def _carry(self, image: Image) -> Interpreter:
        """The Python that runs here, brought to where a container of `image` can have it.

        Raises `CannotCarryError` when it would not run there.
        """
        from docker.types import Mount

        packed = CarriedPython.pack(DIRECTORY, image.architecture)
        api = self._engine.api()
        name = f"{self._volume}-{next(self._numbers)}"
        with self._lock:
            self._volumes.add(name)
        with self._engine.errors_as_start_errors(f"cannot carry Python to image {image.name}"):
            api.create_volume(name, labels=self._labels)
            made = api.create_container(  # never started: it is the way into the volume
                image.id,
                entrypoint=["none"],
                name=name,
                labels=self._labels,
                host_config=api.create_host_config(
                    network_mode="none", mounts=[Mount(str(DIRECTORY), name, no_copy=True)]
                ),
            )["Id"]
            try:
                api.put_archive(made, str(DIRECTORY), packed.archive)
            finally:
                remove(api, made)
        return Interpreter((*packed.command, "-c"), is_ours=True, volume=name, mounted_at=str(DIRECTORY))

    def _remove(self, volume: str) -> None:
        with (
            contextlib.suppress(SandboxStartError),  # the next run sweeps it
            self._engine.errors_as_start_errors(f"cannot remove volume {volume}"),
        ):
            remove_volume(self._engine.api(), volume)

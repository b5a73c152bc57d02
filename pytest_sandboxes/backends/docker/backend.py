"""What the backend promises, and how its sandboxes come to be."""

from __future__ import annotations

import itertools
import secrets

from pytest_sandboxes.backends.base import Backend, BackendOptions, Checked
from pytest_sandboxes.backends.docker import containers, janitor
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import DEFAULT_IMAGE, Images
from pytest_sandboxes.backends.promises import Promises
from pytest_sandboxes.errors import BackendUnavailableError, SandboxStartError
from pytest_sandboxes.profiles import Profile

_RECIPES = ("app_name", "max_lifetime", "idle_timeout", "max_uses", "scaledown_window")
_NOT_HERE = {
    "secrets": "pass values with exec(env=…)",
    "setup": "run the commands in a fixture, or build an image that has run them",
    "workspace_source": "use sandbox.upload() in a fixture",
}


class DockerBackend(Backend):
    """Containers of the Docker Engine that the `docker` command would use."""

    name = "docker"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._engine = Engine()
        self._images = Images(self._engine)
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._swept = False

    def check(self, profile: Profile) -> Checked:
        """See `Backend.check`."""
        promises = Promises(profile, self._options)
        promises.need_room_for_agent()
        promises.refuse_set(_NOT_HERE, "backend docker has none yet")
        if profile.docker:
            promises.refuse("docker", "backend docker has no settings of its own yet")
        if profile.network != "none":
            promises.refuse("network", "backend docker gives its sandboxes no network yet")
        if profile.isolation == "sandbox":
            if profile.disk is not None:
                promises.refuse("disk", "the image's own file system has no limit with isolation sandbox")
        elif profile.user is not None:
            promises.refuse("user", "with isolation slot, code runs as a user that nobody else has")
        return promises.checked(_RECIPES)

    def check_machine(self, profile: Profile) -> None:
        """See `Backend.check_machine`."""
        if not self._swept:
            janitor.sweep(self._engine)
            self._swept = True
        image = profile.image or DEFAULT_IMAGE
        self._images.get(image)
        try:
            launched = self.launch(profile)
        except SandboxStartError as error:
            raise BackendUnavailableError(str(error)) from None
        complaint = containers.greet(launched)
        if complaint:
            raise BackendUnavailableError(
                f"python3 of image {image!r} cannot run a sandbox's agent, which needs 3.8 or newer: {complaint}"
            )

    def launch(self, profile: Profile) -> containers.Container:
        """See `Backend.launch`."""
        image = self._images.get(profile.image or DEFAULT_IMAGE)
        name = f"{janitor.PREFIX}{self._run}-{next(self._numbers)}"
        return containers.start(self._engine, profile, image, name, janitor.labels(self._run))

    def close(self) -> None:
        """See `Backend.close`."""
        self._engine.close()

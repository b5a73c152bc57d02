"""What the backend promises, and how its sandboxes come to be."""

from __future__ import annotations

import itertools
import secrets

from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.backends.docker import containers, janitor
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import DEFAULT_IMAGE, Images
from pytest_sandboxes.errors import BackendUnavailableError, SandboxStartError, UnsupportedError
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

    def check(self, profile: Profile) -> tuple[str, ...]:
        """See `Backend.check`."""
        default = Profile()
        for field, who in _NOT_HERE.items():
            if getattr(profile, field) != getattr(default, field):
                self._refuse(profile, field, f"backend docker has none yet: {who}")
        if profile.docker:
            self._refuse(profile, "docker", "backend docker has no settings of its own yet")
        if profile.network != "none":
            self._refuse(profile, "network", "backend docker gives its sandboxes no network yet")
        if profile.isolation == "sandbox":
            if profile.disk is not None:
                self._refuse(
                    profile, "disk", "the image's own file system has no limit with isolation sandbox"
                )
        elif profile.user is not None:
            self._refuse(profile, "user", "with isolation slot, code runs as a user that nobody else has")
        unused = [field for field in _RECIPES if getattr(profile, field) != getattr(default, field)]
        if profile.slots_per_sandbox > 1:
            unused.append("slots_per_sandbox")
        return tuple(unused)

    def _refuse(self, profile: Profile, field: str, why: str) -> None:
        if not self._options.best_effort:
            raise UnsupportedError(
                f"{profile.source(field)}: {field} of profile {profile.name!r} cannot be kept: {why}"
                f"{self._options.escape}"
            )

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
